"""The options of llama-server for a build of llama.cpp, as far as they are known.

Read from ``common/arg.cpp`` of 24 builds from b8646 to b11434, and from the help of
b10434; what holds for the builds in between is inferred, and marked where it cannot be.
"""

import hashlib
import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cache
from importlib.resources import files
from itertools import takewhile
from typing import Final, NamedTuple, TypedDict

from deployer.diagnostics import UNCERTAIN, Diagnostic, Severity
from deployer.llama.known.tables import newer, older
from deployer.spelling import nearest, one_of
from deployer.stack.fields.values import File, JsonValue

_DATA = files("deployer.llama") / "data" / "server_flags.json"


_PATH = re.compile(r"(\w+_)?(?P<what>FNAME|FILE|PATH|DIR)(?P<scale>:SCALE,\.\.\.)?")
_WRITTEN = frozenset({"dynamic", "log", "save"})
"""Words of the names of options whose file llama-server writes."""


_SAID_AGAIN = frozenset({"dry-sequence-breaker", "logit-bias", "reverse-prompt"})
"""Options that llama-server collects; of all others the last one counts."""
_WITH_COMMAS = frozenset(
    {
        *("alias", "control-vector", "cors-headers", "cors-methods", "cors-origins"),
        *("lora", "rpc", "spec-type", "tags"),
    }
)
"""Options that take a list whose sign their hint does not show (`common/arg.cpp`)."""
_PRESET = ("-default", "-spec")
"""How the names of the models end that are built into llama-server."""
_WORDS_OF_A_SWITCH = 3
"""Dashes of `--spec-default`, which names no model."""


TABLE: Final = "table"
"""The origin of options that no build stated itself."""


class Takes(StrEnum):
    """The kind of value that an option takes."""

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


class Known(StrEnum):
    """Knowledge of a name on a build."""

    YES = "yes"
    NO = "no"
    UNCERTAIN = "uncertain"


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
    """Upstream's name of the value: ``N``, ``FNAME``, ``[on|off|auto]``."""
    values: tuple[str, ...] = ()
    lists: bool = False
    """Several values may stand in one, with commas between them."""
    env: str = ""
    """The environment variable that says the same; empty for none."""
    standing: Standing = Standing.CURRENT
    default: str = ""
    """As the help prints it; empty where that is not known."""
    instead: tuple[str, ...] = ()
    """Options that upstream names to whoever still writes a removed one."""

    @property
    def name(self) -> str:
        """The first long name."""
        long = (name for name in self.names if name.startswith("--"))
        return next(long, self.names[0])

    @property
    def file(self) -> File | None:
        """The mark of a field with this option, where its value names files.

        Upstream's name of the value says so; the name of a file of a hub is none.
        """
        found = _PATH.fullmatch(self.hint)
        words = self.name.removeprefix("--").split("-")
        if found is None or words[0] == "hf":
            return None
        written = not _WRITTEN.isdisjoint(words)
        return File(
            digest="" if written else "{path}.{name}.sha256",
            folder=found["what"] in ("PATH", "DIR"),
            written=written,
            several=self.joined == ",",
            scaled=bool(found["scale"]),
        )

    @property
    def downloads(self) -> bool:
        """Return whether it makes llama-server fetch a model by itself."""
        named = self.hint.startswith(("<user>/", "[<repo>/]")) or "URL" in self.hint
        preset = self.takes is Takes.NOTHING and self.name.endswith(_PRESET)
        return named or (preset and self.name.count("-") > _WORDS_OF_A_SWITCH)

    @property
    def joined(self) -> str | None:
        """The sign between several values; empty: each is said anew; None: one only."""
        word = self.name.removeprefix("--")
        if self.hint == "SAMPLERS":
            return ";"
        if word in _SAID_AGAIN:
            return ""
        several = ("," in self.hint and not self.values) or word in _WITH_COMMAS
        return "," if several else None

    @property
    def spellings(self) -> tuple[str, ...]:
        """Every name, those that turn it off included."""
        return (*self.names, *self.off)


