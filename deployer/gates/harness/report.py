"""Verdicts for people and for machines: text, JSON, JUnit XML and one HTML page.

Everything but `write_report` is a pure function.
"""

import json
import math
import re
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Final
from xml.etree import ElementTree as ET

from deployer.gates.harness.answers import excerpt, show_time
from deployer.planning.events import (
    ENDED,
    Exchange,
    Outcome,
    Verdict,
    all_let_pass,
    sign,
    summary,
    word,
)
from deployer.stack.fields.values import JsonValue, show_bytes

FORMAT: Final = 1
"""Version of the JSON; grows when a field changes its meaning or goes."""
_HEADLINES: Final = ("speed", "memory")
"""Gates whose figures stand at the top of the page."""
_LEAST_SHARE: Final = 0.6
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True, slots=True)
class Report:
    """The verdicts of one run, and what they are about."""

    title: str
    verdicts: Sequence[Verdict]
    about: str = ""
    """Where and when, in the writer's own words."""


def write_report(
    verdicts: Sequence[Verdict], folder: Path, *, title: str, about: str = ""
) -> Path:
    """Write the report in every format into a folder; returns the page to look at.

    The folder is made if need be, and only its owner may look inside: the evidence
    holds prompts and answers.  Raises OSError.
    """
    report = Report(title, verdicts, about)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    machine = json.dumps(as_json(report), indent=2, ensure_ascii=False)
    (folder / "report.json").write_text(f"{machine}\n", encoding="utf-8")
    (folder / "junit.xml").write_text(as_junit(report), encoding="utf-8")
    page = folder / "report.html"
    page.write_text(as_html(report), encoding="utf-8")
    return page


def table(verdicts: Sequence[Verdict], *, width: int = 100) -> str:
    """The verdicts, readable without colour, and a line that says what follows."""
    words = [word(verdict) for verdict in verdicts]
    times = [show_time(verdict.seconds) for verdict in verdicts]
    columns = (
        max(map(len, [*words, ""])),
        max(len(verdict.gate) for verdict in verdicts) if verdicts else 0,
        max(map(len, [*times, ""])),
    )
    lines = []
    for verdict, ended, time in zip(verdicts, words, times, strict=True):
        head = (
            f"  {sign(verdict)} {ended:<{columns[0]}}  "
            f"{verdict.gate:<{columns[1]}}  {time:>{columns[2]}}  "
        )
        lines += _hanging(head, verdict.because, width)
        lines += _last_words(verdict, width)
    return "\n".join([*lines, "", conclusion(verdicts)])


def conclusion(verdicts: Sequence[Verdict]) -> str:
    """Count the outcomes, and say if they allow a promotion."""
    counts = Counter(v.outcome for v in verdicts if v.applicable)
    parts = [f"{counts[one]} {said}" for one, said in ENDED.items() if counts[one]]
    if lacking := sum(not verdict.applicable for verdict in verdicts):
        parts.append(f"{lacking} not applicable")
    result = "allowed" if may_promote(verdicts) else "blocked"
    return f"{', '.join(parts) or 'no gate ran'}: promotion {result}"


def may_promote(verdicts: Sequence[Verdict]) -> bool:
    """Return whether gates ran, and all of them let the candidate pass."""
    return bool(verdicts) and all_let_pass(verdicts)


def as_json(report: Report) -> dict[str, JsonValue]:
    """The whole report with its evidence, for machines."""
    return {
        "format": FORMAT,
        "title": report.title,
        "about": report.about,
        "may_promote": may_promote(report.verdicts),
        "verdicts": [
            {
                **summary(verdict),
                "evidence": [_exchange(exchange) for exchange in verdict.evidence],
            }
            for verdict in report.verdicts
        ],
    }


def as_junit(report: Report) -> str:
    """The report as CI systems read it.

    An advisory verdict is a skipped test, and so is a gate that is not applicable: it
    found no fault of the server, though it blocks as long as the stack asks for it.
    """
    held = [one for one in report.verdicts if one.blocks and one.applicable]
    errors = sum(verdict.outcome is Outcome.ERROR for verdict in held)
    suite = ET.Element(
        "testsuite",
        name=_xml(report.title),
        tests=str(len(report.verdicts)),
        failures=str(len(held) - errors),
        errors=str(errors),
        skipped=str(sum(_is_skipped(verdict) for verdict in report.verdicts)),
        time=f"{sum(verdict.seconds for verdict in report.verdicts):.3f}",
    )
    for verdict in report.verdicts:
        _test_case(suite, verdict)
    ET.indent(suite)
    body = ET.tostring(suite, encoding="unicode")
    return f"<?xml version='1.0' encoding='utf-8'?>\n{body}\n"


def as_html(report: Report) -> str:
    """One page without anything from elsewhere, for light and dark screens."""
    # Imported here: 50 ms that only a page needs.
    from jinja2 import Environment, StrictUndefined  # noqa: PLC0415
    from markupsafe import Markup, escape  # noqa: PLC0415

    def literals(text: str) -> Markup:
        return Markup("").join(
            Markup("<code>{}</code>").format(part) if number % 2 else escape(part)
            for number, part in enumerate(paired(text))
        )

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["literals"] = literals
    source = (
        files("deployer.gates.harness").joinpath("report.html.j2").read_text("utf-8")
    )
    look = files("deployer").joinpath("templates", "page.css").read_text("utf-8")
    axis = _axis(report.verdicts)
    page = environment.from_string(source).render(
        look=Markup(look),  # noqa: S704 - a file of ours
        report=report,
        conclusion=conclusion(report.verdicts),
        may_promote=may_promote(report.verdicts),
        rows=[_row(verdict, axis) for verdict in report.verdicts],
        ticks=[(show_time(tick), axis.at(tick)) for tick in axis.ticks],
        headlines=[
            show_figure(*figure)
            for verdict in report.verdicts
            if verdict.gate in _HEADLINES
            for figure in verdict.figures.items()
        ],
    )
    return f"{page}\n"


