"""JSON files of ours as text: written one way only, read strictly."""

import errno
import fcntl
import json
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

from deployer.stack.fields.values import JsonValue

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


Upgrade = Callable[[dict[str, JsonValue]], dict[str, JsonValue]]
"""Turns the members of one version of a form into those of the next."""


_DEEPEST: Final = 64
"""Mappings and lists inside each other."""
_LARGEST: Final = 2**64
_HALF: Final = re.compile("[\ud800-\udc7f\udd00-\udfff]")
"""Characters that no file name holds and no encoding takes."""


class FormError(ValueError):
    """A text has not the form it should have; says what is wrong, not where it lies."""


class NewerError(ValueError):
    """A text has a version that only a newer deployer reads."""

    def __init__(self, version: int) -> None:
        super().__init__(f"version {version}")
        self.version = version


def text_of(version: int, members: Mapping[str, object]) -> str:
    """The one text of these members: version first, then by name, ASCII only.

    Dataclasses become mappings.  Raises ValueError for a number JSON does not know.
    """
    whole = {"version": version, **_sorted(members)}
    return json.dumps(whole, indent=2, allow_nan=False) + "\n"


def _sorted(members: Mapping[str, object]) -> dict[str, object]:
    return {name: _plain(members[name]) for name in sorted(members)}


def _plain(value: object) -> object:
    match value:
        case Mapping():
            return _sorted(value)
        case list() | tuple():
            return [_plain(item) for item in value]
        case _ if is_dataclass(value) and not isinstance(value, type):
            return _sorted(members_of(value))
        case _:
            return value


def members_of(value: "DataclassInstance") -> dict[str, object]:
    """The fields of a dataclass by name."""
    return {field.name: getattr(value, field.name) for field in fields(value)}


@dataclass(frozen=True, slots=True)
class Item:
    """A value inside a text, with its path; each question raises FormError."""

    value: JsonValue
    path: str = ""

    def text(self) -> str:
        """A string."""
        if not isinstance(self.value, str):
            self._refuse("text")
        return self.value

    def named(self, form: re.Pattern[str], what: str) -> str:
        """A string that has a form from its first character to its last."""
        if not form.fullmatch(text := self.text()):
            self._refuse(what)
        return text

    def count(self) -> int:
        """A whole number that is not negative."""
        if type(self.value) is not int or self.value < 0:
            self._refuse("a whole number from 0")
        return self.value

    def truth(self) -> bool:
        """True or false."""
        if not isinstance(self.value, bool):
            self._refuse("true or false")
        return self.value

    def flat(self) -> dict[str, JsonValue]:
        """A mapping of anything."""
        if not isinstance(self.value, dict):
            self._refuse("a mapping")
        return self.value

    def mapping(self) -> dict[str, "Item"]:
        """The entries of a mapping, with their paths."""
        prefix = f"{self.path}." if self.path else ""
        return {
            name: Item(value, f"{prefix}{name}") for name, value in self.flat().items()
        }

    def members(self, *names: str) -> dict[str, "Item"]:
        """The entries of a mapping that has exactly these."""
        found = self.mapping()
        if missing := sorted(set(names) - set(found)):
            raise FormError(f"{self._shown} has no `{missing[0]}`")
        if unknown := sorted(set(found) - set(names)):
            raise FormError(f"{self._shown} has an unknown key `{unknown[0]}`")
        return found

    def of_class(self, kind: "type[DataclassInstance]") -> dict[str, "Item"]:
        """The entries of a mapping that has exactly the fields of a dataclass."""
        return self.members(*(field.name for field in fields(kind)))

    def versioned(self, known: int, upgrades: Sequence[Upgrade] = ()) -> "Item":
        """The mapping without its version; raises NewerError for one above ``known``.

        Asked first, as a newer text may have any form.  The ``upgrades`` bring the
        versions before, oldest first, to the one behind.
        """
        version = self.mapping().get("version", Item(None, "version")).count()
        if version > known:
            raise NewerError(version)
        if version < known - len(upgrades):
            raise FormError(f"there is no version {version}")
        rest = {k: v for k, v in self.flat().items() if k != "version"}
        for upgrade in upgrades[len(upgrades) - (known - version) :]:
            rest = upgrade(rest)
        return Item(rest, self.path)

    def entries(self) -> tuple["Item", ...]:
        """The entries of a list."""
        if not isinstance(self.value, list):
            self._refuse("a list")
        return tuple(
            Item(value, f"{self.path}[{index}]")
            for index, value in enumerate(self.value)
        )

    @property
    def _shown(self) -> str:
        return f"`{self.path}`" if self.path else "the file"

    def _refuse(self, expected: str) -> NoReturn:
        raise FormError(f"{self._shown} is {_named(self.value)}, expected {expected}")


def parse(content: bytes | str) -> Item:
    """Return what a text holds; raises FormError.

    Refuses what JSON readers let pass: a key given twice (a bad merge), NaN, and
    numbers beyond what a float holds.
    """
    try:
        text = content.decode() if isinstance(content, bytes) else content
        value = json.loads(
            text,
            object_pairs_hook=_once,
            parse_constant=_refuse_constant,
            parse_float=_finite,
        )
        _refuse_unbounded(value)
        return Item(value)
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
                    raise FormError("a string holds half a character")
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
    raise FormError(f"`{name}` is no number of JSON")


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise FormError(f"the number {digits} is too large")
    return number


def _named(value: JsonValue) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "true or false"
        case int() | float():
            return f"the number {value}"
        case str():
            return f"the text `{value}`"
        case list():
            return "a list"
        case dict():
            return "a mapping"


_CANNOT_LOCK = (
    errno.EBADF,
    errno.EINVAL,
    errno.ENOLCK,
    errno.ENOSYS,
    errno.ENOTSUP,
    errno.EOPNOTSUPP,
)
"""What network file systems answer that know no locks, or none on folders."""


class Grip(Enum):
    """What asking the kernel for a lock came to."""

    MINE = "mine"
    TAKEN = "taken"
    UNKNOWN = "unknown"
    """The file system knows no locks."""


def grip(descriptor: int) -> Grip:
    """Lock an open file unless somebody has; the lock ends with the last closing."""
    return _flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


@contextmanager
def guarded(folder: Path) -> Iterator[None]:
    """Keep other threads and processes of this machine out of the same block.

    For moments only: whoever comes second waits in silence.  Raises OSError where
    the folder cannot be opened.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def replace_file(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Replace a file at once and durably; raises OSError, and nothing changed.

    One at a time in a folder: call it inside `guarded`.  What a killed process
    leaves behind is used up by the next call.
    """
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)
    try:
        write_new(new, content, mode)
        new.replace(path)
    except OSError:
        new.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_new(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Write a file that is not there yet, down to the disk; raises OSError."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with open(descriptor, "wb") as stream:  # noqa: PTH123 -- it owns a descriptor
        os.fchmod(descriptor, mode)  # whatever the umask
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder down to the disk; raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some file systems cannot sync a folder
            raise
    finally:
        os.close(descriptor)


def _flock(descriptor: int, operation: int) -> Grip:
    try:
        fcntl.flock(descriptor, operation)
    except BlockingIOError:
        return Grip.TAKEN
    except OSError as error:
        if error.errno not in _CANNOT_LOCK:
            raise
        return Grip.UNKNOWN
    return Grip.MINE
