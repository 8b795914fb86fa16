"""What Modal tells, as values."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

SYSTEM: Final = "system"
"""Source of the lines that Modal says itself."""


@dataclass(frozen=True, slots=True)
class Deployed:
    """An app that is deployed."""

    id: str
    version: int
    deployed_at: datetime | None
    """UTC, by the clock of Modal, as all times in its logs."""
    deployed_by: str
    tags: Mapping[str, str]

    @property
    def since(self) -> str:
        """When it was deployed, for people."""
        at = self.deployed_at
        return "an unknown time" if at is None else at.isoformat(timespec="seconds")


@dataclass(frozen=True, slots=True)
class Version:
    """One deployment of an app."""

    number: int
    at: str
    by: str
    tag: str


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the log of an app."""

    at: datetime
    text: str
    source: str
    """``stdout`` or ``stderr`` of a container, or ``system`` for what Modal says."""
    where: tuple[str, ...]
    """Ids of the call, the input and the container it came from."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A file or folder of the Volume."""

    path: str
    folder: bool
    size: int
