"""The report in each of its formats."""

import json
import re
import stat
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from deployer.gates.harness.report import (
    Report,
    as_html,
    as_json,
    as_junit,
    conclusion,
    may_promote,
    show_figure,
    table,
    write_report,
)
from deployer.planning.events import Exchange, Outcome, Verdict, blocking

ASKED = Exchange("POST /v1/chat/completions {}", 500, "<b>oops</b>", 0.02, "a note")
UNANSWERED = Exchange("GET /slots", None, "", 0.01)
VERDICTS = (
    Verdict("health", Outcome.PASS, "the server is healthy", 0.004),
    Verdict(
        "chat",
        Outcome.FAIL,
        "answered HTTP 500: `<b>oops</b>`",
        1.5,
        {"ttft_seconds": 0.0123, "tokens_per_second": 42.123, "chunks": 7.0},
        (ASKED,),
    ),
    Verdict("stream", Outcome.FAIL, "no `[DONE]`", 0.03, advisory=True),
    Verdict("build", Outcome.INCONCLUSIVE, "state `llama_cpp.commit`", 0.002),
    Verdict("metrics", Outcome.ERROR, "not run", evidence=(UNANSWERED,)),
)


def test_the_table_reads_without_colour() -> None:
    assert table(VERDICTS) == (
        """\
  ✔ pass             health    4 ms  the server is healthy
  ✖ fail             chat     1.5 s  answered HTTP 500: `<b>oops</b>`
      POST /v1/chat/completions {}
      → HTTP 500 <b>oops</b>
  ✖ fail (advisory)  stream   30 ms  no `[DONE]`
  ? inconclusive     build     2 ms  state `llama_cpp.commit`
  ! error            metrics   0 ms  not run
      GET /slots
      → no answer

1 passed, 2 failed, 1 inconclusive, 1 not measured: promotion blocked"""
    )


def test_long_reasons_are_wrapped_under_themselves() -> None:
    verdict = Verdict("props", Outcome.PASS, " ".join(["word"] * 30), 0.001)
    lines = table([verdict], width=80).splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[1].startswith(" " * 23 + "word")


def test_no_gate_is_no_reason_to_promote() -> None:
    assert conclusion(()) == "no gate ran: promotion blocked"
    assert not may_promote(())


def test_advisory_verdicts_hold_nothing_back() -> None:
    assert (
        conclusion((VERDICTS[0], VERDICTS[2]))
        == "1 passed, 1 failed: promotion allowed"
    )


def test_json_holds_everything() -> None:
    told = json.loads(json.dumps(as_json(Report("demo", VERDICTS, "here"))))
    assert (told["format"], told["title"], told["about"]) == (1, "demo", "here")
    assert told["may_promote"] is False
    assert [one["outcome"] for one in told["verdicts"]] == [v.outcome for v in VERDICTS]
    assert told["verdicts"][1]["evidence"][0] == {
        "request": ASKED.request,
        "status": 500,
        "response": "<b>oops</b>",
        "seconds": 0.02,
        "note": "a note",
    }


def test_junit_counts_as_ci_systems_expect() -> None:
    suite = ET.fromstring(as_junit(Report("demo", VERDICTS)))  # noqa: S314 - ours
    counted = {name: suite.get(name) for name in ("tests", "failures", "errors")}
    assert counted == {"tests": "5", "failures": "2", "errors": "1"}
    assert suite.get("skipped") == "1"
    children = [[child.tag for child in case] for case in suite]
    assert children == [
        ["system-out"],
        ["failure"],
        ["skipped"],
        ["failure"],
        ["error"],
    ]


def test_junit_survives_characters_that_xml_cannot_hold() -> None:
    odd = Verdict("metrics", Outcome.ERROR, "not run\x00\x1b[31m")
    text = as_junit(Report("de\x00mo", [odd]))
    assert ET.fromstring(text).get("errors") == "1"  # noqa: S314 - ours
    assert "\x00" not in text
    assert "\x1b" not in text