@dataclass(frozen=True, slots=True)
class Catalogue:
    """One build as far as it is known: its options, and what else it states."""

    build: int | None
    """None where only a commit is known."""
    exact: bool
    """Read from this very build; else inferred from its neighbours."""
    options: tuple[Option, ...]
    beyond: str = ""
    """Reason why another build stands in for this one; empty where none does."""
    origin: str = TABLE
    """The thing that this was read from."""
    uncertain: frozenset[str] = frozenset()
    """Spellings that only one of the two neighbours knows, or knows differently."""
    by_name: Mapping[str, Option] = field(default_factory=dict, compare=False)
    stated: Mapping[str, frozenset[str]] = field(default_factory=dict, compare=False)
    """Names that the source states, by kind; a kind that was not read is absent."""

    def states(self, fact: str) -> bool | None:
        """Return whether something is part of the build; None where that is unknown.

        The fact is a kind and a name: ``route GET /metrics``, ``option --load-mode``,
        ``value --load-mode mlock``; other kinds are those of a description.
        """
        kind, _, name = fact.partition(" ")
        if kind not in ("option", "value"):
            found = self.stated.get(kind)
            return None if found is None else name in found
        spelling, _, value = name.partition(" ")
        option = self.find(spelling)
        if not self.exact and (value or self.beyond or spelling in self.uncertain):
            return None
        if option is None or option.standing is Standing.REMOVED:
            return False
        return not value or value in option.values

    @property
    def spellings(self) -> Collection[str]:
        """Every name that the build takes for certain; none where that is inferred."""
        return self.by_name if self.exact else ()

    def find(self, spelling: str) -> Option | None:
        """The option of this name; in long names `_` and `-` are the same."""
        return self.by_name.get(spelled(spelling))


class Edge(NamedTuple):
    """A change between two builds: not yet in `after`, there in `by`."""

    after: int
    by: int

    @property
    def exact(self) -> bool:
        """The build that introduced it is known."""
        return self.by == self.after + 1

    def __str__(self) -> str:
        if self.exact:
            return f"in b{self.by}"
        return f"between b{self.after} and b{self.by}"


class Life(NamedTuple):
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
        return Catalogue(build, exact=True, options=unique(found), by_name=found)
    if build is None or not oldest < build < newest:
        found = _at(oldest if build is not None and build < oldest else newest)
        return Catalogue(
            build,
            exact=False,
            options=unique(found),
            beyond=_beyond(build),
            by_name=found,
        )
    return _between(build)


def _beyond(build: int | None) -> str:
    """Return how far a build lies outside of what was read."""
    read = _read()
    oldest, newest = read.builds[0], read.builds[-1]
    if build is None:
        return f"the number of the build is not known yet (b{newest} stands in for it)"
    if build < oldest:
        return f"b{build} is older than what is known (from b{oldest})"
    return f"b{build} is newer than what is known (b{newest}, {read.date})"


def seen(spelling: str) -> tuple[Option, ...]:
    """The option of this name in every build read that has it, oldest first."""
    name = spelled(spelling)
    found = (_at(build).get(name) for build in _read().builds)
    return tuple(option for option in found if option is not None)


@cache
def file_of(name: str) -> File | None:
    """The mark of a field with this option; the newest build that takes files says."""
    return next(filter(None, (it.file for it in reversed(seen(f"--{name}")))), None)


@cache
def joined(name: str) -> str | None:
    """The sign between several values of an option; see `Option.joined`."""
    found = seen(f"--{name}")
    return found[-1].joined if found else ""


@cache
def is_pair(name: str) -> bool:
    """Return whether an option takes two values."""
    return any(option.takes is Takes.TWO for option in seen(f"--{name}"))


@cache
def long_name(name: str) -> str:
    """The long name, without dashes, of an option by a name as people type it.

    What no build has is as it was, less dashes in front.
    """
    bare = name.lstrip("-").replace("_", "-")
    if not seen(f"--{bare}") and (found := seen(f"-{bare}")):
        return found[-1].name.removeprefix("--")
    return bare


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
def known_builds() -> tuple[int, ...]:
    """Return the builds that were read, oldest first."""
    return _read().builds


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


