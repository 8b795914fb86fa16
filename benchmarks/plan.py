"""What starting up costs: CPU time of whole processes, in turn with an empty Python.

    python benchmarks/plan.py [ROUNDS]

The processor's time and not the clock's, so that other programs count little; each
call alternately with `python -c pass`, and the median of the ratios pair by pair, so
that the machine's mood counts little too.  Bytecode is compiled first, as any
installation does.
"""

import compileall
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import deployer

ROUNDS = 15
STACKS = 200
FLOOR = (sys.executable, "-c", "pass")
COMMAND = (sys.executable, "-m", "deployer")

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


@dataclass(frozen=True, slots=True)
class Cost:
    """What one process took."""

    cpu: float
    """Seconds in user and system mode."""
    peak: int
    """KiB that were resident at most."""


@dataclass(frozen=True, slots=True)
class Ratio:
    """What a call takes, and as a multiple of an empty Python."""

    median: float
    best: float
    times: float
    peak: int


def main() -> None:
    """Print the medians and their ratios."""
    rounds = int(sys.argv[1]) if sys.argv[1:] else ROUNDS
    compileall.compile_dir(Path(deployer.__file__).parent, quiet=1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        environment = {**os.environ, "DEPLOYER_HOME": str(folder / "home")}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        stacks = prepare(folder, environment)
        report(measure(calls(stacks), environment, rounds))


def calls(stacks: Path) -> Mapping[str, tuple[str, ...]]:
    """The calls that are measured, by what they show."""
    one = str(stacks / "stack-000.yaml")
    return {
        "--version": (*COMMAND, "--version"),
        "--help": (*COMMAND, "--help"),
        "plan, prepared before": (*COMMAND, "plan", one),
        "plan, everything read": (*COMMAND, "plan", one, "--no-cache"),
        "validate, everything read": (*COMMAND, "validate", one),
        f"plan of {STACKS}, prepared before": (*COMMAND, "plan", str(stacks)),
        "import pydantic, click, yaml": (
            *(sys.executable, "-c"),
            "import pydantic, click, yaml",
        ),
    }


def prepare(folder: Path, environment: Mapping[str, str]) -> Path:
    """Locked stacks with a binary and a model that `plan` can look at."""
    stacks = folder / "stacks"
    (stacks / "server").mkdir(parents=True)
    binary = stacks / "server" / "llama-server"
    binary.write_bytes(Path(sys.executable).resolve().read_bytes())
    binary.chmod(0o755)
    (stacks / "tiny.gguf").write_bytes(b"GGUF\x03\0\0\0" + bytes(100))
    for number in range(STACKS):
        name = f"stack-{number:03}"
        (stacks / f"{name}.yaml").write_text(STACK.replace("NAME", name))
    lock = (*COMMAND, "lock", str(stacks))
    subprocess.run(lock, env=environment, check=True, capture_output=True)
    return stacks


def measure(
    commands: Mapping[str, tuple[str, ...]],
    environment: Mapping[str, str],
    rounds: int = ROUNDS,
) -> Mapping[str, Ratio]:
    """Every command in turn with the floor; two rounds first fill the cache."""
    costs: dict[str, list[Cost]] = {name: [] for name in commands}
    floors: dict[str, list[float]] = {name: [] for name in commands}
    for number in range(rounds + 2):
        for name, command in commands.items():
            floor, cost = spent(FLOOR, environment), spent(command, environment)
            if number >= 2:
                floors[name].append(floor.cpu)
                costs[name].append(cost)
    return {name: _ratio(costs[name], floors[name]) for name in commands}


def spent(command: tuple[str, ...], environment: Mapping[str, str]) -> Cost:
    """What a process takes, as the kernel counts it."""
    quiet = (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)
    pid = os.posix_spawn(command[0], command, environment, file_actions=[quiet])
    _, status, usage = os.wait4(pid, 0)
    if code := os.waitstatus_to_exitcode(status):
        raise RuntimeError(f"{' '.join(command)}: exit code {code}")
    return Cost(usage.ru_utime + usage.ru_stime, usage.ru_maxrss)


def _ratio(costs: list[Cost], floors: list[float]) -> Ratio:
    taken = [cost.cpu for cost in costs]
    return Ratio(
        median=statistics.median(taken),
        best=min(taken),
        times=statistics.median(a / b for a, b in zip(taken, floors, strict=True)),
        peak=max(cost.peak for cost in costs),
    )


def report(ratios: Mapping[str, Ratio]) -> None:
    """A table: median, best, times an empty Python, peak of memory."""
    print(f"{'':<34}{'median':>9}{'best':>9}{'x floor':>9}{'peak':>11}")
    for name, it in ratios.items():
        times = f"{it.median * 1000:>6.0f} ms{it.best * 1000:>6.0f} ms"
        print(f"{name:<34}{times}{it.times:>9.2f}{it.peak / 1024:>7.1f} MiB")


if __name__ == "__main__":
    main()
