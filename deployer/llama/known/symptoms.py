"""Logs to causes: what a line means and what to do about it."""

import re
import signal
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Final

from deployer.diagnostics import Severity
from deployer.llama.known.tables import read, rows

START: Final = "start"
"""Theme of the symptoms that tell why a server did not start."""

_LONGEST_LINE: Final = 2000


@dataclass(frozen=True, slots=True)
class Symptom:
    """A pattern of the log, what it means, and what to do.

    Groups that the pattern catches stand in the meaning as in `re.Match.expand`.
    """

    id: str
    pattern: str
    meaning: str
    hint: str
    theme: str = START
    source: str = ""
    """Who prints the text: a build that was made to, or another program."""
    severity: Severity = Severity.ERROR
    hides: tuple[str, ...] = ()
    """Symptoms that are only what follows from this one."""


@cache
def symptoms() -> tuple[Symptom, ...]:
    """Return every symptom, in the order in which lines are compared with them."""
    return rows("symptoms.toml", "symptom", Symptom, severity=Severity)


@cache
def _signals() -> Mapping[int, Symptom]:
    """Return what the end by a signal means, by its number."""
    return {
        signal.Signals[row["signal"]]: Symptom(
            row["id"], "", row["meaning"], row["hint"]
        )
        for row in read("symptoms.toml")["signal"]
    }


@dataclass(frozen=True, slots=True)
class Seen:
    """A symptom that a log shows."""

    symptom: Symptom
    """With what the first line that shows it says."""
    line: int
    """Number of that line, from 1."""
    text: str
    times: int


def likely_cause(lines: Sequence[str], exit_code: int | None) -> Symptom | None:
    """Why a server did not start: the first that the log shows, else the signal.

    `exit_code` is negative for a signal, None when unknown.
    """
    for symptom in (it for it in symptoms() if it.theme == START):
        for line in lines:
            if match := _pattern(symptom.pattern).search(line):
                return _with_words(symptom, match)
    return _signals().get(-exit_code) if exit_code else None


def symptoms_in(lines: Iterable[str]) -> tuple[Seen, ...]:
    """Every symptom that a log shows, once, in the order of the log."""
    found: dict[str, Seen] = {}
    for number, whole in enumerate(lines, start=1):
        line = whole[:_LONGEST_LINE]
        if not _any_pattern().search(line):
            continue
        for symptom in symptoms():
            match = _pattern(symptom.pattern).search(line)
            if match is None:
                continue
            if symptom.id in found:
                known = found[symptom.id]
                found[symptom.id] = replace(known, times=known.times + 1)
            else:
                told = _with_words(symptom, match)
                found[symptom.id] = Seen(told, number, line.strip(), 1)
    hidden = {name for seen in found.values() for name in seen.symptom.hides}
    return tuple(seen for name, seen in found.items() if name not in hidden)


@cache
def _any_pattern() -> re.Pattern[str]:
    """Return one pattern for all symptoms, which most lines of a log do not match."""
    return re.compile("|".join(f"(?:{symptom.pattern})" for symptom in symptoms()))


@cache
def _pattern(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern)


def _with_words(symptom: Symptom, match: re.Match[str]) -> Symptom:
    """The symptom with what its pattern caught."""
    meaning, hint = match.expand(symptom.meaning), match.expand(symptom.hint)
    return replace(symptom, meaning=meaning, hint=hint)


THEMES: Final[Mapping[str, str]] = {
    "start": "The server does not start, or dies",
    "use": "Requests go wrong",
    "hosts": "Around the server: downloads, snapshots, Modal",
}

_HEAD: Final = """\
# Runbook

<!-- Written by `deployer doctor --runbook > docs/runbook.md`. -->

What a log says, why, and what to do about it.
`deployer doctor STACK` and `deployer doctor --logs FILE` look for all of it.
"""


def markdown() -> str:
    """Every symptom, with its cause and what to do."""
    return _HEAD + "\n".join(_tables()) + "\n"


def _tables() -> Iterator[str]:
    for theme, title in THEMES.items():
        yield from ("", f"## {title}", "", "| Name | | Cause | What to do |")
        yield "|---|---|---|---|"
        for symptom in (it for it in symptoms() if it.theme == theme):
            cells = (_words(symptom.meaning), _words(symptom.hint))
            yield f"| `{symptom.id}` | {symptom.severity} | {cells[0]} | {cells[1]} |"


def _words(text: str) -> str:
    """Without what only a log can fill in, and without the bars of a table."""
    return re.sub(r"\\[0-9]", "…", text).replace("|", "\\|")
