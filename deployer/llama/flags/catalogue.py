"""The options of llama-server for a build of llama.cpp, as far as they are known.

Read from ``common/arg.cpp`` of 24 builds from b8646 to b11434, and from the help of
b10434; what holds for the builds in between is inferred, and marked where it cannot be.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cache
from importlib.resources import files
from typing import TypedDict

_DATA = files("deployer.llama.flags") / "data" / "server_flags.json"


class Takes(StrEnum):
    """What an option wants behind it."""

    NOTHING = "nothing"
    INT = "int"
    """A whole number, or one of the option's `values`."""
    NUMBER = "number"
    SWITCH = "switch"
    """One of `values`, or another word for it: `true`, `1`, `enabled` …"""
    TEXT = "text"
    """Any text, or one of `values` where it has some."""
    TWO = "two"
    """Two words."""


class Standing(StrEnum):
    """How upstream regards an option."""

    CURRENT = ""
    DEPRECATED = "deprecated"
    """It works, and warns."""
    REMOVED = "removed"
    """It is still parsed, only to be refused."""


@dataclass(frozen=True, slots=True)
class Option:
    """One option of llama-server, with every name it goes by."""

    names: tuple[str, ...]
    takes: Takes = Takes.NOTHING
    off: tuple[str, ...] = ()
    """Names that turn it off; none where that is not possible."""
    hint: str = ""
    """What upstream calls the value: ``N``, ``FNAME``, ``[on|off|auto]``."""
    values: tuple[str, ...] = ()
    env: str = ""
    """The environment variable that says the same; empty for none."""
    standing: Standing = Standing.CURRENT

    @property
    def name(self) -> str:
        """The first long name."""
        long = (name for name in self.names if name.startswith("--"))
        return next(long, self.names[0])

    @property
    def spellings(self) -> tuple[str, ...]:
        """Every name, those that turn it off included."""
        return (*self.names, *self.off)


@dataclass(frozen=True, slots=True)
class Catalogue:
    """The options of one build."""

    build: int | None
    """None where only a commit is known."""
    exact: bool
    """Read from this very build; else inferred from its neighbours."""
    outside: bool
    """Older or newer than every build that was read: the nearest one stands in."""
    options: tuple[Option, ...]
    uncertain: frozenset[str] = frozenset()
    """Spellings that only one of the two neighbours knows, or knows differently."""
    by_name: Mapping[str, Option] = field(default_factory=dict, compare=False)

    def find(self, spelling: str) -> Option | None:
        """The option of this name; in long names `_` and `-` are the same."""
        return self.by_name.get(spelled(spelling))


@dataclass(frozen=True, slots=True)
class Edge:
    """A change between two builds: not yet in `after`, there in `by`."""

    after: int
    by: int

    @property
    def exact(self) -> bool:
        """Whether it is known in which build it came."""
        return self.by == self.after + 1

    def __str__(self) -> str:
        if self.exact:
            return f"in b{self.by}"
        return f"between b{self.after} and b{self.by}"


@dataclass(frozen=True, slots=True)
class Life:
    """When an option came and went; None where that lies outside what was read."""

    came: Edge | None
    deprecated: Edge | None
    refused: Edge | None
    """Since then it is parsed only to be refused."""
    gone: Edge | None


@cache
def catalogue(build: int | None) -> Catalogue:
    """The options of a build: read, inferred from its neighbours, or of the nearest."""
    builds = _read().builds
    oldest, newest = builds[0], builds[-1]
    if build in builds:
        found = _at(build)
        return Catalogue(build, True, False, unique(found), by_name=found)  # noqa: FBT003 - the fields are named above
    if build is None or not oldest < build < newest:
        found = _at(oldest if build is not None and build < oldest else newest)
        return Catalogue(
            build, exact=False, outside=True, options=unique(found), by_name=found
        )
    return _between(build)


def seen(spelling: str) -> tuple[Option, ...]:
    """The option of this name in every build read that has it, oldest first."""
    name = spelled(spelling)
    found = (_at(build).get(name) for build in _read().builds)
    return tuple(option for option in found if option is not None)


@cache
def life_of(spelling: str) -> Life | None:
    """When the option of this name came and went; None for one never seen."""
    name = spelled(spelling)
    read = _read()
    here = [build for build in read.builds if name in _at(build)]
    if not here:
        return None
    exact = read.exact.get(name, _Exact())

    def turned(standing: Standing) -> Edge | None:
        so = [build for build in here if _at(build)[name].standing is standing]
        return _edge_before(so[0]) if so and so[0] != here[0] else None

    return Life(
        came=_edge_in(exact.since) or _edge_before(here[0]),
        deprecated=_edge_in(exact.deprecated) or turned(Standing.DEPRECATED),
        refused=turned(Standing.REMOVED),
        gone=_edge_in(exact.gone) or _edge_after(here[-1]),
    )


