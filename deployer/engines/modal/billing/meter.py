"""What a run used, by the clock: seconds times the prices of the table."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from deployer.planning.costs import LISTED
from deployer.stack.fields.units import show_seconds

_LEAST: Final = 0.01
"""Dollars; less is told as that."""


class Meter:
    """Counts what is billed while a run goes on; functions may run side by side."""

    def __init__(self) -> None:
        self._counting = threading.Lock()
        self._seconds: dict[str, float] = {}
        self._dollars = 0.0
        self._open: dict[str, tuple[float, float]] = {}

    @contextmanager
    def running(self, what: str, rate: float) -> Iterator[None]:
        """Count what runs during a block, also when it fails."""
        begun = time.monotonic()
        try:
            yield
        finally:
            self.add(what, time.monotonic() - begun, rate)

    def add(self, what: str, seconds: float, rate: float) -> None:
        """Count seconds at a rate in dollars for each."""
        with self._counting:
            self._seconds[what] = self._seconds.get(what, 0.0) + seconds
            self._dollars += seconds * rate

    def begin(self, what: str, rate: float) -> None:
        """Something is awake from now on, until `end`."""
        self._open[what] = (time.monotonic(), rate)

    def end(self, what: str) -> None:
        """It is not any more; nothing where it never began."""
        if (opened := self._open.pop(what, None)) is not None:
            begun, rate = opened
            self.add(what, time.monotonic() - begun, rate)

    def told(self) -> str:
        """What was counted since the last time, as a sentence; empty for nothing."""
        for what in tuple(self._open):
            self.end(what)
        with self._counting:
            parts, self._seconds = self._seconds, {}
            dollars, self._dollars = self._dollars, 0.0
        if not parts:
            return ""
        much = f"about ${dollars:.2f}" if dollars >= _LEAST else "less than $0.01"
        listed = ", ".join(f"{what} {show_seconds(s)}" for what, s in parts.items())
        return f"this used {much}: {listed} (prices of {LISTED.as_of})"


def plain_rate(cores: float, memory: int) -> float:
    """Dollars for a second of a container without a GPU; memory in MiB."""
    return cores * LISTED.core + memory / 1024 * LISTED.gib
