"""The values that flow through the core: plain JSON."""

import re
from collections.abc import Mapping
from enum import StrEnum
from typing import TypeAlias

JsonValue: TypeAlias = (
    "bool | int | float | str | list[JsonValue] | dict[str, JsonValue] | None"
)
"""Anything JSON can hold."""

Flat: TypeAlias = Mapping[str, JsonValue]
"""Values by dotted path."""


class Unit(StrEnum):
    """What the number of a field means."""

    DURATION = "duration"
    SIZE = "size"


_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_BYTES = {
    "B": 1,
    **{f"{p}B": 1000**n for n, p in enumerate("KMGT", start=1)},
    **{f"{p}iB": 1024**n for n, p in enumerate("KMGT", start=1)},
}

DURATION_PATTERN = r"^([0-9]{1,9}(\.[0-9]{1,9})?(ms|s|m|h|d))+$"
SIZE_PATTERN = r"^[0-9]{1,15}(\.[0-9]{1,9})?(B|[KMGT]i?B)$"

_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_SIZE = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?)(B|[KMGT]i?B)")


def seconds(value: JsonValue) -> float:
    """The seconds of a duration: a number, or text such as ``90s`` and ``1h30m``.

    Raises ValueError with the expected form.
    """
    match value:
        case bool():
            pass
        case int() | float() if value >= 0:
            return float(value)
        case str() if re.fullmatch(DURATION_PATTERN, value):
            return sum(float(n) * _SECONDS[unit] for n, unit in _PART.findall(value))
    raise ValueError("expected a duration such as `90s`, `5m` or `1h30m`")


def size_in_bytes(value: JsonValue) -> int:
    """The bytes of a size: a whole number, or text such as ``24GiB`` and ``500MB``.

    Raises ValueError with the expected form.
    """
    match value:
        case bool():
            pass
        case int() if value >= 0:
            return value
        case str() if found := _SIZE.fullmatch(value):
            return int(float(found[1]) * _BYTES[found[2]])
    raise ValueError("expected a size such as `24GiB`, `500MB` or a number of bytes")


def canonical(unit: Unit | None, value: JsonValue) -> JsonValue:
    """Return what to compare and hash: equal quantities are equal, however written."""
    match unit, value:
        case None, _:
            return value
        case Unit.DURATION, int() | float() | str():
            return seconds(value)
        case Unit.SIZE, int() | str():
            return size_in_bytes(value)
        case _:
            return value


def show_bytes(count: float) -> str:
    """A number of bytes for people, in decimal units as disks and hubs print them."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("KB", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count:.0f} B"


def show_seconds(count: float) -> str:
    """A number of seconds for people: ``0.4 s``, ``12 s``, ``3 min 5 s``."""
    if count < 10:
        return f"{count:.1f} s"
    minutes, rest = divmod(round(count), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def http_address(host: str, port: object) -> str:
    """The URL of a server that listens on a host, also on an IPv6 address."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
