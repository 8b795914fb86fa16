"""What llama-server would end on, said before anything is built or started."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile

from deployer.diagnostics import Diagnostic
from deployer.llama.flags.catalogue import (
    Catalogue,
    Option,
    Standing,
    Takes,
    catalogue,
    every_name,
    life_of,
    spelled,
    value_came,
)
from deployer.llama.known.tables import newer, older
from deployer.spelling import nearest, one_of

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
) -> Iterator[Diagnostic]:
    """Yield what is wrong with the options that each field of a stack became.

    What is not certain for this build is not refused: options that only one of its
    neighbours has, and names and values never seen where the build lies outside what
    was read.  `known` is the catalogue of the binary itself where there is one.
    """
    found = known or catalogue(build)
    for path, group in words:
        for use in _uses(group, found):
            if problem := _problem(use, found, path):
                yield Diagnostic(path, *problem)


@dataclass(frozen=True, slots=True)
class _Use:
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


def _problem(use: _Use, known: Catalogue, path: str) -> tuple[str, str] | None:
    """Return what is wrong and what to write instead; None where nothing is."""
    if use.option is None:
        return _not_known(use, known, path)
    if use.name in known.uncertain:
        return None
    if use.option.standing is Standing.REMOVED:
        life = life_of(use.name)
        since = f" {life.refused}" if life and life.refused else ""
        what = f"{_of(known)} refuses `{use.name}`: it was removed{since}"
        return what, _write(newer(use.name), use, known, path)
    count = {Takes.NOTHING: 0, Takes.TWO: 2}.get(use.option.takes, 1)
    if len(use.words) != count:
        return _miscounted(use, use.option, count, path)
    if count == 1:
        return _wrong_value(use, use.option, use.words[0], known)
    return None


def _not_known(use: _Use, known: Catalogue, path: str) -> tuple[str, str] | None:
    """An option that the build does not have."""
    name, life = use.name, life_of(use.name)
    if life is None:
        return None if known.outside else _never_seen(use, known, path)
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


def _never_seen(use: _Use, known: Catalogue, path: str) -> tuple[str, str]:
    """A slip of the finger, or the off form of an option that has none."""
    positive = known.find(use.name.replace("--no-", "--", 1))
    if use.name.startswith("--no-") and positive:
        what = f"`{positive.name}` has no form that turns it off"
        if "off" in positive.values:
            return what, _typed(positive.name, "off", path)
        return what, "leave it out"
    what = f"{_of(known)} has no option `{use.name[:60]}`"
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
    if value in option.values:
        return None
    shown = value[:60]
    match option.takes:
        case Takes.INT if not _WHOLE.fullmatch(value):
            wanted = " or ".join(("a whole number", *(f"`{v}`" for v in option.values)))
            what = f"`{use.name}` takes {wanted}, got `{shown}`"
            cut = _DIGITS.match(value)
            return what, f"llama-server would read `{cut[1]}`" if cut else ""
        case Takes.NUMBER if not _NUMBER.fullmatch(value):
            return f"`{use.name}` takes a number, got `{shown}`", ""
        case Takes.SWITCH if value not in _words_of_switch(option):
            return _not_among(use, option, shown, known)
        case Takes.TEXT if option.values and not known.outside:
            return _not_among(use, option, shown, known)
        case _:
            return None


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
