"""What cmake, ninja, make and compilers print: how far they are, and what failed."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

_STEP = re.compile(r"\[ *(?P<done>\d+)/(?P<total>\d+)\] (?P<what>.*)")
_PERCENT = re.compile(r"\[ *(?P<done>\d+)%\] (?P<what>.*)")
_COMPILED = re.compile(r"Building (?:C|CXX|CUDA|OBJC|OBJCXX|ASM) object\b")
_FIRST = (
    # The compiler ran out of memory: what follows it says nothing of the cause.
    re.compile(r"Killed signal|virtual memory exhausted|out of memory", re.IGNORECASE),
    re.compile(r"No space left on device|Disk quota exceeded"),
    re.compile(r"^CMake Error\b"),
    re.compile(r"(?:^|:\s|\d: )(?:fatal )?error\b[: ]"),
    re.compile(r"undefined reference to|ld: symbol\(s\) not found|cannot find -l"),
    re.compile(r"^(?:ninja|make(?:\[\d+\])?): (?:error|\*\*\*)"),
    re.compile(r"^FAILED: "),
)
_NEXT_STEP = re.compile(r"\[ *\d+(?:/\d+|%)\] |FAILED: |-- |ninja: |make(\[\d+\])?: ")
_SHOWN = 6


@dataclass(frozen=True, slots=True)
class Step:
    """One line of progress."""

    done: int
    total: int
    compiled: bool
    """Whether the step compiled a file, rather than linked or copied one."""
    unit: str
    """``objects``, or ``%`` where the build tool says no more."""


def step_of(line: str) -> Step | None:
    """The progress that a line of the build tool reports."""
    if found := _STEP.match(line):
        unit, total = "objects", int(found["total"])
    elif found := _PERCENT.match(line):
        unit, total = "%", 100
    else:
        return None
    compiled = _COMPILED.match(found["what"]) is not None
    return Step(int(found["done"]), total, compiled, unit)


def first_error(lines: Iterable[str]) -> list[str]:
    """The first line that names a cause, and what belongs to it; empty for none."""
    kept = [line.rstrip() for line in lines]
    for pattern in _FIRST:
        for number, line in enumerate(kept):
            if pattern.search(line):
                return list(_block(kept[number:]))
    return []


def _block(lines: list[str]) -> Iterator[str]:
    yield lines[0]
    for line in lines[1:_SHOWN]:
        if _NEXT_STEP.match(line):
            return
        if line:
            yield line
