"""The values that flow through the core: plain JSON."""

from collections.abc import Mapping
from typing import TypeAlias

JsonValue: TypeAlias = (
    "bool | int | float | str | list[JsonValue] | dict[str, JsonValue] | None"
)
"""Anything JSON can hold."""

Flat: TypeAlias = Mapping[str, JsonValue]
"""Values by dotted path."""
