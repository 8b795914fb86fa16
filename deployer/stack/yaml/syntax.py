"""The YAML parser's complaints in words that say what to do."""

from collections.abc import Mapping
from typing import Protocol

import yaml


class Mark(Protocol):
    """A position in a text; the C parser's class is not the Python one's."""

    line: int
    column: int


_COMPLAINTS: Mapping[str, tuple[str, str]] = {
    "mapping values are not allowed": (
        "a second `:` on this line, or the line is indented too far",
        (
            "write a text that holds `: ` in quotes; "
            "keys of one section start in one column"
        ),
    ),
    "that cannot start any token": (
        "this character cannot start a value",
        "write texts that start with `@`, `%` or `` ` `` in quotes",
    ),
    "\t": ("a tab in the indentation", "indent with spaces"),
    "did not find expected ',' or ']'": (
        "a list in `[` is not closed",
        "separate its items by `,` and close it with `]`",
    ),
    "did not find expected ',' or '}'": (
        "a mapping in `{` is not closed",
        "separate its entries by `,` and close it with `}`",
    ),
    "expected ',' or ']'": (
        "a list in `[` is not closed",
        "separate its items by `,` and close it with `]`",
    ),
    "expected ',' or '}'": (
        "a mapping in `{` is not closed",
        "separate its entries by `,` and close it with `}`",
    ),
    "could not find expected ':'": (
        "a key without `:`",
        "write `key: value`; a text of several lines starts with `|`",
    ),
    "did not find expected key": (
        "expected a key here",
        (
            "keys of one section start in one column; "
            "a text after a closing quote belongs inside the quotes"
        ),
    ),
    "did not find expected '-' indicator": (
        "expected another `- item` of the list",
        "items of one list start in one column",
    ),
    "block sequence entries are not allowed": (
        "a list item cannot start here",
        "put `- item` on a line of its own",
    ),
    "unexpected end of stream": (
        "the file ends inside a quoted text",
        "close the quotes",
    ),
    "unexpected document indicator": (
        "a document ends inside a quoted text",
        "close the quotes",
    ),
    "escape": (
        "an escape that YAML does not know",
        "in `\"…\"` write `\\\\` for a backslash, or use `'…'`",
    ),
    "expected hexdecimal number": (
        "an escape that YAML does not know",
        "in `\"…\"` write `\\\\` for a backslash, or use `'…'`",
    ),
    "undefined tag handle": (
        "tags (`!…`) are not used in stacks",
        "leave it out; a text is written in quotes",
    ),
    "<document start>": (
        "expected nothing more here",
        "put everything under keys at the start of the line",
    ),
    "alphabetic or numeric character": (
        "a name is missing behind `&` or `*`",
        "write a text that starts with `&` or `*` in quotes",
    ),
    "<block end>": (
        "expected a key or a list item here",
        "keys of one section start in one column",
    ),
    "directive": (
        "a line that starts with `%` is a directive",
        "leave it out, or write the text in quotes",
    ),
    "incompatible": ("this version of YAML is not known", "leave the `%YAML` line out"),
}
"""Part of a message of libyaml or of its Python twin -> what, hint."""

UNKNOWN = ("this is not YAML", "check indentation, quotes and brackets around here")


def explained(error: yaml.MarkedYAMLError, text: str) -> tuple[Mark | None, str, str]:
    """Where it is, what is wrong and a hint, for a complaint about a text."""
    mark = error.problem_mark or error.context_mark
    problem, context = error.problem or "", error.context or ""
    if "cannot start any token" in problem and mark and _at(text, mark) == "\t":
        problem = "\t"
    what, hint = _words(problem, context)
    begun = error.context_mark
    if begun and ("not closed" in what or "inside a quoted" in what):
        hint += f"; it begins in line {begun.line + 1}, column {begun.column + 1}"
    return mark, what, hint


def _words(problem: str, context: str) -> tuple[str, str]:
    for complaint in (problem, context):
        for part, words in _COMPLAINTS.items():
            if part in complaint:
                return words
    return UNKNOWN


def _at(text: str, mark: Mark) -> str:
    lines = text.splitlines()
    line = lines[mark.line] if mark.line < len(lines) else ""
    return line[mark.column : mark.column + 1]
