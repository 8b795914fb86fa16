"""Explanations of one option on a build, and the options in which two builds differ.

The form is that of ``common_arg::to_string`` in ``common/arg.cpp``: an option begins
in column 0 with its names, the words for its value follow the last name, the text
stands from column 40 on, here or on the next line, and ``(env: NAME)`` ends it.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import assert_never

from deployer.errors import EngineError
from deployer.llama.catalogue import (
    Catalogue,
    Known,
    Life,
    Option,
    Standing,
    Takes,
    catalogue,
    every_name,
    life_of,
    named,
    seen,
    spelled,
    unique,
)
from deployer.llama.known.tables import newer, older
from deployer.llama.tree import default_in, successors_in
from deployer.spelling import nearest, one_of


@dataclass(frozen=True, slots=True)
class Explanation:
    """All that is known of one option on one build."""

    build: int | None
    name: str
    """The spelling that was found, or the one that was asked for."""
    known: Known
    option: Option | None
    """As this build has it; else as the last build has it that knows it."""
    life: Life | None
    """None for an option that was never seen."""
    instead: tuple[str, ...]
    """Words that say the same on this build."""
    near: str | None
    """The likely intended name, where this one is unknown."""


def explain(build: int | None, name: str) -> Explanation:
    """Explain an option on a build, by any of its names, with dashes or without."""
    found = catalogue(build)
    every = every_name()
    asked = _full(name, every)
    option = found.find(asked)
    known = Known.YES if option else Known.NO
    if asked in found.uncertain or (found.beyond and not _gone(option, asked)):
        known = Known.UNCERTAIN
    if option and not _works(option):
        known = Known.NO
    others = seen(asked)
    words = (*newer(asked), *(old for old in older(asked) if old.startswith("--")))
    instead = tuple(w for w in words if found.find(w.partition(" ")[0]))
    near = None if asked in every else nearest(asked, every)
    best = option or (others[-1] if others else None)
    return Explanation(build, asked, known, best, life_of(asked), instead, near)


def _gone(option: Option | None, name: str) -> bool:
    """Return whether an option was seen, and then no more: it stays gone."""
    return option is None and life_of(name) is not None


def _full(name: str, every: frozenset[str]) -> str:
    """The spelling that is meant, given with or without its dashes."""
    if name.startswith("-"):
        return spelled(name)
    long = spelled(f"--{name}")
    return long if long in every or f"-{name}" not in every else f"-{name}"


@dataclass(frozen=True, slots=True)
class Renamed:
    """An option that goes by other words on the newer build."""

    old: str
    new: str


@dataclass(frozen=True, slots=True)
class Changed:
    """One property of an option that two builds differ in."""

    name: str
    part: str
    """``takes``, ``values``, ``default``, ``env`` or ``names``."""
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class FlagDiff:
    """Differences in options between two builds, each sorted by name."""

    old: int | None
    new: int | None
    added: tuple[Option, ...]
    removed: tuple[Option, ...]
    """Gone, or parsed only to be refused; the renamed ones are not among them."""
    renamed: tuple[Renamed, ...]
    changed: tuple[Changed, ...]
    deprecated: tuple[Option, ...]
    """Deprecated on the newer build, and not yet on the older one."""
    uncertain: tuple[str, ...]
    """Spellings that one of the builds may or may not have."""
    beyond: str = ""
    """Reason why one of the builds may differ in more; empty where both are known."""


def diff(old: int, new: int) -> FlagDiff:
    """Return what is different between two builds, as the table has them."""
    return compared(catalogue(old), catalogue(new))


def compared(before: Catalogue, after: Catalogue) -> FlagDiff:
    """Return what is different between two builds, in the direction asked for."""
    unsure = before.uncertain | after.uncertain
    gone, came = _only_in(before, after, unsure), _only_in(after, before, unsure)
    heirs = {o: words for o in gone if (words := _successor(o, after))}
    inherited = {after.find(words.partition(" ")[0]) for words in heirs.values()}
    pairs = [(o, n) for o in before.options if (n := _counterpart(o, after))]
    sure = [(o, n) for o, n in pairs if not unsure & {*o.spellings, *n.spellings}]
    return FlagDiff(
        before.build,
        after.build,
        added=tuple(o for o in came if o not in inherited),
        removed=tuple(o for o in gone if o not in heirs),
        renamed=tuple(Renamed(o.name, words) for o, words in heirs.items()),
        changed=tuple(change for pair in sure for change in _changes(*pair)),
        deprecated=tuple(n for o, n in sure if _newly_deprecated(o, n)),
        uncertain=tuple(sorted(unsure)),
        beyond=before.beyond or after.beyond,
    )


def _only_in(
    one: Catalogue, other: Catalogue, unsure: frozenset[str]
) -> tuple[Option, ...]:
    """The options that work on one build and by no name on the other, for certain."""
    works = (o for o in one.options if _works(o) and not unsure & {*o.spellings})
    return tuple(o for o in works if _counterpart(o, other) is None)


def _works(option: Option) -> bool:
    return option.standing is not Standing.REMOVED


def _counterpart(option: Option, other: Catalogue) -> Option | None:
    """The option of the other build that works by one of these names."""
    found = (other.find(name) for name in option.spellings)
    return next((one for one in found if one and _works(one)), None)


def _successor(option: Option, after: Catalogue) -> str:
    """The words that say the same on the other build, if any do."""
    words = (w for name in option.spellings for w in (*newer(name), *older(name)))
    return next((w for w in words if after.find(w.partition(" ")[0])), "")


def _newly_deprecated(old: Option, new: Option) -> bool:
    states = (old.standing, new.standing)
    return states == (Standing.CURRENT, Standing.DEPRECATED)


def _changes(old: Option, new: Option) -> Iterator[Changed]:
    """Every property that differs, in words, under a name that both have."""
    common = [name for name in old.spellings if name in new.spellings]
    name = old.name if old.name in common else common[0]
    if old.takes is not new.takes:
        yield Changed(name, "takes", _wants(old), _wants(new))
    if set(old.values) != set(new.values) and old.values and new.values:
        yield Changed(name, "values", "|".join(old.values), "|".join(new.values))
    if old.default != new.default and old.default and new.default:
        yield Changed(name, "default", old.default, new.default)
    if old.env != new.env:
        yield Changed(name, "env", old.env or "none", new.env or "none")
    lost = [one for one in old.spellings if one not in common]
    won = [one for one in new.spellings if one not in common]
    if lost or won:
        yield Changed(name, "names", ", ".join(lost), ", ".join(won))


def _wants(option: Option) -> str:
    match option.takes:
        case Takes.NOTHING:
            return "nothing"
        case Takes.INT:
            return "an integer"
        case Takes.NUMBER:
            return "a number"
        case Takes.SWITCH | Takes.TEXT:
            return one_of(option.values) if option.values else "a string"
        case Takes.TWO:
            return "two values"
        case _:
            assert_never(option.takes)


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
        build, exact=True, options=unique(found), by_name=found, origin="help"
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
    text, standing = block.text.partition("(env:")[0], _standing(block.text)
    removed = standing is Standing.REMOVED
    return Option(
        names=names,
        takes=_takes(hint),
        off=off,
        hint=hint,
        values=_values(hint, block.text),
        env=env[1] if env else "",
        standing=standing,
        default="" if removed else default_in(text),
        instead=successors_in(text) if removed else (),
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
    sure = shipped.exact or not shipped.beyond
    values = option.values or (same.values if sure else ())
    return replace(option, takes=same.takes, values=values, lists=same.lists)


_SAME_FORM = frozenset(
    {(takes, takes) for takes in Takes}
    | {(takes, Takes.TEXT) for takes in (Takes.INT, Takes.NUMBER, Takes.SWITCH)}
)
"""Forms that the help prints alike: in the catalogue, in the help."""
