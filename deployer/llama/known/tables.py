"""The one reader of the tables beside it."""

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")


def read(name: str) -> dict[str, Any]:
    """Return a table as TOML has it; `schema.json` says what may be in it."""
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
