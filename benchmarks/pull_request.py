"""The plan of a pull request: 50 stacks that share a base, 2 of them changed.

Every round starts cold: a fresh `DEPLOYER_HOME`, so that nothing is remembered.  Each
stack has a lock file, and the network is out of reach, so that a plan that asked for
anything would fail.
"""

import os
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

from benchmarks.applied import do, ours, variables
from benchmarks.processes import (
    Command,
    Launcher,
    floors,
    in_turn,
    median_of,
    samples_of,
)
from benchmarks.result import Result, Run, Table

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


def pull_request(run: Run) -> Result:
    """Cold rounds of one plan."""
    home = run.folder / "home"
    prepare(run.folder, home)
    words = ("plan", "stacks", "--changed-since", "HEAD", "--format", "markdown")
    command = Command(
        "plan of a pull request",
        (*ours(), *words, "--locked"),
        run.folder,
        variables(home),
        expects=f"{CHANGED} of {STACKS} stacks would change",
        before=lambda: shutil.rmtree(home, ignore_errors=True),
    )
    with Launcher.started() as launcher:
        turns = in_turn(launcher, None, [command], run.rounds)
    found = turns[command.name]
    row = (
        *(command.name, f"{median_of(found, 'wall'):.2f}"),
        *(f"{max(turn.it.wall for turn in found):.2f}", f"{LIMIT_SECONDS:g}"),
        *(f"{median_of(found, 'cpu'):.2f}", f"{statistics.median(floors(found)):.0f}"),
        f"{median_of(found, 'peak') / 2**20:.0f}",
    )
    head = (
        *("", "median s", "worst s", "limit s", "CPU s"),
        *("× `python -c pass`", "peak MiB"),
    )
    return Result(
        title="The plan of a pull request",
        about=(
            (
                f"`plan --changed-since --format markdown --locked`: {STACKS} stacks"
                f" that share a base, {CHANGED} of them changed; {run.rounds} rounds,"
                f" {os.cpu_count()} cores."
            ),
            "Each round starts cold, with nothing remembered.",
        ),
        tables=(Table(head, (row,)),),
        samples=samples_of(turns),
    )


def prepare(folder: Path, home: Path) -> None:
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
    git = shutil.which("git") or "git"
    subprocess.run((git, "init", "-q"), cwd=folder, check=True)
    do(folder, home, "lock", "stacks")
    who = ("-c", "user.name=b", "-c", "user.email=b@example.com")
    for words in (
        ("add", "--all", ":!home"),
        (*who, "commit", "-qm", "stacks"),
    ):
        subprocess.run((git, *words), cwd=folder, check=True)
    for number in range(CHANGED):
        file = stacks / f"s{number}.yaml"
        file.write_text(file.read_text(encoding="utf-8") + "rollout: {keep: 5}\n")
