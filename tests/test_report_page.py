"""The page of `deployer report`: whole, closed, and deaf to what stacks say."""

import base64
import hashlib
import random
import re
from collections.abc import Callable, Iterator
from typing import Any

import html5lib

from deployer.planning.events import Outcome, Verdict
from deployer.show.overview import Cost, Overview, Run, Seen
from deployer.spelling import harmless
from deployer.usecases.report import SHOWN, page

AT = "2026-11-24T12:00:00+00:00"
PIECES = (
    *(
        "</script>",
        "</style>",
        "</title>",
        "</svg>",
        "</table>",
        "</td>",
        "<plaintext>",
    ),
    *('"><img src=x onerror=alert(1)>', "' onload='alert(1)", "<!--", "-->", "]]>"),
    *("<![CDATA[", "&lt;", "&#x3c;b&#62;", "&quot;", "\x00", "\x1b[31m", "\u202e"),
    *("\ud800", "\u2028", "@everyone", "{{ 7*7 }}", "{% raw %}", "javascript:alert(1)"),
    *("`", "``", "<foreignObject><p>", "<base href=//x>", "<meta http-equiv=refresh>"),
    *("\r\n", "\t", "é", "ﷺ", "a" * 300, "<script src=//x>", "<a href=//x>", "\ufeff"),
)
VALUES = 2000
FIGURES = {"ttft_seconds": 0.3, "tokens_per_second": 41.0}


def hostile(seed: int) -> Callable[[], str]:
    """Makes texts that try to leave the place where they are put."""
    chance = random.Random(seed)  # noqa: S311 - tests
    return lambda: "".join(chance.choices(PIECES, k=chance.randint(1, 4)))


def overview(text: Callable[[], str]) -> Overview:
    """A stack in which everything that can be a text is one of these."""
    verdicts = (
        Verdict(f"a{text()}", Outcome.PASS, text()),
        Verdict("speed", Outcome.FAIL, text(), figures=FIGURES),
        Verdict(
            f"b{text()}", Outcome.INCONCLUSIVE, text(), applicable=False, advisory=True
        ),
    )
    runs = tuple(
        Run(
            at=text() if number == 3 else AT,
            cause=text(),
            number=None if number == 2 else 5 - number,
            live=number == 0,
            kept=True,
            held_back=number == 2,
            changes=(text(), text()),
            used=(text(),),
            verdicts=verdicts,
        )
        for number in range(4)
    )
    probes = tuple(
        Seen(f"2026-11-2{day}T08:00:00+00:00", path, day != 3, 0.1 * day, 2.0, text())
        for day in range(1, 5)
        for path in ("warm", "restore")
    )
    probes += (Seen(text(), "warm", True, 0.1, 2.0, text()),)  # noqa: FBT003 - a value
    return Overview(
        stack=text(),
        file=text(),
        engine=text(),
        serial=7,
        live=5,
        made_of=((text(), text()),),
        runs=runs,
        probes=probes,
        cost=Cost(1.95, 0, "2026-09-01"),
        notes=(text(),),
    )


def broken(text: Callable[[], str]) -> Overview:
    return Overview(text(), text(), error=text(), hint=text())


def shape(html: str) -> list[tuple[str, tuple[str, ...]]]:
    """Every element with the names of its attributes; but for code in texts."""
    parser = html5lib.HTMLParser(tree=html5lib.getTreeBuilder("etree"))
    tree = parser.parse(html)
    assert parser.errors == []
    found = []
    for element in tree.iter():
        tag = str(element.tag).rpartition("}")[2]
        if tag != "code":
            found.append((tag, tuple(sorted(map(str, element.attrib)))))
    return found


def elements(html: str, tag: str) -> Iterator[Any]:
    tree = html5lib.parse(html)
    return tree.iter(f"{{http://www.w3.org/1999/xhtml}}{tag}")


def test_no_text_of_a_stack_leaves_its_place() -> None:
    plain = shape(page([overview(lambda: "x"), broken(lambda: "x")], AT))
    used = 0
    for seed in range(VALUES):
        if used >= VALUES:
            break
        counted: list[str] = []
        make = hostile(seed)

        def text(make: Callable[[], str] = make, counted: list[str] = counted) -> str:
            counted.append(make())
            return counted[-1]

        html = page([overview(text), broken(text)], AT)
        html.encode()
        assert shape(html) == plain, seed
        assert harmless(html) == html
        used += len(counted)
    assert used >= VALUES


def test_only_what_is_of_the_page_may_be_done() -> None:
    html = page([overview(lambda: "x")], AT)
    (policy,) = (
        it.attrib["content"]
        for it in elements(html, "meta")
        if "http-equiv" in it.attrib
    )
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy
    for tag in ("style", "script"):
        (element,) = elements(html, tag)
        digest = hashlib.sha256(element.text.encode()).digest()
        assert f"{tag}-src 'sha256-{base64.b64encode(digest).decode()}'" in policy


def test_nothing_comes_from_elsewhere() -> None:
    html = page([overview(lambda: "x"), broken(lambda: "x")], AT)
    assert re.findall(r"""\b(?:src|action|style|on\w+)\s*=""", html) == []
    assert {link[0] for link in re.findall(r'href="([^"]*)"', html)} == {"#"}
    assert "@import" not in html
    assert "url(" not in html


def test_every_chart_and_table_says_what_it_is() -> None:
    html = page([overview(lambda: "x")], AT)
    ids = re.findall(r'\bid="([^"]+)"', html)
    assert len(ids) == len(set(ids))
    labels = {
        it for ref in re.findall(r'labelledby="([^"]+)"', html) for it in ref.split()
    }
    assert labels <= set(ids)
    charts = re.findall(
        r'<svg class="chart" role="img"[^>]*><title id="[^"]+">(\w)', html
    )
    assert len(charts) == 3
    for head in elements(html, "th"):
        assert head.attrib["scope"] in {"col", "row"}


def test_outcomes_differ_in_sign_and_word_too() -> None:
    html = page([overview(lambda: "x")], AT)
    assert '<td class="pass">✔<span class="v">pass</span>' in html
    assert 'title="x">✖<span class="v">fail</span>' in html
    assert "(–)<span" in html  # noqa: RUF001 - a dash


def test_what_nobody_recorded_is_said_to_be_so() -> None:
    run = Run(AT, "apply", 1, True, True, False, None, (), ())  # noqa: FBT003 - a value
    html = page([Overview("s", "s.yaml", "local", 1, 1, runs=(run,))], AT)
    text = " ".join(html5lib.parse(html).itertext())
    assert "Not recorded; deployer watch s.yaml records it." in " ".join(text.split())
    assert text.count("not recorded") >= 6
    assert "<svg" not in html


def test_a_hundred_releases_are_told_and_the_older_ones_in_a_line() -> None:
    one = overview(lambda: "some words").runs[0]
    runs = tuple(
        Run(AT, one.cause, n, n == 100, True, False, one.changes, (), one.verdicts * 4)  # noqa: FBT003
        for n in range(100, 0, -1)
    )
    stack = Overview("s", "s.yaml", "local", 1, 100, runs=runs)
    html = page([stack], AT)
    assert f"<summary>{100 - SHOWN} older</summary>" in html
    assert len(html.encode()) < 60_000
