"""The plan of a pull request: 50 stacks that share a base, 2 of them changed.

Run: python benchmarks/pull_request.py [ROUNDS]

Every round starts cold: a fresh `DEPLOYER_HOME`, so that nothing is remembered.  Each
stack has a lock file, and the network is out of reach (`unshare -n`, where that is
allowed), so that a plan that asked for anything would fail.
"""

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

STACKS = 50
CHANGED = 2
LIMIT_SECONDS = 2.0
TEXT = """\
version: 1
name: s{number}
extends: base.yaml
llama_cpp: {{tag: b10434, binary: ../llama-server}}
model: {{path: ../tiny.gguf, alias: tiny-{number}}}
local: {{port: {port}}}
"""
BASE = """\
version: 1
engine: local
server: {ctx_size: 1024, parallel: 2, mmap: false, metrics: true}
auth: {api_key: {env: LLAMA_API_KEY}}
gates: {health: {}, chat: {}, stream: {ttft: 2s}}
"""


def main() -> None:
    """Print the median and the worst of some cold rounds."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        prepare(folder)
        times = [one_round(folder) for _ in range(rounds)]
    median, worst = statistics.median(times), max(times)
    print(f"{STACKS} stacks, {CHANGED} changed, {os.cpu_count()} cores, cold, offline")
    print(f"median {median:.2f} s, worst {worst:.2f} s of {rounds}")
    print(f"limit {LIMIT_SECONDS} s: {'kept' if worst < LIMIT_SECONDS else 'missed'}")


def prepare(folder: Path) -> None:
    """A repository of locked stacks, then the change."""
    stacks = folder / "stacks"
    stacks.mkdir()
    binary = folder / "llama-server"
    binary.write_bytes(Path(sys.executable).read_bytes()[:4096])
    binary.chmod(0o755)
    (folder / "tiny.gguf").write_bytes(b"GGUF\x03\0\0\0" + bytes(100))
    (stacks / "base.yaml").write_text(BASE, encoding="utf-8")
    for number in range(STACKS):
        text = TEXT.format(number=number, port=9000 + number)
        (stacks / f"s{number}.yaml").write_text(text, encoding="utf-8")
    run(folder, "git", "init", "-q")  # the project that the files of stacks lie in
    run(folder, sys.executable, "-m", "deployer", "lock", "stacks")
    run(folder, "git", "add", "--all", ":!home")
    who = ("-c", "user.name=b", "-c", "user.email=b@example.com")
    run(folder, "git", *who, "commit", "-qm", "stacks")
    for number in range(CHANGED):
        file = stacks / f"s{number}.yaml"
        file.write_text(file.read_text(encoding="utf-8") + "rollout: {keep: 5}\n")


def one_round(folder: Path) -> float:
    """Seconds of the plan, from the start of Python to its end."""
    shutil.rmtree(folder / "home", ignore_errors=True)
    words = ("plan", "stacks", "--changed-since", "HEAD", "--format", "markdown")
    argv = [sys.executable, "-m", "deployer", *words, "--locked"]
    offline = subprocess.run(["unshare", "-n", "true"], check=False).returncode == 0  # noqa: S607 - a system program
    begun = time.perf_counter()
    out = run(folder, *(("unshare", "-n") if offline else ()), *argv)
    seconds = time.perf_counter() - begun
    if f"{CHANGED} of {STACKS} stacks would change" not in out:
        sys.exit(out[:500])
    return seconds


def run(folder: Path, *argv: str) -> str:
    """Run a program; its failure ends the benchmark."""
    root = str(Path(__file__).parents[1])
    home = str(folder / "home")
    environment = {**os.environ, "DEPLOYER_HOME": home, "PYTHONPATH": root}
    done = subprocess.run(
        argv, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    return done.stdout


if __name__ == "__main__":
    main()
