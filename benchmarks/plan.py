"""How long `plan` and `validate` take, beside the imports they could not do without.

Whole processes, run in turn in one go, so that the machine's mood hits all alike; what
counts is the ratio.  Also: how `plan` grows from 1 to 200 stacks.

    python benchmarks/plan.py
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

ROUNDS = 15
STACKS = 200
FLOOR = (sys.executable, "-c", "import pydantic, click, yaml")

STACK = """\
version: 1
name: NAME
engine: local
llama_cpp: {tag: b10434, binary: server/llama-server}
model: {path: tiny.gguf, alias: tiny}
server: {ctx_size: 4096, parallel: 2, flash_attn: auto, mmap: false, metrics: true}
auth: {api_key: {env: LLAMA_API_KEY}}
local: {port: 8080}
gates: {health: {}, build: {}, props: {}, auth: {}, chat: {}, stream: {ttft: 2s}}
"""


def main() -> None:
    """Print the medians and their ratios."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        environment = {**os.environ, "DEPLOYER_HOME": str(folder / "home")}
        stacks = prepare(folder)
        deployer = (sys.executable, "-m", "deployer")
        lock = (*deployer, "lock", str(stacks))
        subprocess.run(lock, env=environment, check=True, capture_output=True)
        one = str(stacks / "stack-000.yaml")
        commands = {
            "floor: import pydantic, click, yaml": FLOOR,
            "deployer version": (*deployer, "version"),
            "deployer validate, one stack": (*deployer, "validate", one),
            "deployer plan, one stack": (*deployer, "plan", one),
            f"deployer plan, {STACKS} stacks": (*deployer, "plan", str(stacks)),
        }
        times = measure(commands, environment)
        report(times)


def prepare(folder: Path) -> Path:
    """Stacks with a binary and a model that `plan` can look at."""
    stacks = folder / "stacks"
    (stacks / "server").mkdir(parents=True)
    binary = stacks / "server" / "llama-server"
    binary.write_bytes(Path(sys.executable).resolve().read_bytes())
    binary.chmod(0o755)
    (stacks / "tiny.gguf").write_bytes(b"GGUF" + bytes(60))
    for number in range(STACKS):
        name = f"stack-{number:03}"
        (stacks / f"{name}.yaml").write_text(STACK.replace("NAME", name))
    return stacks


def measure(
    commands: Mapping[str, tuple[str, ...]], environment: Mapping[str, str]
) -> Mapping[str, list[float]]:
    """Wall seconds of every command, in turn; one round first warms the caches."""
    times: dict[str, list[float]] = {name: [] for name in commands}
    for number in range(ROUNDS + 1):
        for name, command in commands.items():
            begun = time.perf_counter()
            subprocess.run(command, env=environment, check=True, capture_output=True)
            if number:
                times[name].append(time.perf_counter() - begun)
    return times


def report(times: Mapping[str, list[float]]) -> None:
    """A table: median, best, and the median of the ratios pair by pair."""
    floor = next(iter(times.values()))
    print(f"{'':<38}{'median':>9}{'best':>9}{'x floor':>9}")
    for name, taken in times.items():
        ratio = statistics.median(a / b for a, b in zip(taken, floor, strict=True))
        median, best = statistics.median(taken) * 1000, min(taken) * 1000
        print(f"{name:<38}{median:>6.0f} ms{best:>6.0f} ms{ratio:>9.2f}")
    *_, one, many = (statistics.median(taken) for taken in times.values())
    each = (many - one) / (STACKS - 1) * 1000
    print(f"\neach stack beyond the first: {each:.2f} ms")


if __name__ == "__main__":
    main()
