"""Loader of the TOML tables: traps, symptoms, changes, renames, prices."""

import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from deployer.llama.known.conditions import CONCERNS, Case
from deployer.planning.costs import Prices
from deployer.stack.fields.model import Stack

T = TypeVar("T")


def read(name: str) -> dict[str, Any]:
    """Return a table as TOML has it; `schema.json` is checked by a test."""
    return tomllib.loads((Path(__file__).parent / name).read_text(encoding="utf-8"))


def rows(
    name: str, kind: str, shape: type[T], **values: Callable[[str], object]
) -> tuple[T, ...]:
    """Return the `[[kind]]` rows of a table as frozen values, in their order.

    `values` makes the value of a key from its text.  Raises TypeError for a key that
    the shape lacks, or for one that is missing.
    """
    return tuple(
        shape(**{key: _value(key, value, values) for key, value in row.items()})
        for row in read(name)[kind]
    )


def _value(
    key: str, value: object, values: dict[str, Callable[[str], object]]
) -> object:
    if isinstance(value, list):
        return tuple(value)
    return values[key](value) if key in values and isinstance(value, str) else value


@cache
def prices() -> Prices:
    """Return the list prices of Modal."""
    return Prices(**read("prices.toml")["price"])


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


@dataclass(frozen=True, slots=True)
class Rename:
    """Two ways to say the same, on older and on newer builds."""

    old: str
    new: str
    """Words; empty where nothing takes its place."""
    pull: int
    """Number of the pull request at ggml-org/llama.cpp; 0 where it is not known."""


@cache
def renames() -> tuple[Rename, ...]:
    """Return every known rename."""
    return tuple(
        Rename(old, new, int(pull))
        for pull, options in read("renames.toml")["pull"].items()
        for old, new in options.items()
    )


def newer(spelling: str) -> Iterator[str]:
    """Yield the words that newer builds want instead of this option."""
    return (r.new for r in renames() if r.old == spelling and r.new)


def older(spelling: str, value: str = "") -> Iterator[str]:
    """Yield the options of older builds that say the same, with this value if given."""
    wanted = (spelling, f"{spelling} {value}")
    for rename in renames():
        same = rename.new.partition(" ")[0] == spelling
        if same and (not value or rename.new in wanted):
            yield rename.old
