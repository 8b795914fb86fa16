"""What `plan` and `validate` cost for 1 to 1,000 stacks: time, and memory a stack.

Whole processes, all sizes in turn, so that the machine's mood hits all alike.
*Prepared*: every stack was planned before.  *Unread*: none was, as on a fresh machine.

    python -m benchmarks.many
"""

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.plan import STACK
from tests.models import tiny

ROUNDS = 5
COUNTS = (1, 10, 100, 1000)
PROGRAM = """
import os, runpy, sys
run, status = os.getpid(), sys.argv.pop(1)
try:
    runpy.run_module("deployer", run_name="__main__", alter_sys=True)
finally:
    if os.getpid() == run:
        with open("/proc/self/status") as told, open(status, "w") as kept:
            kept.write(told.read())
"""
"""Runs deployer, and writes down how much memory it took at most.

What the kernel tells whoever started it begins with the memory of that one.
"""
WAYS: Mapping[str, tuple[str, bool]] = {
    "plan, prepared": ("plan", True),
    "plan, unread": ("plan", False),
    "validate, unread": ("validate", False),
}
"""By name: the command, and whether the stacks were prepared before."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What one run came to."""

    wall: float
    cpu: float
    peak: float
    """Bytes of memory of the process itself."""


def main() -> None:
    """Print the medians, and what a stack more costs."""
    costs = measured()
    print(f"{os.cpu_count()} cores; medians of {ROUNDS} rounds, all ways in turn.")
    print("CPU time, and in brackets the time that passed.\n")
    heads = [f"{count} stacks" for count in COUNTS]
    print(f"| | {' | '.join(heads)} | CPU a stack more | memory a stack more |")
    print("|---|" + "---|" * (len(COUNTS) + 2))
    for way in WAYS:
        cpu, wall, peak = (
            [_median(costs[f"{way}, {n}"], name) for n in COUNTS]
            for name in ("cpu", "wall", "peak")
        )
        more = COUNTS[-1] - COUNTS[0]
        slope, growth = (cpu[-1] - cpu[0]) / more, (peak[-1] - peak[0]) / more
        pairs = zip(cpu, wall, strict=True)
        cells = " | ".join(f"{c * 1000:.0f} ({w * 1000:.0f}) ms" for c, w in pairs)
        print(f"| {way} | {cells} | {slope * 1000:.2f} ms | {growth / 1000:.1f} kB |")


def measured(
    rounds: int = ROUNDS, counts: Sequence[int] = COUNTS
) -> Mapping[str, list[Cost]]:
    """What every way costs at every size, by both names."""
    costs: dict[str, list[Cost]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = prepare(folder, max(counts))
        for _ in range(rounds):
            for way, count, cost in _round(folder, files, counts):
                costs.setdefault(f"{way}, {count}", []).append(cost)
    return costs


def _median(costs: Sequence[Cost], name: str) -> float:
    return statistics.median(float(getattr(cost, name)) for cost in costs)


def prepare(folder: Path, count: int) -> list[Path]:
    """Stacks that are locked, with a binary and a model that `plan` can look at."""
    stacks = folder / "stacks"
    (stacks / "server").mkdir(parents=True)
    binary = stacks / "server" / "llama-server"
    binary.write_bytes(Path(sys.executable).resolve().read_bytes())
    binary.chmod(0o755)
    tiny.write(stacks / "tiny.gguf")
    files = [stacks / f"stack-{number:04}.yaml" for number in range(count)]
    for file in files:
        file.write_text(STACK.replace("NAME", file.stem), encoding="utf-8")
    _run(folder, "lock", files)
    return files


def _round(
    folder: Path, files: Sequence[Path], counts: Sequence[int]
) -> Iterator[tuple[str, int, Cost]]:
    for count in counts:
        for way, (command, prepared) in WAYS.items():
            if not prepared:
                shutil.rmtree(folder / "home" / "cache", ignore_errors=True)
            else:
                _run(folder, command, files[:count])
            yield way, count, _run(folder, command, files[:count])


def _run(folder: Path, command: str, files: Sequence[Path]) -> Cost:
    """What a command costs; raises where it fails."""
    environment = {**os.environ, "DEPLOYER_HOME": str(folder / "home")}
    status = folder / "status"
    program = (sys.executable, "-c", PROGRAM, str(status))
    argv = (*program, command, *map(str, files))
    begun = time.perf_counter()
    with subprocess.Popen(argv, env=environment, stdout=subprocess.DEVNULL) as process:
        _, code, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(code)
    wall = time.perf_counter() - begun
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, argv[:5])
    lines = status.read_text(encoding="ascii").splitlines()
    (peak,) = (line.split()[1] for line in lines if line.startswith("VmHWM:"))
    return Cost(wall, usage.ru_utime + usage.ru_stime, float(peak) * 1024)


if __name__ == "__main__":
    main()