class _Shipped(NamedTuple):
    """The packaged file."""

    builds: tuple[int, ...]
    date: str
    """Date of the newest of them."""
    options: tuple[tuple[Option, tuple[tuple[int, int], ...]], ...]
    exact: Mapping[str, "_Exact"]
    """By spelling."""


class _Exact(NamedTuple):
    """The very builds of some changes; None where only the neighbours are known."""

    since: int | None = None
    deprecated: int | None = None
    gone: int | None = None


class Entry(TypedDict, total=False):
    """An option as it is written down; what is empty is left out."""

    names: list[str]
    takes: str
    off: list[str]
    hint: str
    values: list[str]
    lists: bool
    env: str
    standing: str
    default: str
    instead: list[str]
    builds: list[tuple[int, int]]
    """Ranges of builds, in the table of many."""


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
    options = tuple(
        (option_of(entry), tuple((a, b) for a, b in entry["builds"]))
        for entry in content["options"]
    )
    return _Shipped(tuple(content["builds"]), content["date"], options, exact)


def option_of(entry: Entry) -> Option:
    """The option that an entry states."""
    return Option(
        names=tuple(entry["names"]),
        takes=Takes(entry["takes"]),
        off=tuple(entry.get("off", ())),
        hint=entry.get("hint", ""),
        values=tuple(entry.get("values", ())),
        lists=entry.get("lists", False),
        env=entry.get("env", ""),
        standing=Standing(entry.get("standing", "")),
        default=entry.get("default", ""),
        instead=tuple(entry.get("instead", ())),
    )


def entry_of(option: Option) -> dict[str, JsonValue]:
    """The entry that states an option, without what is empty."""
    written: dict[str, JsonValue] = {
        "names": [*option.names],
        "takes": option.takes.value,
        "off": [*option.off],
        "hint": option.hint,
        "values": [*option.values],
        "lists": option.lists,
        "env": option.env,
        "standing": option.standing.value,
        "default": option.default,
        "instead": [*option.instead],
    }
    return {name: value for name, value in written.items() if value}


@cache
def _at(build: int) -> Mapping[str, Option]:
    """The options of a build that was read, by every spelling."""
    return named(
        option
        for option, ranges in _read().options
        if any(first <= build <= last for first, last in ranges)
    )


_ON = ("on", "enabled", "true", "1")
_OFF = ("off", "disabled", "false", "0")
_AUTO = ("auto", "-1")
"""Words that a switch takes for each other: ``common_arg_utils`` of llama.cpp."""

_WHOLE = re.compile(r"[+-]?[0-9]+")
_DIGITS = re.compile(r"\s*([+-]?[0-9]+)")
_NUMBER = re.compile(
    r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?|inf|nan", re.IGNORECASE
)
_FLAGS = "server.flags."


def problems_of(
    words: Iterable[tuple[str, Sequence[str]]],
    build: int | None,
    known: Catalogue | None = None,
    *,
    may_differ: str = "",
) -> Iterator[Diagnostic]:
    """Yield what is wrong with the options that each field of a stack became.

    What is not certain for this build is a warning: options that only one of its
    neighbours has, and names and values never seen where the build lies outside what
    was read.  `known` is the catalogue of the binary itself where there is one;
    `may_differ` says why values of upstream's options may be others there.
    """
    found = known or catalogue(build)
    doubtful = found.beyond or may_differ
    said: dict[str, str] = {}
    for path, group in words:
        for use in _uses(group, found):
            if again := _again(use, said, path, found):
                yield Diagnostic(path, *again)
                continue
            if doubt := _doubt(use, found, path, doubtful):
                yield Diagnostic(path, *doubt, Severity.WARNING, UNCERTAIN)
            elif problem := _problem(use, found, path):
                yield Diagnostic(path, *problem, about_key=use.option is None)


class _Use(NamedTuple):
    """An option as it stands on the command line, with the words behind it."""

    name: str
    option: Option | None
    words: tuple[str, ...]


