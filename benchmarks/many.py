"""What `plan` and `validate` cost for 1 to 1,000 stacks: time, and memory a stack.

Whole processes, all sizes in turn, so that the machine's mood hits all alike.  *Kept*:
every stack was planned before.  *Unread*: none was, as on a fresh machine; on one core
nobody helps, on all of them helpers read ahead (`deployer/app/helpers.py`).

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
from pathlib import Path

from tests.models import tiny

ROUNDS = 5
COUNTS = (1, 10, 100, 1000)
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
WAYS: Mapping[str, tuple[str, bool, bool]] = {
    "plan, kept": ("plan", True, True),
    "plan, unread, one core": ("plan", False, True),
    "plan, unread, all cores": ("plan", False, False),
    "validate, unread, one core": ("validate", False, True),
}
"""By name: the command, whether answers are kept, and whether it has one core."""


def main() -> None:
    """Print the medians, and what a stack more costs."""
    seconds, memory = measured()
    print(f"{os.cpu_count()} cores; medians of {ROUNDS} rounds, all ways in turn.\n")
    heads = [f"{count} stacks" for count in COUNTS]
    print(f"| | {' | '.join(heads)} | a stack more | memory a stack more |")
    print("|---|" + "---|" * (len(COUNTS) + 2))
    for way in WAYS:
        medians = [statistics.median(seconds[f"{way}, {n}"]) for n in COUNTS]
        peaks = [statistics.median(memory[f"{way}, {n}"]) for n in COUNTS]
        more = COUNTS[-1] - COUNTS[0]
        slope, growth = (medians[-1] - medians[0]) / more, (peaks[-1] - peaks[0]) / more
        cells = " | ".join(f"{median * 1000:.0f} ms" for median in medians)
        print(f"| {way} | {cells} | {slope * 1000:.2f} ms | {growth / 1000:.1f} kB |")


def measured(
    rounds: int = ROUNDS, counts: Sequence[int] = COUNTS
) -> tuple[Mapping[str, list[float]], Mapping[str, list[float]]]:
    """Wall seconds, and peak bytes of memory, of every way at every size."""
    seconds: dict[str, list[float]] = {}
    memory: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = prepare(folder, max(counts))
        for _ in range(rounds):
            for way, count, taken, peak in _round(folder, files, counts):
                seconds.setdefault(f"{way}, {count}", []).append(taken)
                memory.setdefault(f"{way}, {count}", []).append(peak)
    return seconds, memory


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
) -> Iterator[tuple[str, int, float, float]]:
    for count in counts:
        for way, (command, kept, alone) in WAYS.items():
            shutil.rmtree(folder / "home" / "cache", ignore_errors=True)
            if kept:
                _run(folder, command, files[:count])
            begun = time.perf_counter()
            peak = _run(folder, command, files[:count], alone=alone)
            yield way, count, time.perf_counter() - begun, peak


def _run(
    folder: Path, command: str, files: Sequence[Path], *, alone: bool = False
) -> float:
    """The peak of memory of the command, in bytes; raises where it fails."""
    environment = {**os.environ, "DEPLOYER_HOME": str(folder / "home")}
    cores = sorted(os.sched_getaffinity(0))
    taskset = ("taskset", "-c", str(cores[0])) if alone else ()
    argv = (*taskset, sys.executable, "-m", "deployer", command, *map(str, files))
    with subprocess.Popen(argv, env=environment, stdout=subprocess.DEVNULL) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, argv[:5])
    return usage.ru_maxrss * 1024.0


if __name__ == "__main__":
    main()
