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
    """Symptoms that only follow from this one."""
    weak: bool = False
    """Its line only says that it ended: silent where another error explains it."""
    excerpt: str = ""
    """A line as it was published, which a test reads."""


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
    """With the words that its first line adds."""
    line: int
    """Number of that line, from 1."""
    text: str
    times: int


@dataclass(frozen=True, slots=True)
class Unknown:
    """A line that looks like a failure, and that no symptom explains."""

    line: int
    text: str


@dataclass(frozen=True, slots=True)
class Reading:
    """Everything that a log shows."""

    seen: tuple[Seen, ...]
    """Known symptoms, each once, in the order of the log."""
    unknown: tuple[Unknown, ...]
    empty: bool
    """The log has no line with text."""


def likely_cause(lines: Sequence[str], exit_code: int | None) -> Symptom | None:
    """Return why a server did not start: the error nearest to the first failure.

    Without one in the log, the signal that ended it.  `exit_code` is negative for a
    signal, None when unknown.
    """
    program = tuple(_program_lines(lines))
    causes = [
        seen
        for seen in _seen(program)
        if seen.symptom.theme == START and seen.symptom.severity is Severity.ERROR
    ]
    if not causes:
        return _signals().get(-exit_code) if exit_code else None
    failed = next((n for n, text in program if _fails(text)), causes[0].line)
    return min(causes, key=lambda seen: abs(seen.line - failed)).symptom


def symptoms_in(lines: Iterable[str]) -> tuple[Seen, ...]:
    """Return every symptom that a log shows, once, in the order of the log."""
    return _seen(_program_lines(lines))


def read_log(lines: Iterable[str]) -> Reading:
    """Return what a log shows, also the failures that are not known here."""
    every = tuple(lines)
    program = tuple(_program_lines(every))
    seen = _seen(program)
    empty = not any(line.strip() for line in every)
    return Reading(seen, tuple(_unknown(program, seen)), empty)


def _seen(program: Iterable[tuple[int, str]]) -> tuple[Seen, ...]:
    found: dict[str, Seen] = {}
    for number, line in program:
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
                worded = _with_words(symptom, match)
                found[symptom.id] = Seen(worded, number, line.strip(), 1)
    hidden = {name for seen in found.values() for name in seen.symptom.hides}
    left = [seen for name, seen in found.items() if name not in hidden]
    if any(_explains(seen.symptom) for seen in left):
        left = [seen for seen in left if not seen.symptom.weak]
    return tuple(left)


def _explains(symptom: Symptom) -> bool:
    return symptom.severity is Severity.ERROR and not symptom.weak


# A client can write anything into a prompt: what a verbose log repeats of requests and
# answers is no word of the program.
_LEVEL: Final = re.compile(
    r"(?:^|[|\]\s] ?)(?:(?:\d+\.)+\d{3}\.\d{3} |(?<=^))(?P<level>[DEINW]) (?P<more>  )?"
)
_REPEATED: Final = re.compile(
    r"\{[^{}]{0,300}?\"(?:messages|prompt|input|documents|choices|content)\"\s*:"
    r"|(?<![\"\w])(?:request|response|body|prompt|example_format|[Pp]arsed message"
    r"|Parsing \w+|Grammar|content)\s*[:=]\s*(?=[{\['\"])"
)
_ENDS: Final = {"{": "}", "[": "]", "'": "'", '"': '"'}
_REFUSED: Final = (
    re.compile(r"nauthorized: Invalid API Key"),
    re.compile(r"exceeds the available context size"),
    re.compile(r"got exception: "),
)
"""Lines of refused requests: without the key, too long, and wrong in another way."""
_OWN: Final = re.compile(r"got exception: .*\bdeployer's own: (\d+), (\d+), (\d+)\b")


def own_refusals(without_key: int, too_long: int, wrong: int) -> str:
    """Return what deployer has a server log after requests that were to be refused.

    Only a client with the key can: of others nothing that they send is repeated.
    """
    return f"deployer's own: {without_key}, {too_long}, {wrong}"


def _program_lines(lines: Iterable[str]) -> Iterator[tuple[int, str]]:
    """Yield the numbered lines of the program, without what they repeat of clients."""
    return _without_gates(_unquoted(lines))


