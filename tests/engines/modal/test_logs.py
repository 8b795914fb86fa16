"""`logs -f` shows each line once, however late it arrives, and keeps a window alone."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import cast

import pytest

from deployer.engines.modal.drive import Account, Line
from deployer.engines.modal.engine import Seeing
from deployer.engines.modal.wait import Log, any_line
from deployer.errors import EngineError

BEGUN = datetime(2026, 11, 29, 12, tzinfo=UTC)


def line(second: float, text: str) -> Line:
    return Line(BEGUN + timedelta(seconds=second), text, "stdout", ("ta-1",))


@dataclass
class Arriving:
    """The log of an app; each look sees more of it than the one before."""

    batches: list[list[Line]]
    there: list[Line] = field(default_factory=list)
    looks: int = 0

    def log(self, _app: str) -> "Arriving":
        return self

    def last(self, count: int) -> list[Line]:
        self._arrive()
        return self.there[-count:]

    def since(self, at: datetime, *, text: str = "") -> list[Line]:
        self._arrive()
        return [it for it in self.there if it.at >= at and text in it.text]

    def _arrive(self) -> None:
        self.looks += 1
        self.there += self.batches.pop(0) if self.batches else []
        self.there.sort(key=lambda it: it.at)


def followed(arriving: Arriving, lines: int, count: int) -> list[str]:
    found: Iterator[str] = Seeing(cast("Account", arriving))._lines(
        "app", lines, follow=True
    )
    return [*islice(found, count)]


@pytest.mark.parametrize("lines", [0, 1, 2, 3, 50])
def test_no_line_is_lost_between_two_looks(lines: int) -> None:
    """Nor one said earlier than what was shown already, nor is one shown twice."""
    old = [line(-500, "long ago"), line(0, "a"), line(1, "b"), line(1, "b")]
    batches = [
        old,
        [line(2, "between"), line(1.5, "late between")],
        [line(3, "c"), line(0.5, "late")],
        [line(1, "b"), line(4, "end")],
    ]
    shown = [it.text for it in (*old, line(1.5, "late between"), line(2, "between"))]
    first = shown[len(shown) - min(lines, len(shown)) :]
    then = ["late", "c", "b", "end"]
    found = followed(Arriving(batches), lines, len(first) + len(then))
    assert found[: len(first)] == first
    assert sorted(found[len(first) :]) == sorted(then)


@dataclass
class Mute(Arriving):
    """A log that ends after some looks."""

    looks_left: int = 3
    log_seconds: float = 0.3

    def _arrive(self) -> None:
        super()._arrive()
        if self.looks > self.looks_left:
            raise EngineError("Modal could not be reached, the log of `app`")


def test_a_log_that_does_not_come_back_is_an_error() -> None:
    found = Seeing(cast("Account", Mute([[line(0, "a")], [], [line(1, "b")]])))
    lines = found._lines("app", 1, follow=True)
    assert [next(lines), next(lines)] == ["a", "b"]
    with pytest.raises(EngineError, match="could not be reached"):
        next(lines)


def test_a_log_that_is_followed_for_long_takes_no_more_memory() -> None:
    arriving = Arriving([[line(n, f"line {n}")] for n in range(600)])
    log = Log(cast("Account", arriving), "app")
    shown = [it.text for it in log.before(10)]
    while arriving.batches:
        arriving.there = arriving.there[-200:]
        shown += [it.text for it in log.now(any_line)]
    assert shown == [f"line {n}" for n in range(600)]
    assert len(log._seen) < 150
    assert len(log.lines) <= 200
