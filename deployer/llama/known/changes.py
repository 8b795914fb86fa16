"""What llama-server does otherwise from some build on: its API, and its defaults.

``after`` is the last build known to be the old way, ``by`` the first known to be the
new one.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import cache

from deployer.llama.known.case import Case
from deployer.llama.known.conditions import CONCERNS
from deployer.llama.known.tables import rows
from deployer.stack.fields.model import Stack


class Area(StrEnum):
    """What changes."""

    DEFAULT = "defaults"
    API = "server API"


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that two builds do differently."""

    area: Area
    what: str
    old: str
    new: str
    after: int
    by: int
    concerns: str = ""
    """The stacks that would notice, by a name of `CONCERNS`; empty for all."""


@dataclass(frozen=True, slots=True)
class Crossed:
    """A change that lies between two builds, in the direction that is gone."""

    change: Change
    forward: bool
    sure: bool
    """One of the builds may lie where the change is only known to be near."""

    @property
    def text(self) -> str:
        """What changes, from what to what, and when."""
        change = self.change
        before, after = change.old, change.new
        if not self.forward:
            before, after = after, before
        near = f"between b{change.after} and b{change.by}"
        when = near if change.by - change.after > 1 else f"b{change.by}"
        return f"{change.what}: {before} → {after} ({when})"


def changes_between(stack: Stack, old: int, new: int) -> Iterator[Crossed]:
    """Yield what a stack would notice, or may, between two builds."""
    case = Case(stack, new)
    low, high = min(old, new), max(old, new)
    for change in changes():
        crossed = low < change.by and change.after < high
        if crossed and low != high and _notices(case, change):
            sure = low <= change.after and change.by <= high
            yield Crossed(change, forward=old < new, sure=sure)


@cache
def changes() -> tuple[Change, ...]:
    """Return every known change, defaults first."""
    return rows("changes.toml", "change", Change, area=Area)


def _notices(case: Case, change: Change) -> bool:
    return not change.concerns or CONCERNS[change.concerns](case)