@cache
def value_came(spelling: str, value: str) -> Edge | None:
    """When an option took this value for the first time; None if it never does."""
    name = spelled(spelling)
    options = ((build, _at(build).get(name)) for build in _read().builds)
    with_it = [build for build, option in options if option and value in option.values]
    return _edge_before(with_it[0]) if with_it else None


@cache
def every_name() -> frozenset[str]:
    """Every spelling that any build read has."""
    return frozenset(name for build in _read().builds for name in _at(build))


def spelled(name: str) -> str:
    """A name as llama-server compares it."""
    return name.replace("_", "-") if name.startswith("--") else name


def unique(by_name: Mapping[str, Option]) -> tuple[Option, ...]:
    """Each option once, by name."""
    return tuple(sorted(dict.fromkeys(by_name.values()), key=lambda o: o.name))


def named(options: Iterable[Option]) -> dict[str, Option]:
    """The options by each of their spellings."""
    return {name: option for option in options for name in option.spellings}


def _between(build: int) -> Catalogue:
    """Return what two neighbours say of a build between them."""
    read = _read()
    old = _at(max(b for b in read.builds if b < build))
    new = _at(min(b for b in read.builds if b > build))
    found: dict[str, Option] = {}
    uncertain: set[str] = set()
    for name in (*new, *(name for name in old if name not in new)):
        before, after = old.get(name), new.get(name)
        exact = read.exact.get(name, _Exact())
        if build < (exact.since or 0) or build >= (exact.gone or build + 1):
            continue
        found[name] = _merged(before, after)
        sure = name in read.exact or _agree(before, after)
        if not sure:
            uncertain.add(name)
    return Catalogue(
        build,
        exact=False,
        outside=False,
        options=unique(found),
        uncertain=frozenset(uncertain),
        by_name=found,
    )


def _agree(old: Option | None, new: Option | None) -> bool:
    """Return whether both neighbours take the option, and take it in the same way."""
    if old is None or new is None:
        return False
    refused = (old.standing is Standing.REMOVED, new.standing is Standing.REMOVED)
    return old.takes is new.takes and refused in ((False, False), (True, True))


def _merged(old: Option | None, new: Option | None) -> Option:
    """The newer form with the values of both; a refusal counts only if both refuse."""
    match old, new:
        case Option(), Option():
            both = dict.fromkeys((*new.values, *old.values))
            values = tuple(both) if old.values and new.values else ()
            refused = new.standing is Standing.REMOVED
            standing = old.standing if refused else new.standing
            return replace(new, values=values, standing=standing)
        case (Option() as one, None) | (None, Option() as one):
            return one
        case _:
            raise AssertionError("a name comes from one of the two")


def _edge_in(build: int | None) -> Edge | None:
    return None if build is None else Edge(build - 1, build)


def _edge_before(build: int) -> Edge | None:
    builds = _read().builds
    at = builds.index(build)
    return Edge(builds[at - 1], build) if at else None


def _edge_after(build: int) -> Edge | None:
    builds = _read().builds
    at = builds.index(build) + 1
    return Edge(build, builds[at]) if at < len(builds) else None


@dataclass(frozen=True, slots=True)
class _Shipped:
    """The packaged file."""

    builds: tuple[int, ...]
    options: tuple[tuple[Option, tuple[tuple[int, int], ...]], ...]
    exact: Mapping[str, "_Exact"]
    """By spelling."""


@dataclass(frozen=True, slots=True)
class _Exact:
    """The very builds of some changes; None where only the neighbours are known."""

    since: int | None = None
    deprecated: int | None = None
    gone: int | None = None


class _Entry(TypedDict, total=False):
    names: list[str]
    takes: str
    off: list[str]
    hint: str
    values: list[str]
    env: str
    standing: str
    builds: list[tuple[int, int]]


def catalogue_digest() -> str:
    """SHA-256 of what this deployer knows of options."""
    return hashlib.sha256(_DATA.read_bytes()).hexdigest()


@cache
def _read() -> _Shipped:
    content = json.loads(_DATA.read_text("utf-8"))
    exact = {
        name: _Exact(*(entry.get(key) for key in ("since", "deprecated", "gone")))
        for entry in content["exact"]
        for name in entry["names"]
    }
    return _Shipped(
        tuple(content["builds"]), tuple(map(_entry, content["options"])), exact
    )


def _entry(entry: _Entry) -> tuple[Option, tuple[tuple[int, int], ...]]:
    option = Option(
        names=tuple(entry["names"]),
        takes=Takes(entry["takes"]),
        off=tuple(entry.get("off", ())),
        hint=entry.get("hint", ""),
        values=tuple(entry.get("values", ())),
        env=entry.get("env", ""),
        standing=Standing(entry.get("standing", "")),
    )
    return option, tuple((first, last) for first, last in entry["builds"])


@cache
def _at(build: int) -> Mapping[str, Option]:
    """The options of a build that was read, by every spelling."""
    return named(
        option
        for option, ranges in _read().options
        if any(first <= build <= last for first, last in ranges)
    )
