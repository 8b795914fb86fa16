"""What an apply says while it runs; the command line shows it, a log may keep it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from deployer.planning.steps import Step
from deployer.planning.verdict import Verdict


@dataclass(frozen=True, slots=True)
class Progress:
    """One report: ``done`` of ``total`` units of what ``name`` names."""

    name: str
    done: int
    total: int | None
    """``None`` where the end is not known."""
    unit: str = "B"


Watch: TypeAlias = Callable[[Progress], None]
"""Gets every report, often; throttling is the watcher's business."""


def unwatched(_progress: Progress) -> None:
    """A watcher that looks away."""


@dataclass(frozen=True, slots=True)
class Started:
    """A step begins."""

    step: Step


@dataclass(frozen=True, slots=True)
class Ended:
    """A step is done."""

    step: Step
    seconds: float


@dataclass(frozen=True, slots=True)
class Talk:
    """One line about what is going on inside a step."""

    about: str
    """Address of the resource."""
    text: str


@dataclass(frozen=True, slots=True)
class Used(Talk):
    """What a run was billed so far, as a line: it is also kept."""


@dataclass(frozen=True, slots=True)
class Judged:
    """A gate ended."""

    verdict: Verdict


@dataclass(frozen=True, slots=True)
class AtWork:
    """Gates are at work; said again and again, so that they can be ended."""

    gates: tuple[str, ...]
    seconds: float
    """Since the first of them began."""


Event = Started | Ended | Talk | Judged | AtWork | Progress

Say = Callable[[Event], None]
"""Takes an event; may raise CancelledError, which ends the step it came from."""
