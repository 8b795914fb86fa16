"""JSON files of ours: written one way only, read strictly into dataclasses.

The annotations of a dataclass are the form of its JSON.  msgspec and cattrs were
measured and left out: to import them costs every command 0.9 and 2.5 times as much as
`python -c pass`, and neither refuses a key that is given twice.
"""

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from enum import Enum, StrEnum
from itertools import repeat
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Final,
    NoReturn,
    TypeVar,
    get_args,
    get_origin,
)

from deployer.stack.fields.values import JsonValue

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_Class = TypeVar("_Class", bound="DataclassInstance")

Upgrade = Callable[[dict[str, JsonValue]], dict[str, JsonValue]]
"""Turns the members of one version of a form into those of the next."""

_DEEPEST: Final = 64
"""Mappings and lists inside each other."""
_LARGEST: Final = 2**64
_HALF: Final = re.compile("[\ud800-\udc7f\udd00-\udfff]")
"""Characters that no file name holds and no encoding takes."""
_PLAIN: Final[Mapping[object, str]] = {
    str: "a string",
    int: "an integer from 0",
    float: "a number",
    bool: "a boolean",
}
"""Types of values that are read as they are, in words."""


class FormError(ValueError):
    """A text has not the form it should have; says what is wrong, not where it lies."""


class NewerError(ValueError):
    """A text has a version that only a newer deployer reads."""

    def __init__(self, version: int) -> None:
        super().__init__(f"version {version}")
        self.version = version


def text_of(version: int, value: "DataclassInstance | Mapping[str, object]") -> str:
    """Return the one text of a dataclass: version first, then by name, ASCII only.

    Raises ValueError for a number that JSON does not know.
    """
    text = json.dumps(encoded(value), indent=2, sort_keys=True, allow_nan=False)
    return f'{{\n  "version": {version},{text[1:]}\n'


def encoded(value: object) -> Any:  # noqa: ANN401 - what `json` takes
    """Return a dataclass as JSON: members by name, enumerations by their word."""
    match value:
        case Mapping():
            return {name: encoded(item) for name, item in value.items()}
        case list() | tuple():
            return [encoded(item) for item in value]
        case Enum():
            return _word(value)
        case _ if is_dataclass(value):
            return {it.name: encoded(getattr(value, it.name)) for it in fields(value)}
        case _:
            return value


def decoded(kind: type[_Class], content: JsonValue) -> _Class:
    """Return the dataclass that JSON holds, with exactly its fields.

    ``Annotated[str, pattern, "in words"]`` is a string of that form; ``X | None`` is
    null or an X.  Raises FormError.
    """
    found: _Class = _decoded(kind, content, "")
    return found


def versioned(
    content: JsonValue, known: int, upgrades: Sequence[Upgrade] = ()
) -> dict[str, JsonValue]:
    """Return the members beside the version; raises NewerError for one above ``known``.

    Asked first, as a newer text may have any form.  The ``upgrades`` bring the
    versions before, oldest first, to the one behind.
    """
    found = _mapping(content, "")
    version: int = _decoded(int, found.get("version"), "version")
    if version > known:
        raise NewerError(version)
    if version < known - len(upgrades):
        raise FormError(f"there is no version {version}")
    rest = {k: v for k, v in found.items() if k != "version"}
    for upgrade in upgrades[len(upgrades) - (known - version) :]:
        rest = upgrade(rest)
    return rest


def _decoded(kind: Any, value: Any, path: str) -> Any:  # noqa: ANN401 - as annotated
    """Return a value as an annotation says; a quoted one stands for any JSON."""
    if kind in _PLAIN:
        is_one = type(value) is kind or (kind is float and type(value) is int)
        if not is_one or (kind is int and value < 0):
            _refuse(value, path, _PLAIN[kind])
        return value
    if isinstance(kind, str):
        return value
    if isinstance(kind, type) and is_dataclass(kind):
        return _members(kind, _mapping(value, path), path)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return _member(kind, value, path)
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Annotated:
        _, form, words = parts
        if not form.fullmatch(_decoded(str, value, path)):
            _refuse(value, path, words)
        return value
    if origin is Mapping:
        key, each = parts
        return _entries(key, each, _mapping(value, path), path)
    if origin is tuple:
        return tuple(_items(parts, value, path))
    return None if value is None else _decoded(parts[0], value, path)