class Elements(HTMLParser):
    """The tags of a page, and everything that points outside of it."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str | None] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in {"src", "href"}]


def test_the_page_stands_alone() -> None:
    page = as_html(Report("demo", VERDICTS, "here"))
    elements = Elements()
    elements.feed(page)
    assert elements.links == []
    assert not {"script", "link", "img", "iframe"} & set(elements.tags)
    assert not re.search(r"url\(|@import|https?:", page)


def test_the_page_shows_text_as_text() -> None:
    page = as_html(Report("<script>", VERDICTS))
    assert "<b>oops" not in page
    assert "<code>&lt;b&gt;oops&lt;/b&gt;</code>" in page
    assert "<script" not in page


def test_the_page_opens_what_did_not_pass() -> None:
    page = as_html(Report("demo", VERDICTS))
    assert (page.count("<details>"), page.count("<details open>")) == (1, 4)


def test_the_page_shows_a_bar_for_each_gate_and_a_stroke_for_each_request() -> None:
    """On one logarithmic axis, from a millisecond to ten seconds here."""
    page = as_html(Report("demo", VERDICTS))
    assert re.findall(r'<span style="left: ([\d.]+)%">(.*?)</span>', page) == [
        ("0.6", "1 ms"),
        ("25.0", "10 ms"),
        ("50.0", "100 ms"),
        ("75.0", "1.0 s"),
        ("100.0", "10 s"),
    ]
    bars = re.findall(r'class="whole" y="2" width="([\d.]+)"', page)
    assert bars == ["15.05", "79.4", "36.93", "7.53", "0.6"]
    strokes = [float(at) for at in re.findall(r'class="stroke" x="([\d.]+)"', page)]
    assert strokes == [pytest.approx(32.53 - 0.2), pytest.approx(25 - 0.2)]


def test_speed_and_memory_stand_at_the_top_of_the_page() -> None:
    fast = Verdict("speed", Outcome.PASS, "fast", 1, {"tokens_per_second": 42.0})
    page = as_html(Report("demo", [fast]))
    (headlines,) = re.findall(
        r'<ul class="figures headlines">(.*?)</ul>', page, re.DOTALL
    )
    assert "<span>tokens</span><b>42.0 /s</b>" in headlines
    assert 'class="figures headlines"' not in as_html(Report("demo", VERDICTS))


def test_an_odd_backtick_is_shown_as_it_is() -> None:
    verdict = Verdict("chat", Outcome.FAIL, "said `a` and ` alone")
    assert "said <code>a</code> and ` alone" in as_html(Report("demo", [verdict]))


def test_figures_are_shown_with_their_units() -> None:
    shown = [show_figure(*figure) for figure in VERDICTS[1].figures.items()]
    assert shown == [("ttft", "12 ms"), ("tokens", "42.1 /s"), ("chunks", "7")]


def test_a_report_is_written_for_its_owner_alone(tmp_path: Path) -> None:
    page = write_report(VERDICTS, tmp_path / "reports" / "demo", title="demo")
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")
    names = sorted(path.name for path in page.parent.iterdir())
    assert names == ["junit.xml", "report.html", "report.json"]
    assert stat.S_IMODE(page.parent.stat().st_mode) == 0o700


LACKING = Verdict("tools", Outcome.INCONCLUSIVE, "no tools", 0.02, applicable=False)


def test_what_a_model_lacks_is_told_apart() -> None:
    assert table([LACKING]) == (
        """\
  – not applicable  tools  20 ms  no tools

1 not applicable: promotion blocked"""  # noqa: RUF001 - a dash
    )
    told = json.loads(json.dumps(as_json(Report("demo", [LACKING]))))["verdicts"][0]
    assert (told["outcome"], told["applicable"]) == ("inconclusive", False)
    suite = ET.fromstring(as_junit(Report("demo", [LACKING])))  # noqa: S314 - ours
    assert (suite.get("failures"), suite.get("skipped")) == ("0", "1")
    assert suite[0][0].get("message") == "not applicable: no tools"
    assert 'class="outcome inapplicable"' in as_html(Report("demo", [LACKING]))


def test_how_each_gate_ended_that_blocks_is_said() -> None:
    verdicts = (
        Verdict("build", Outcome.INCONCLUSIVE, ""),
        Verdict("chat", Outcome.FAIL, ""),
        Verdict("props", Outcome.FAIL, ""),
        Verdict("health", Outcome.PASS, ""),
        Verdict("tools", Outcome.INCONCLUSIVE, "", applicable=False),
        Verdict("speed", Outcome.ERROR, ""),
        Verdict("memory", Outcome.FAIL, "", advisory=True),
    )
    assert blocking(verdicts) == (
        "failed `chat`, `props`; inconclusive `build`; not measured `speed`;"
        " not applicable `tools`"
    )
    assert blocking(verdicts[3:4]) == ""
    (case,) = ET.fromstring(as_junit(Report("x", verdicts[:1])))  # noqa: S314 - ours
    (failure,) = case
    assert failure.get("message", "").startswith("inconclusive: ")
