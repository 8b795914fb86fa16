"""What is worth knowing of a stack, from fatal to by the way, with its place."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from deployer.diagnostics import Place
from deployer.stack.fields.values import JsonValue


class Severity(StrEnum):
    """How bad it is."""

    ERROR = "error"
    """It cannot work: refused."""
    WARNING = "warning"
    """It works until something happens that will."""
    NOTE = "note"
    """Worth knowing."""


@dataclass(frozen=True, slots=True)
class Notice:
    """A known trap that a stack is in, or a word about one that it ignores."""

    place: Place
    severity: Severity
    id: str
    """Of the trap."""
    path: str
    """Field of the stack to blame."""
    what: str
    hint: str = ""

    def __str__(self) -> str:
        return f"{self.place}: {self.severity}: {self.what} [{self.id}]"


def notice_lines(notices: Iterable[Notice]) -> Iterator[str]:
    """Every notice with its place, and below it what to write."""
    for notice in notices:
        yield str(notice)
        if notice.hint:
            yield f"  hint: {notice.hint}"


def notice_data(notice: Notice) -> dict[str, JsonValue]:
    """A notice as JSON."""
    return {
        "file": notice.place.file,
        "line": notice.place.line,
        "column": notice.place.column,
        "severity": notice.severity.value,
        "id": notice.id,
        "path": notice.path,
        "what": notice.what,
        "hint": notice.hint,
    }


@dataclass(frozen=True, slots=True)
class Finding:
    """One broken rule: the path it is told at, what is wrong, what to do."""

    path: str
    what: str
    hint: str = ""
    lacks: str = ""
    """Path of another section whose absence breaks the rule."""
