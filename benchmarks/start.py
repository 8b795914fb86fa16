"""How soon a server answers: started by hand, by deployer, and from a snapshot.

Every way is a whole command, from its first moment to the first token that a client
gets, seen from outside in the same way.  They take turns in one run.
"""

import os
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import psutil

from benchmarks.answering import Times, by_hand, end, watch
from benchmarks.applied import BUILD, MODEL, Applied, applied, ours, variables
from benchmarks.processes import MeasureError
from benchmarks.result import Bar, Bars, Result, Run, Table
from deployer.engines.local.ports import listeners

MODES: Mapping[str, bool] = {"weights in memory": False, "weights mapped": True}
"""`server.mmap` of the stack."""
HAND, RESTORED = "llama-server by hand", "start, from snapshot"
OURS = "deployer server start"
RESTORES = "restored from its snapshot"
_KEY_FILE = "--api-key-file"
_LOOKS = 64


@dataclass(frozen=True, slots=True)
class Start:
    """One way to bring a server up, measured and ended again."""

    way: str
    mode: str
    cold: bool
    files: Sequence[Path]
    """What is read from disk, or from the page cache."""
    run: Callable[[], Times]

    @property
    def name(self) -> str:
        """What it is called in tables."""
        cache = "files on disk" if self.cold else "files in the page cache"
        return f"{self.way}, {self.mode}, {cache}"


def start(run: Run) -> Result:
    """Both ways to hold the weights, each from disk and from the page cache."""
    notes: list[str] = []
    with ExitStack() as stack:
        starts = [
            one
            for mode, mapped in MODES.items()
            for one in _starts(run, stack, mode, mapped=mapped, notes=notes)
        ]
        found: dict[str, list[Times]] = {one.name: [] for one in starts}
        for number in range(run.rounds + 1):
            run.say(f"round {number} of {run.rounds}" if number else "warming up")
            for one in starts[:: -1 if number % 2 else 1]:
                (drop if one.cold else read)(one.files)
                times = one.run()
                if number:
                    found[one.name].append(times)
    return _result(run, starts, found, notes)


def _starts(
    run: Run, stack: ExitStack, mode: str, *, mapped: bool, notes: list[str]
) -> Iterator[Start]:
    """Every way for one kind of weights; the stacks are live and stopped."""
    name = "mapped" if mapped else "held"
    plain = stack.enter_context(applied(run, name, mmap=mapped))
    argv = command_line(plain.port)
    plain.do("stop", plain.path)
    log = run.folder / f"{name}.log"
    files = tuple(plain.files())
    ways = {
        HAND: (files, partial(_by_hand, argv, plain.port, log)),
        OURS: (files, partial(_ours, plain)),
    }
    try:
        frozen = stack.enter_context(
            applied(run, f"{name}-frozen", mmap=mapped, snapshot=True)
        )
        frozen.do("stop", frozen.path)
        act = partial(_ours, frozen, expects=RESTORES)
        ways[RESTORED] = (tuple(frozen.files()), act)
    except MeasureError as error:
        notes.append(f"Nothing is restored, {mode}: {error}")
    for cold in (True, False):
        for way, (files, act) in ways.items():
            yield Start(way, mode, cold, files, act)


def command_line(port: int) -> tuple[str, ...]:
    """What runs on a port, less the file that its key came in."""
    (server,) = listeners(port)
    words = psutil.Process(server.pid).cmdline()
    if _KEY_FILE in words:
        at = words.index(_KEY_FILE)
        words[at : at + 2] = []
    return tuple(words)


def _by_hand(argv: Sequence[str], port: int, log: Path) -> Times:
    begun = time.monotonic()
    process = by_hand(argv, log)
    try:
        return watch(port, begun, lambda: process.poll() is None)
    finally:
        end(process)


def _ours(stack: Applied, *, expects: str = "") -> Times:
    """`deployer server start`; raises MeasureError where it came up in another way."""
    begun = time.monotonic()
    with subprocess.Popen(
        (*ours(), "start", stack.path),
        cwd=stack.file.parent.parent,
        env=variables(stack.home),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        times = watch(stack.port, begun, lambda: not process.poll())
        said, _ = process.communicate()
    stack.do("stop", stack.path)
    if process.returncode or expects not in said:
        raise MeasureError(f"not what was to be measured: {said[-500:]}")
    return times


def read(files: Sequence[Path]) -> None:
    """Have all files in the page cache."""
    for file in files:
        with file.open("rb", buffering=0) as stream:
            while stream.read(2**22):
                pass


def drop(files: Sequence[Path]) -> None:
    """Have no file in the page cache; raises MeasureError where much of one stays."""
    for file in files:
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            size = os.fstat(descriptor).st_size
            kept = _kept(descriptor, size) if size > 2**26 else 0
        finally:
            os.close(descriptor)
        if kept > _LOOKS // 4:
            raise MeasureError(f"{file.name} stays in the page cache")


def _kept(descriptor: int, size: int) -> int:
    """Of some places in a file, how many are in memory; looking reads nothing."""
    kept = 0
    for number in range(_LOOKS):
        with suppress(BlockingIOError):
            kept += os.preadv(
                descriptor, [bytearray(1)], size // _LOOKS * number, os.RWF_NOWAIT
            )
    return kept


def _result(
    run: Run,
    starts: Sequence[Start],
    found: Mapping[str, Sequence[Times]],
    notes: Sequence[str],
) -> Result:
    by_place = {(s.way, s.mode, s.cold): found[s.name] for s in starts}
    tables, bars = [], []
    for cold in (True, False):
        rows = []
        for one in (it for it in starts if it.cold is cold):
            times, hand = found[one.name], by_place[HAND, one.mode, cold]
            rows.append(_row(one, times, hand))
            if one.mode == "weights in memory":
                tokens = tuple(it.first_token for it in times)
                label = f"{one.way}, {'disk' if cold else 'page cache'}"
                bars.append(Bar(label, tokens, ours=one.way != HAND))
        title = "Files on disk" if cold else "Files in the page cache"
        head = ("", "port open s", "healthy s", "first token s (spread)", "× by hand")
        tables.append(Table(head, tuple(rows), title))
    return Result(
        title="From start to the first token",
        about=(
            f"{MODEL}, {BUILD}, {os.cpu_count()} cores; the same options for all.",
            (
                f"{run.rounds} rounds after one that warms up, in which all ways take"
                " turns; seen from outside, from the first moment of the command."
            ),
            (
                "`deployer server start` counts whole, its own imports included; by"
                " hand the key comes from the environment."
            ),
            (
                "On disk: build, weights and image were dropped from the page cache"
                " before each start (not below a hypervisor, which may keep them)."
            ),
            "Ratios are of the first token, the median of pairs of one round.",
        ),
        tables=tuple(tables),
        plots=(
            Bars(
                "start", "Start to first token, weights in memory", "seconds", (*bars,)
            ),
        ),
        notes=tuple(notes),
        samples={name: [asdict(it) for it in times] for name, times in found.items()},
    )


def _row(one: Start, times: Sequence[Times], hand: Sequence[Times]) -> tuple[str, ...]:
    tokens = [it.first_token for it in times]
    ratios = [
        it.first_token / other.first_token
        for it, other in zip(times, hand, strict=True)
    ]
    return (
        f"{one.way}, {one.mode}",
        f"{statistics.median(it.port for it in times):.2f}",
        f"{statistics.median(it.healthy for it in times):.2f}",
        f"{statistics.median(tokens):.2f} ({min(tokens):.2f}-{max(tokens):.2f})",
        f"{statistics.median(ratios):.2f}",
    )
