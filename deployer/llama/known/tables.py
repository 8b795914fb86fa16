"""Loader of the TOML tables: traps, symptoms, changes, renames, prices."""

import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from deployer.planning.costs import Prices

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
    return rows_of(read(name), kind, shape, **values)


def rows_of(
    table: dict[str, Any], kind: str, shape: type[T], **values: Callable[[str], object]
) -> tuple[T, ...]:
    """Return the same of a table that was read elsewhere; raises KeyError, too."""
    return tuple(
        shape(**{key: _value(key, value, values) for key, value in row.items()})
        for row in table[kind]
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
