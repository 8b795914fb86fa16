"""A diagnostic: one thing to say about a stack or its surroundings, with its place."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Final

from deployer.spelling import harmless


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """A position in a file; lines and columns count from 1."""

    file: str
    line: int = 1
    column: int = 1

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


NOWHERE: Final = Place("stack")
"""The place of what was not read from a file."""


class Severity(StrEnum):
    """How bad it is."""

    ERROR = "error"
    """It cannot work: refused."""
    WARNING = "warning"
    """It works until something happens that is likely."""
    NOTE = "note"
    """Worth knowing."""
    FINE = "fine"
    """Checked, nothing to do."""


UNCERTAIN: Final = "option-uncertain"
"""Code of what is said about options that the build may or may not take."""


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One finding: what it is about, what is so, and where known, what to do."""

    path: str
    """Dotted field path; empty for a whole file; an area for `doctor`."""
    what: str
    hint: str = ""
    severity: Severity = Severity.ERROR
    code: str = ""
    """Identifier of the known issue or the symptom."""
    place: Place = NOWHERE
    needs: str = ""
    """Path of the section whose absence breaks the rule."""
    about_key: bool = False
    """The key is wrong, not its value."""

    def __str__(self) -> str:
        code = f" [{self.code}]" if self.code else ""
        return f"{self.place}: {self.severity}: {self.what}{code}"


def place_of(places: Mapping[str, Place], path: str) -> Place | None:
    """The place of a path, or of the nearest one above it that was written."""
    while path:
        if found := places.get(path):
            return found
        path = path.rpartition(".")[0]
    return None


def placed(
    found: Iterable[Diagnostic], places: Mapping[str, Place], otherwise: Place = NOWHERE
) -> list[Diagnostic]:
    """Give each diagnostic the place of its path, and order all by place."""
    given = (replace(it, place=place_of(places, it.path) or otherwise) for it in found)
    return in_order(given)


def in_order(found: Iterable[Diagnostic]) -> list[Diagnostic]:
    """By place, each once: an alias shows one mistake in several paths."""
    first = {(it.place, it.what): it for it in reversed([*found])}
    return sorted(first.values(), key=lambda it: (it.place, it.code, it.path, it.what))


def diagnostic_lines(found: Iterable[Diagnostic]) -> Iterator[str]:
    """Each diagnostic with its place, and its hint below."""
    for it in found:
        yield harmless(str(it))
        if it.hint:
            yield harmless(f"  hint: {it.hint}")


def diagnostics_text(found: Iterable[Diagnostic]) -> str:
    """Return the lines of every diagnostic as one text."""
    return "".join(f"{line}\n" for line in diagnostic_lines(found))


def diagnostic_data(it: Diagnostic) -> dict[str, Any]:
    """A diagnostic as JSON."""
    return {
        "file": it.place.file,
        "line": it.place.line,
        "column": it.place.column,
        "severity": it.severity.value,
        "id": it.code,
        "path": it.path,
        "what": it.what,
        "hint": it.hint,
    }


def span(it: Diagnostic, line: str) -> tuple[int, int]:
    """Return where what is wrong begins and ends in its line, counted from 0.

    The place of a value is that of its key: without ``about_key`` the value behind it.
    """
    at, key = it.place.column - 1, it.path.rpartition(".")[2]
    head = re.compile(rf"([\"']?){re.escape(key)}\1(?=\s*:)").match(line, at)
    if head is None or not key:
        return at, _end(line, at)
    if it.about_key:
        return head.span()
    value = re.compile(r"\s*:\s+(?=[^\s#])").match(line, head.end())
    return head.span() if value is None else (value.end(), _end(line, value.end()))


def _end(line: str, at: int) -> int:
    """Return where a value ends that begins at a column: before a comment, a `}`."""
    if line[at] in "\"'":
        closing = line.find(line[at], at + 1)
        return closing + 1 if closing > 0 else len(line)
    flow, depth, end = at > 0 and line[:at].count("{") > line[:at].count("}"), 0, at
    for end in range(at, len(line)):
        c = line[end]
        if c == "#" and line[end - 1 : end].isspace():
            break
        depth += (c in "{[") - (c in "}]")
        if depth < 0 or (flow and depth == 0 and c == ","):
            break
    else:
        end = len(line)
    return max(at + 1, len(line[:end].rstrip()))