def _members(
    kind: "type[DataclassInstance]", found: Mapping[str, JsonValue], path: str
) -> object:
    types = {field.name: field.type for field in fields(kind)}
    if missing := sorted(types.keys() - found.keys()):
        raise FormError(f"{_shown(path)} has no `{missing[0]}`")
    if unknown := sorted(found.keys() - types.keys()):
        raise FormError(f"{_shown(path)} has an unknown key `{unknown[0]}`")
    return kind(
        **{n: _decoded(it, found[n], _below(path, n)) for n, it in types.items()}
    )


def _member(kind: type[Enum], value: JsonValue, path: str) -> Enum:
    words = {_word(member): member for member in kind}
    if (found := words.get(_decoded(str, value, path))) is None:
        raise FormError(
            f"{_shown(path)} is `{value}`, expected one of {', '.join(words)}"
        )
    return found


def _entries(
    key: object, kind: object, found: Mapping[str, JsonValue], path: str
) -> dict[str, Any]:
    for form in get_args(key)[1:2]:
        if unknown := next((name for name in found if not form.fullmatch(name)), None):
            raise FormError(f"{_shown(path)} has an unknown key `{unknown}`")
    return {n: _decoded(kind, it, _below(path, n)) for n, it in found.items()}


def _items(kinds: Sequence[object], value: JsonValue, path: str) -> list[Any]:
    """Return the items of a list: as many as there are kinds, or any number of one."""
    if not isinstance(value, list):
        _refuse(value, path, "a list")
    each = repeat(kinds[0], len(value)) if kinds[-1] is ... else kinds
    pairs = zip(each, value, strict=True)
    return [_decoded(k, it, f"{path}[{n}]") for n, (k, it) in enumerate(pairs)]


def _mapping(value: JsonValue, path: str) -> dict[str, JsonValue]:
    if not isinstance(value, dict):
        _refuse(value, path, "a mapping")
    return value


def _word(member: Enum) -> str:
    return member.value if isinstance(member, StrEnum) else member.name.lower()


def _below(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _shown(path: str) -> str:
    return f"`{path}`" if path else "the file"


def _refuse(value: JsonValue, path: str, expected: str) -> NoReturn:
    match value:
        case None:
            found = "null"
        case bool():
            found = str(value).lower()
        case str():
            found = f"the string `{value}`"
        case list():
            found = "a list"
        case dict():
            found = "a mapping"
        case _:
            found = f"the number {value}"
    raise FormError(f"{_shown(path)} is {found}, expected {expected}")


def parse(content: bytes | str) -> JsonValue:
    """Return what a text holds; raises FormError.

    Refuses what JSON readers let pass: a key given twice (a bad merge), NaN, and
    numbers beyond what a float holds.
    """
    try:
        text = content.decode() if isinstance(content, bytes) else content
        value: JsonValue = json.loads(
            text,
            object_pairs_hook=_once,
            parse_constant=_refuse_constant,
            parse_float=_finite,
        )
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise FormError(f"not JSON at {place}") from error
    except UnicodeDecodeError as error:
        raise FormError(f"not UTF-8 at byte {error.start}") from error
    except RecursionError as error:
        raise FormError("nested too deeply") from error
    except FormError:
        raise
    except ValueError as error:
        raise FormError("a number has too many digits") from error
    _refuse_unbounded(value)
    return value


def _refuse_unbounded(value: JsonValue) -> None:
    """Raise FormError for what no file of ours holds, and other code stumbles over."""
    level: list[JsonValue] = [value]
    for _ in range(_DEEPEST):
        below: list[JsonValue] = []
        for it in level:
            if isinstance(it, dict):
                below += it.keys()
                below += it.values()
            elif isinstance(it, list):
                below += it
            elif isinstance(it, str):
                if not it.isascii() and _HALF.search(it):
                    raise FormError("a string contains half a character")
            elif isinstance(it, int) and not -_LARGEST < it < _LARGEST:
                raise FormError("a number has too many digits")
        if not below:
            return
        level = below
    raise FormError("nested too deeply")


def _once(pairs: Sequence[tuple[str, JsonValue]]) -> dict[str, JsonValue]:
    found: dict[str, JsonValue] = {}
    for name, value in pairs:
        if name in found:
            raise FormError(f"the key `{name}` is given twice")
        found[name] = value
    return found


def _refuse_constant(name: str) -> NoReturn:
    raise FormError(f"`{name}` is not a number in JSON")


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise FormError(f"the number {digits} is too large")
    return number
