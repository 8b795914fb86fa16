"""The options of a llama-server binary, from what its own ``--help`` prints.

The form is that of ``common_arg::to_string`` in ``common/arg.cpp``: an option begins
in column 0 with its names, the words for its value follow the last name, the text
stands from column 40 on, here or on the next line, and ``(env: NAME)`` ends it.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from deployer.errors import EngineError
from deployer.llama.flags.catalogue import (
    Catalogue,
    Option,
    Standing,
    Takes,
    catalogue,
    named,
    unique,
)

_COLUMN = 40
_NAME = re.compile(r"--?[A-Za-z0-9][A-Za-z0-9._-]*")
_HEADING = re.compile(r"-{3,} .+ -{3,}")
_ENV = re.compile(r"\(env: ([A-Z0-9_]+)\)")
_CHOICE = re.compile(r"\{([\w,+-]+)\}|\[([\w|+-]+\|[\w|+-]+)\]")
_ALLOWED = re.compile(r"allowed values: ((?:[\w.+-]+, )*[\w.+-]+)")
_SWITCHES = ("[on|off]", "[on|off|auto]")


def catalogue_of_binary(help_text: str, build: int | None) -> Catalogue:
    """The options that a binary has, with the value types of the shipped catalogue.

    `help_text` is what ``llama-server --help`` wrote to stdout.  Names, arity and
    environment variables are the binary's own; what a value may be is taken from the
    shipped catalogue where the option has the same form there.  Raises EngineError
    where the text holds no options.
    """
    shipped = catalogue(build)
    options = [_refined(_option(block), shipped) for block in _blocks(help_text)]
    if not options:
        raise EngineError(
            "`llama-server --help` lists no options",
            hint="run it by hand: the binary may be another program, or broken",
        )
    found = named(options)
    return Catalogue(
        build, exact=True, outside=False, options=unique(found), by_name=found
    )


@dataclass(frozen=True, slots=True)
class _Block:
    """One option as it is printed: the left column, and the text beside it."""

    left: str
    text: str


def _blocks(help_text: str) -> Iterator[_Block]:
    left, lines = "", list[str]()
    for line in help_text.splitlines():
        if line.startswith("-"):
            if left:
                yield _Block(left, " ".join(lines))
            left, lines = _columns(line)
        elif left and line.startswith(" " * _COLUMN):
            lines.append(line.strip())
    if left:
        yield _Block(left, " ".join(lines))


def _columns(line: str) -> tuple[str, list[str]]:
    """The left column and the begin of the text; nothing for a heading."""
    if _HEADING.fullmatch(line.strip()):
        return "", []
    if line[_COLUMN - 3 : _COLUMN].isspace():
        return line[:_COLUMN].rstrip(), [line[_COLUMN:].strip()]
    return line.rstrip(), []


def _option(block: _Block) -> Option:
    spellings, hint = _names(block.left)
    names, off = _sides(spellings) if not hint else (spellings, ())
    env = _ENV.search(block.text)
    return Option(
        names=names,
        takes=_takes(hint),
        off=off,
        hint=hint,
        values=_values(hint, block.text),
        env=env[1] if env else "",
        standing=_standing(block.text),
    )


def _names(left: str) -> tuple[tuple[str, ...], str]:
    """The names, and the words for the value behind the last one."""
    names: list[str] = []
    at = 0
    while found := _NAME.match(left, at):
        names.append(found[0])
        comma = re.compile(r",\s*").match(left, found.end())
        at = comma.end() if comma else found.end()
        if comma is None:
            break
    return tuple(names), left[at:].strip()


def _sides(spellings: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names that turn it on, and behind the first long one, names that turn it off."""
    long = (i for i, name in enumerate(spellings) if name.startswith("--"))
    first = next(long, len(spellings))
    for index, name in enumerate(spellings[first + 1 :], start=first + 1):
        if name.startswith(("--no-", "-n")):
            return spellings[:index], spellings[index:]
    return spellings, ()


def _takes(hint: str) -> Takes:
    if not hint:
        return Takes.NOTHING
    if hint in _SWITCHES:
        return Takes.SWITCH
    return Takes.TWO if re.fullmatch(r"[A-Z]+ [A-Z]+", hint) else Takes.TEXT


def _values(hint: str, text: str) -> tuple[str, ...]:
    """The values that are all there are: a choice, or a list said to be complete."""
    if choice := _CHOICE.fullmatch(hint):
        return tuple(re.split(r"[,|]", choice[1] or choice[2]))
    if allowed := _ALLOWED.search(text):
        return tuple(allowed[1].split(", "))
    return ()


def _standing(text: str) -> Standing:
    if "argument has been removed" in text:
        return Standing.REMOVED
    deprecated = "deprecated" in text.lower()
    return Standing.DEPRECATED if deprecated else Standing.CURRENT


def _refined(option: Option, shipped: Catalogue) -> Option:
    """With the type of value that the help does not tell."""
    same = shipped.find(option.name)
    unsure = option.name in shipped.uncertain
    if same is None or unsure or (same.takes, option.takes) not in _SAME_FORM:
        return option
    sure = shipped.exact or not shipped.outside
    values = option.values or (same.values if sure else ())
    return replace(option, takes=same.takes, values=values)


_SAME_FORM = frozenset(
    {(takes, takes) for takes in Takes}
    | {(takes, Takes.TEXT) for takes in (Takes.INT, Takes.NUMBER, Takes.SWITCH)}
)
"""Forms that the help prints alike: in the catalogue, in the help."""