def _uses(words: Sequence[str], known: Catalogue) -> Iterator[_Use]:
    """The words, cut before each option; a value may begin with one dash."""
    rest = list(words)
    while rest:
        name = rest.pop(0)
        behind = tuple(takewhile(lambda word: not word.startswith("--"), rest))
        del rest[: len(behind)]
        yield _Use(spelled(name), known.find(name), behind)


def _doubt(
    use: _Use, known: Catalogue, path: str, doubtful: str
) -> tuple[str, str] | None:
    """Return why an option cannot be judged on this build."""
    if use.option is None and known.beyond and life_of(use.name) is None:
        _, hint = _never_seen(use, known, path)
        return f"no build that was read has `{use.name[:60]}`, and {known.beyond}", hint
    if use.option is not None and use.name in known.uncertain:
        life = life_of(use.name)
        edge = life and (life.gone or life.came)
        how = f"it changed {edge}" if edge else "builds around it differ"
        return f"{_of(known)} may not take `{use.name}`: {how}", ""
    if (
        doubtful
        and use.option is not None
        and use.option.takes is Takes.TEXT
        and use.option.values
        and len(use.words) == 1
        and use.words[0] not in use.option.values
        and not _all_among(use.words[0], use.option)
    ):
        what, hint = _not_among(use, use.option, use.words[0][:60], known)
        return f"{what}, as far as known: {doubtful}", hint
    return None


def _again(
    use: _Use, said: dict[str, str], path: str, known: Catalogue
) -> tuple[str, str] | None:
    """An option that was there before, and of which the last one alone counts."""
    option = use.option
    if option is None or option.takes is Takes.NOTHING or option.joined is not None:
        return None
    first = said.get(option.name)
    if first is None:
        said[option.name] = path
        return None
    if first == path:
        return (
            f"`{option.name}` takes one value, got a list",
            "write one value",
        )
    what = f"`{first}` and `{path}` are both `{option.name}` on {_of(known)}"
    return f"{what}: the last one alone would count", "leave one of them out"


def _problem(use: _Use, known: Catalogue, path: str) -> tuple[str, str] | None:
    """Return what is wrong and what to write instead; None where nothing is."""
    if use.option is None:
        return _not_known(use, known, path)
    if use.option.standing is Standing.REMOVED:
        life = life_of(use.name)
        since = f" {life.refused}" if life and life.refused else ""
        what = f"{_of(known)} refuses `{use.name}`: it was removed{since}"
        return what, _write(newer(use.name), use, known, path)
    count = {Takes.NOTHING: 0, Takes.TWO: 2}.get(use.option.takes, 1)
    if use.option.downloads:
        what = f"`{use.name}` makes llama-server fetch a model that nothing pins"
        return what, "name the file under `model`, which fetches, pins and hashes it"
    if len(use.words) != count:
        return _miscounted(use, use.option, count, path)
    if count == 1:
        return _wrong_value(use, use.option, use.words[0], known)
    return None


def _not_known(use: _Use, known: Catalogue, path: str) -> tuple[str, str] | None:
    """An option that the build does not have."""
    name, life = use.name, life_of(use.name)
    if life is None:
        return _never_seen(use, known, path)
    build = known.build or 0
    if life.gone and (known.build is None or build >= life.gone.after):
        what = f"{_of(known)} has no `{name}`: it was removed {life.gone}"
        return what, _write(newer(name), use, known, path)
    if life.came and build < life.came.by:
        what = f"{_of(known)} has no `{name}`: it came {life.came}"
        newest = f"use `llama_cpp.tag: b{life.came.by}` or newer"
        same = older(name, " ".join(use.words))
        return what, _write(same, use, known, path, otherwise=newest)
    return f"{_of(known)} was built without `{name}`", "leave it out"


_SHORT = 3
"""Letters of a name that resembles any other short one by chance."""


