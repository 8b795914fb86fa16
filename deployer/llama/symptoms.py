"""Logs to causes: the one table of what a line means and what to do about it."""

import re
import signal
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Final

from deployer.llama.symptom import Symptom
from deployer.llama.symptoms_of_hosts import HOSTS
from deployer.llama.symptoms_of_start import START
from deployer.llama.symptoms_of_use import USE

SYMPTOMS: Final = (*START, *HOSTS, *USE)

_LONGEST_LINE: Final = 2000

_SIGNALS: Final[Mapping[int, Symptom]] = {
    signal.SIGILL: Symptom(
        "illegal-instruction",
        "",
        "the processor lacks an instruction that the server was built with",  # b10434
        "build on this machine, or take binaries for this processor",
    ),
    signal.SIGKILL: Symptom(
        "killed",
        "",
        "it was killed, most likely because the machine ran out of memory",
        "`dmesg` or `journalctl -k` tells; lower `server.ctx_size`, or take a smaller"
        " `model.quant`",
    ),
    signal.SIGABRT: Symptom(
        "aborted",
        "",
        "it gave up on an error of its own (an assertion or an exception)",
        "the log tells which; try another `llama_cpp.tag`",
    ),
    signal.SIGSEGV: Symptom(
        "crashed",
        "",
        "it crashed (segmentation fault)",
        "try another `llama_cpp.tag`",
    ),
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
    for symptom in START:
        for line in lines:
            if match := _pattern(symptom.pattern).search(line):
                return _with_words(symptom, match)
    return _SIGNALS.get(-exit_code) if exit_code else None


def symptoms_in(lines: Iterable[str]) -> tuple[Seen, ...]:
    """Every symptom that a log shows, once, in the order of the log."""
    found: dict[str, Seen] = {}
    for number, whole in enumerate(lines, start=1):
        line = whole[:_LONGEST_LINE]
        if not _any_pattern().search(line):
            continue
        for symptom in SYMPTOMS:
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
    """What most lines of a log do not match: one look instead of one a symptom."""
    return re.compile("|".join(f"(?:{symptom.pattern})" for symptom in SYMPTOMS))


@cache
def _pattern(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern)


def _with_words(symptom: Symptom, match: re.Match[str]) -> Symptom:
    """The symptom with what its pattern caught."""
    meaning, hint = match.expand(symptom.meaning), match.expand(symptom.hint)
    return replace(symptom, meaning=meaning, hint=hint)
