"""What a look at something found."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from deployer.errors import DeployerError
from deployer.stack.notices import Severity


class Grade(StrEnum):
    """How a thing is."""

    FINE = "fine"
    NOTE = "note"
    WARNING = "warning"
    ERROR = "error"


GRADES = {
    Severity.ERROR: Grade.ERROR,
    Severity.WARNING: Grade.WARNING,
    Severity.NOTE: Grade.NOTE,
}


@dataclass(frozen=True, slots=True)
class Remedy:
    """Something safe that can be done about a finding."""

    says: str
    """What it does, for a person who is asked."""
    do: Callable[[], object]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    area: str
    """stack, keys, machine, store, port, server or log."""
    grade: Grade
    what: str
    """What is so, and where."""
    fix: str = ""
    """What to type or change."""
    id: str = ""
    """Of the trap or the symptom."""
    remedy: Remedy | None = None


def fine(area: str, what: str) -> Finding:
    """Nothing to do."""
    return Finding(area, Grade.FINE, what)


def wrong(area: str, error: DeployerError) -> Finding:
    """An error of ours as a finding."""
    return Finding(area, Grade.ERROR, error.message, error.hint)