def _never_seen(use: _Use, known: Catalogue, path: str) -> tuple[str, str]:
    """A slip of the finger, or the off form of an option that has none."""
    positive = known.find(use.name.replace("--no-", "--", 1))
    if use.name.startswith("--no-") and positive:
        what = f"`{positive.name}` has no form that turns it off"
        if "off" in positive.values:
            return what, _typed(positive.name, "off", path)
        return what, "leave it out"
    what = f"{_of(known)} has no option `{use.name[:60]}`"
    if len(use.name.lstrip("-")) <= _SHORT:
        return what, "write its long name: `deployer explain flag --at TAG` lists them"
    found = nearest(use.name, [n for n in known.by_name if n.startswith("--")])
    found = found or nearest(use.name, every_name())
    shown = found and (found.lstrip("-") if path.startswith(_FLAGS) else found)
    return what, f"did you mean `{shown}`?" if shown else ""


def _miscounted(use: _Use, option: Option, count: int, path: str) -> tuple[str, str]:
    """A value too many or too few."""
    if count == 0:
        what = f"`{use.name}` takes no value, got `{' '.join(use.words)[:60]}`"
        return what, _typed(use.name, None, path)
    wanted = "a value" if count == 1 else f"{count} values"
    what = f"`{use.name}` takes {wanted}, got {len(use.words) or 'none'}"
    return what, f"give it {one_of(option.values or [option.hint])}"


def _wrong_value(
    use: _Use, option: Option, value: str, known: Catalogue
) -> tuple[str, str] | None:
    """A value that llama-server refuses, or cuts off where it stops to be a number."""
    if value in option.values or _all_among(value, option):
        return None
    shown = value[:60]
    match option.takes:
        case Takes.INT if not _WHOLE.fullmatch(value):
            wanted = " or ".join(("an integer", *(f"`{v}`" for v in option.values)))
            what = f"`{use.name}` takes {wanted}, got `{shown}`"
            cut = _DIGITS.match(value)
            return what, f"llama-server would read `{cut[1]}`" if cut else ""
        case Takes.NUMBER if not _NUMBER.fullmatch(value):
            return f"`{use.name}` takes a number, got `{shown}`", ""
        case Takes.SWITCH if value not in _words_of_switch(option):
            return _not_among(use, option, shown, known)
        case Takes.TEXT if option.values:
            return _not_among(use, option, shown, known)
        case _:
            return None


def _all_among(value: str, option: Option) -> bool:
    """Return whether each part of a list is one of the values."""
    return option.lists and {*value.split(",")} <= {*option.values}


def _words_of_switch(option: Option) -> tuple[str, ...]:
    return (*_ON, *_OFF, *(_AUTO if "auto" in option.values else ()))


def _not_among(
    use: _Use, option: Option, value: str, known: Catalogue
) -> tuple[str, str]:
    """A value that is none of those the option takes."""
    what = f"`{use.name}` takes {one_of(option.values)}, got `{value}`"
    came = value_came(use.name, value)
    if came and came.by > (known.build or came.by):
        return what, f"`{value}` came {came}"
    close = nearest(value, option.values)
    return what, f"did you mean `{close}`?" if close else ""


def _write(
    instead: Iterable[str],
    use: _Use,
    known: Catalogue,
    path: str,
    *,
    otherwise: str = "leave it out",
) -> str:
    """A hint that names the words of another build, if this one knows them."""
    for words in instead:
        name, _, value = words.partition(" ")
        option = known.find(name)
        if option is None:
            continue
        if not value and option.takes is not Takes.NOTHING:
            value = " ".join(use.words) or "VALUE"
        return _typed(name, value or None, path)
    return otherwise


def _typed(name: str, value: str | None, path: str) -> str:
    """Return what to type: as a word of the command line, or as an entry of `flags`."""
    if not path.startswith(_FLAGS):
        return f"write `{name} {value}`" if value else f"write `{name}`"
    bare = name.lstrip("-")
    if value is None and bare.startswith("no-"):
        return f"write `{bare.removeprefix('no-')}: false`"
    return f"write `{bare}: {value or 'true'}`"


def _of(known: Catalogue) -> str:
    return "llama-server" if known.build is None else f"b{known.build}"
