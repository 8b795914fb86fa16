"""What a build of llama.cpp makes of one option, and what two builds differ in."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import assert_never

from deployer.llama.flags.catalogue import (
    Catalogue,
    Life,
    Option,
    Standing,
    Takes,
    catalogue,
    every_name,
    life_of,
    seen,
    spelled,
)
from deployer.llama.known.renames import newer, older
from deployer.spelling import nearest, one_of


class Known(StrEnum):
    """Whether a build has an option."""

    YES = "yes"
    NO = "no"
    UNCERTAIN = "uncertain"


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
    """What was probably meant, where the name was never seen."""


def explain(build: int | None, name: str) -> Explanation:
    """What a build makes of an option, by any of its names, with dashes or without."""
    found = catalogue(build)
    every = every_name()
    asked = _full(name, every)
    option = found.find(asked)
    known = Known.YES if option else Known.NO
    if asked in found.uncertain or (option is None and _may_be(asked, found)):
        known = Known.UNCERTAIN
    if option and not _works(option):
        known = Known.NO
    others = seen(asked)
    words = (*newer(asked), *(old for old in older(asked) if old.startswith("--")))
    instead = tuple(w for w in words if found.find(w.partition(" ")[0]))
    near = None if asked in every else nearest(asked, every)
    best = option or (others[-1] if others else None)
    return Explanation(build, asked, known, best, life_of(asked), instead, near)


def _may_be(name: str, found: Catalogue) -> bool:
    """Return whether an option may be there that nobody has seen there."""
    return found.outside and life_of(name) is None


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
    """``takes``, ``values``, ``env`` or ``names``."""
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class FlagDiff:
    """What a change of the build means for options, each sorted by name."""

    old: int
    new: int
    added: tuple[Option, ...]
    removed: tuple[Option, ...]
    """Gone, or parsed only to be refused; the renamed ones are not among them."""
    renamed: tuple[Renamed, ...]
    changed: tuple[Changed, ...]
    deprecated: tuple[Option, ...]
    """Deprecated on the newer build, and not yet on the older one."""
    uncertain: tuple[str, ...]
    """Spellings that one of the builds may or may not have."""


def diff(old: int, new: int) -> FlagDiff:
    """Return what is different between two builds, in the direction asked for."""
    before, after = catalogue(old), catalogue(new)
    unsure = before.uncertain | after.uncertain
    gone, came = _only_in(before, after, unsure), _only_in(after, before, unsure)
    heirs = {o: words for o in gone if (words := _successor(o, after))}
    inherited = {after.find(words.partition(" ")[0]) for words in heirs.values()}
    pairs = [(o, n) for o in before.options if (n := _counterpart(o, after))]
    sure = [(o, n) for o, n in pairs if not unsure & {*o.spellings, *n.spellings}]
    return FlagDiff(
        old,
        new,
        added=tuple(o for o in came if o not in inherited),
        removed=tuple(o for o in gone if o not in heirs),
        renamed=tuple(Renamed(o.name, words) for o, words in heirs.items()),
        changed=tuple(change for pair in sure for change in _changes(*pair)),
        deprecated=tuple(n for o, n in sure if _newly_deprecated(o, n)),
        uncertain=tuple(sorted(unsure)),
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
            return "a whole number"
        case Takes.NUMBER:
            return "a number"
        case Takes.SWITCH | Takes.TEXT:
            return one_of(option.values) if option.values else "a text"
        case Takes.TWO:
            return "two values"
        case _:
            assert_never(option.takes)
