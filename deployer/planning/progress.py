"""How far a long piece of work is: a plan needs this of `events`, and no more."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias


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


def unwatched(_progress: object) -> None:
    """A watcher that looks away."""
