"""The usage of a run, by the clock: seconds times the prices of the table.

`modal billing rates` answers dollars for a unit and hour, by names that are documented
nowhere (unit: `WorkspaceBillingRatesResponse` of the client, 1.6.4).  So a name is
taken where it is the only one with the word that is looked for, and a price that is
far from the table's for that of something else.
"""

import re
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from deployer.llama.known.tables import prices
from deployer.planning.costs import Costs, Prices, costs_of, gpus_of
from deployer.planning.plan import Plan
from deployer.stack.fields.values import Flat, show_seconds

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
        """Return the usage since the last call, as a sentence; empty for none."""
        for what in tuple(self._open):
            self.end(what)
        with self._counting:
            parts, self._seconds = self._seconds, {}
            dollars, self._dollars = self._dollars, 0.0
        if not parts:
            return ""
        much = f"about ${dollars:.2f}" if dollars >= _LEAST else "less than $0.01"
        listed = ", ".join(f"{what} {show_seconds(s)}" for what, s in parts.items())
        return f"this used {much}: {listed} (prices of {prices().as_of})"


def plain_rate(cores: float, memory: int) -> float:
    """Return dollars a second of a container without a GPU; memory in MiB."""
    return cores * prices().core + memory / 1024 * prices().gib


def estimate(plan: Plan) -> Costs:
    """Estimate what applying a plan costs, by the list prices."""
    return costs_of(plan, prices())


_HOUR: Final = 3600
_SAME: Final = 0.01
"""Share of a price by which it may differ and be the same: the table is rounded."""
_FAR: Final = 5.0
"""Times the listed price, or a part of it, that no change of a price comes to."""


def changed(
    asked: Mapping[str, str], fields: Flat, listed: Prices | None = None
) -> tuple[str, ...]:
    """Describe the prices of what a server uses that differ from the table."""
    return tuple(_told(asked, fields, listed or prices()))


def _told(asked: Mapping[str, str], fields: Flat, listed: Prices) -> Iterator[str]:
    for name, word, second in _used(fields, listed):
        price = _price(asked, word)
        if price is None:
            continue
        before = second * _HOUR
        near = before / _FAR < price < before * _FAR
        if near and abs(price - before) > before * _SAME:
            yield f"{name} ${price:.4g}/h (${before:.4g} in the table)"


def _used(fields: Flat, listed: Prices) -> Iterator[tuple[str, str, float]]:
    for gpu in gpus_of(fields)[:1]:
        name = gpu.partition(":")[0]
        yield name, name, listed.gpu[name]
    yield "a core", "cpu", listed.core
    yield "a GiB of memory", "memory", listed.gib


def _price(asked: Mapping[str, str], word: str) -> float | None:
    """The price under the only name with a word; None where there is not one."""
    wanted = re.compile(rf"(^|-){re.escape(_plain(word))}($|-)")
    found = [text for name, text in asked.items() if wanted.search(_plain(name))]
    try:
        return float(found[0]) if len(found) == 1 else None
    except ValueError:
        return None


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower())