def _unquoted(lines: Iterable[str]) -> Iterator[tuple[int, str]]:
    awaited = ""
    for number, whole in enumerate(lines, start=1):
        line = whole[:_LONGEST_LINE].rstrip()
        level = _LEVEL.search(line[:80])
        if awaited and level is None:
            awaited = "" if line.endswith(awaited) else awaited
            continue
        awaited = ""
        if repeated := _REPEATED.search(line):
            begins = next((c for c in line[repeated.start() :] if c in _ENDS), "")
            ends = _ENDS.get(begins, "")
            # The line may be cut here: only a whole one can end what it repeats.
            awaited = "" if whole.rstrip().endswith(ends) else ends
            line = line[: repeated.start()]
        if level is None or level["level"] != "D":
            yield number, line


def _without_gates(program: Iterable[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    """Leave out the refusals that deployer asked for, and what it says of them.

    Each number takes the refusals before it: what is left over, clients asked for.
    """
    lines = list(program)
    refused, own = [list[int]() for _ in _REFUSED], set[int]()
    for at, (_, text) in enumerate(lines):
        if said := _OWN.search(text):
            own.add(at)
            for kind, count in zip(refused, map(int, said.groups()), strict=True):
                own |= {*kind[len(kind) - min(count, len(kind)) :]}
                del kind[len(kind) - min(count, len(kind)) :]
        else:
            for kind, pattern in zip(refused, _REFUSED, strict=True):
                if pattern.search(text):
                    kind.append(at)
                    break
    yield from (line for at, line in enumerate(lines) if at not in own)


_FAILS: Final = re.compile(
    r"\bterminate called|\b(?:CUDA|ROCm|HIP|rocBLAS) error\b|[Ss]egmentation fault"
    r"|\b(?:core dumped|Aborted)\b|\bpanic: |\bFATAL\b|Traceback \(most recent call"
    r"|[Ee]xit(?:ed)?(?: with)?(?: code|Code)[ :=]+[1-9]|exiting due to"
    r"|\b(?:done request: .*|HTTP(?:/[\d.]+)?) 5\d\d\b"
    r"|got exception: .{0,20}\"code\":5\d\d"
)
_ERROR: Final = re.compile(
    r"(?<![\w.-])(?:[Ee]rror|ERROR)(?:\s+\w+){0,4}\s*:|\b[Ff]ailed to \w+"
    r"|\b(?:error|Error) (?:while|loading|reading|parsing|in|from|response)\b"
)
_FOLLOWS: Final = re.compile(
    r"failed to load model|unable to load model|exiting due to|terminate called"
    r"|core dumped|Aborted|  what\(\):|failed to (?:create|initialize) (?:the )?context"
    r"|failed to init(?:ialize)?\b|[Ee]xit(?:ed)?(?: with)?(?: code|Code)"
    r"|current device: |llama_init_from_\w+|error loading model|done request: "
    r"|pinned memory|send_error: |error: failed"
)
_NEAR: Final = 6
"""Lines within which one failure leads to more of them."""
_SHOWN: Final = 3


def _fails(line: str) -> bool:
    """Return whether a line of the program reports a failure."""
    level = _LEVEL.search(line[:80])
    if _FAILS.search(line):
        return True
    if level is not None:
        # Indented text goes on with the line before.
        return level["level"] == "E" and level["more"] is None
    return _ERROR.search(line) is not None


def _unknown(
    program: Iterable[tuple[int, str]], seen: Sequence[Seen]
) -> Iterator[Unknown]:
    """Yield the first failures that nothing explains; a known one has follow-ups."""
    known = [it.line for it in seen if _explains(it.symptom)]
    explained, shown = -_NEAR, set[str]()
    for number, line in program:
        if _any_pattern().search(line):
            explained = number
            continue
        if not _fails(line):
            continue
        follows = _FOLLOWS.search(line) is not None and (
            bool(shown) or any(number >= it - _NEAR for it in known)
        )
        if follows or (number - explained <= _NEAR and (known or "request" in line)):
            explained = number
            continue
        what = re.sub(r"\d+", "", line)
        if what not in shown and len(shown) < _SHOWN:
            shown.add(what)
            yield Unknown(number, line.strip())


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

<!-- Written by `python -m scripts.docs.write`. -->

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