def show_figure(name: str, value: float) -> tuple[str, str]:
    """A figure's name and value for people: `ttft_seconds` is a time."""
    if name.endswith("_per_second"):
        return name.removesuffix("_per_second").replace("_", " "), f"{value:.1f} /s"
    if name.endswith("_seconds"):
        return name.removesuffix("_seconds").replace("_", " "), show_time(value)
    if name.endswith("_bytes"):
        return name.removesuffix("_bytes").replace("_", " "), show_bytes(value)
    return name.replace("_", " "), f"{value:g}"


def paired(text: str) -> list[str]:
    """The text cut at its backticks, with the literals at odd places."""
    parts = text.split("`")
    return parts if len(parts) % 2 else [*parts[:-2], f"{parts[-2]}`{parts[-1]}"]


def _hanging(head: str, text: str, width: int) -> list[str]:
    room = max(40, width - len(head))
    first, *more = textwrap.wrap(text, room, break_on_hyphens=False) or [""]
    return [f"{head}{first}".rstrip(), *(" " * len(head) + line for line in more)]


def _last_words(verdict: Verdict, width: int) -> list[str]:
    """The exchange that a gate without a pass ended with."""
    if verdict.outcome is Outcome.PASS or not verdict.evidence:
        return []
    last = verdict.evidence[-1]
    room = max(40, width - 6)
    unanswered = "" if last.response else "no answer"
    answered = f"HTTP {last.status}" if last.status else unanswered
    said = f" {last.response}" if last.response else ""
    return [
        f"      {excerpt(last.request, room)}",
        f"      → {excerpt(f'{answered}{said}'.strip(), room - 2)}",
    ]


def _exchange(exchange: Exchange) -> JsonValue:
    return {
        "request": exchange.request,
        "status": exchange.status,
        "response": exchange.response,
        "seconds": exchange.seconds,
        "note": exchange.note,
    }


def _is_skipped(verdict: Verdict) -> bool:
    waived = verdict.outcome is not Outcome.PASS and not verdict.blocks
    return waived or not verdict.applicable


def _test_case(suite: ET.Element, verdict: Verdict) -> None:
    case = ET.SubElement(
        suite,
        "testcase",
        classname="deployer.gates",
        name=_xml(verdict.gate),
        time=f"{verdict.seconds:.3f}",
    )
    because = _xml(verdict.because)
    if not verdict.applicable:
        ET.SubElement(case, "skipped", message=f"{word(verdict)}: {because}")
    elif verdict.blocks:
        kind = "error" if verdict.outcome is Outcome.ERROR else "failure"
        if verdict.outcome is Outcome.INCONCLUSIVE:  # JUnit has no word for it
            because = f"{word(verdict)}: {because}"
        found = ET.SubElement(case, kind, message=because, type=verdict.outcome.value)
        found.text = _xml("\n".join(_last_words(verdict, 400)))
    elif _is_skipped(verdict):
        ET.SubElement(case, "skipped", message=f"advisory {verdict.outcome}: {because}")
    else:
        ET.SubElement(case, "system-out").text = because


def _xml(text: str) -> str:
    """A text without the characters that XML cannot hold."""
    return _NOT_XML.sub("\ufffd", text)


@dataclass(frozen=True, slots=True)
class _Axis:
    """A logarithmic axis of times: gates take from a millisecond to minutes."""

    ticks: tuple[float, ...]
    """Seconds, each ten times the one before."""

    def at(self, seconds: float) -> float:
        """The place of a time in per cent of the axis; short ones are to be seen."""
        if seconds <= self.ticks[0]:
            return _LEAST_SHARE
        share = 100 * math.log10(seconds / self.ticks[0]) / (len(self.ticks) - 1)
        return round(min(100.0, max(_LEAST_SHARE, share)), 2)


def _axis(verdicts: Sequence[Verdict]) -> _Axis:
    """From a millisecond to the next power of ten above the longest gate."""
    longest = max((verdict.seconds for verdict in verdicts), default=0.0)
    ticks = [0.001, 0.01]
    while ticks[-1] < longest:
        ticks.append(10 * ticks[-1])
    return _Axis(tuple(ticks))


def _row(verdict: Verdict, axis: _Axis) -> Mapping[str, object]:
    """One gate as the page shows it, with its bars measured in per cent."""
    return {
        "verdict": verdict,
        "symbol": sign(verdict),
        "word": word(verdict),
        "shade": verdict.outcome if verdict.applicable else "inapplicable",
        "time": show_time(verdict.seconds),
        "bar": axis.at(verdict.seconds),
        "strokes": [axis.at(one.seconds) for one in verdict.evidence if one.seconds],
        "figures": [show_figure(*figure) for figure in verdict.figures.items()],
        "exchanges": [
            {
                "exchange": exchange,
                "time": show_time(exchange.seconds),
                "bar": _share(exchange.seconds, verdict.seconds),
                "answered": _status(exchange),
            }
            for exchange in verdict.evidence
        ],
    }


def _status(exchange: Exchange) -> str:
    """Files that were read and commands that were run have no status."""
    if exchange.status:
        return f"HTTP {exchange.status}"
    return "" if exchange.response else "none"


def _share(seconds: float, longest: float) -> float:
    """The length of a bar in per cent; short ones are still to be seen."""
    share = 100 * seconds / longest if longest > 0 else 0.0
    return round(min(100.0, max(_LEAST_SHARE, share)), 2)
