"""The comment on a pull request: one summary, a section a stack, nothing breaks out."""

import random
import re
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser

import cmarkgfm  # type: ignore[import-untyped]
from cmarkgfm.cmark import Options  # type: ignore[import-untyped]
from markdown_it import MarkdownIt
from markdown_it.token import Token

from deployer.diagnostics import Diagnostic, Place
from deployer.planning.plan import Action, Cause, Drift, Plan, Reason
from deployer.planning.state import Begun, Loose
from deployer.show.markdown import LONGEST, MARKER, Entry, comment
from scripts.picture_of_comment import entries, page
from tests.planning.checking import LOCAL, but, deployed, planned

WIDER = but(LOCAL, "4096", "8192")
PLACES = {"server.ctx_size": Place("stacks/demo.yaml", 7, 3)}
FILE = "stacks/demo.yaml"
HOSTILE_VALUES = 2_000
GFM = MarkdownIt("gfm-like")
PIECES = (
    *("`", "```", "~~~", "````````", "</details>", "<details>", "</summary>", "<b>"),
    *("</code>", "<!--", "-->", "<script>alert(1)</script>", "@octocat", "@org/team"),
    *("\n", "\r\n", "\n\n", "\u2028", "\x1b[31m", "\x00", "\u202e", "\t", "    "),
    *("#1", "[x](javascript:1)", "![](http://a.b/c.png)", "|", "**", "&lt;", "\\"),
    *("http://evil.example", "www.evil.example", "a@b.example", ":tada:", "漢", "🦙"),
)


def entry(plan: Plan, *notes: str, command: str = f"deployer apply {FILE}") -> Entry:
    return Entry(FILE, plan, PLACES, notes, command)


def tokens(text: str) -> list[Token]:
    """Every token of the rendered Markdown, those inside of lines too."""
    found = GFM.parse(text)
    return [t for token in found for t in (token, *(token.children or ()))]


def skeleton(text: str) -> list[str]:
    """What readers see of the structure: kinds of tokens, and HTML as it stands."""
    return [
        f"html {re.sub(r'<code>.*?</code>', '<code>', token.content)}"
        if token.type.startswith("html")
        else token.type
        for token in tokens(text)
    ]


class Rendered(HTMLParser):
    """What GitHub's own parser makes of a comment, before anything is sanitised."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.said: list[str] = []
        """Text that stands in no code: where GitHub looks for mentions."""
        self._inside: list[str] = []
        options = Options.CMARK_OPT_UNSAFE
        self.feed(cmarkgfm.github_flavored_markdown_to_html(text, options=options))
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(f"<{tag} {dict(attrs)}>")
        self._inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        self.tags.append(f"</{tag}>")
        assert self._inside.pop() == tag

    def handle_data(self, data: str) -> None:
        if "code" not in self._inside:
            self.said.append(data)

    def handle_comment(self, data: str) -> None:
        self.tags.append(f"<!--{data}-->")


def test_a_comment_as_it_is() -> None:
    text = comment([entry(planned(LOCAL, WIDER), "fits    L40S 48 GB: 19.6 GiB")])
    assert (
        text
        == """\
#### deployer plan: 1 of 1 stack would change

<details><summary><code>demo</code> on <code>local</code>: 1 to deploy</summary>

```diff
  build    llama-server b9763 · llama-bin==1.0 · 11.0 MB   unchanged
  weights  tiny.gguf · 253.0 MB   unchanged
! server   http://127.0.0.1:8080 · tiny   redeploy
-     server.ctx_size: 4096
+     server.ctx_size: 8192   stacks/demo.yaml:7
  gates    1 runs on the candidate before promotion: health
  fits    L40S 48 GB: 19.6 GiB
```

Next: `deployer apply stacks/demo.yaml`

</details>

<!-- deployer:plan -->
"""
    )


def test_the_summary_counts_stacks_by_what_becomes_of_them() -> None:
    gone = planned(LOCAL, None)
    entries = [
        entry(planned(LOCAL, LOCAL)),
        entry(planned(LOCAL, WIDER)),
        entry(gone),
        Entry("stacks/bad.yaml", error="no"),
        Entry("stacks/same.yaml", unchanged=True),
    ]
    first, *_, last = comment(entries).splitlines()
    assert first == (
        "#### deployer plan: 2 of 5 stacks would change, 1 would be destroyed, "
        "1 cannot be planned"
    )
    assert last == MARKER
    assert "<b>destroy</b>" in comment(entries)
    unchanged = "2 stacks unchanged</summary>\n\n`stacks/demo.yaml`, `stacks/same.yaml`"
    assert unchanged in comment(entries)


def test_what_fails_and_what_is_destroyed_stands_first_and_open() -> None:
    bad = Entry(
        "bad.yaml", problems=(Diagnostic("", "what?", place=Place("bad.yaml", 3, 1)),)
    )
    text = comment([entry(planned(LOCAL, WIDER)), entry(planned(LOCAL, None)), bad])
    heads = re.findall(r"<details.*", text)
    assert heads[0].startswith("<details open><summary><code>bad.yaml</code>: cannot")
    assert heads[1].startswith(
        "<details open><summary><code>demo</code> on <code>local</code>: <b>"
    )
    assert heads[2].startswith("<details><summary>")
    assert "\n- bad.yaml:3:1: what?\n" in text


def test_drift_and_leftovers_are_told() -> None:
    drift = (Drift("demo/server", "pid 4711 is gone"),)
    text = comment([entry(planned(LOCAL, LOCAL, drift=drift))])
    assert "! drift    demo/server: pid 4711 is gone" in text
    record = deployed(WIDER).live["demo/server"]
    state = replace(deployed(LOCAL), loose=(Loose(Begun.STAGED, record),))
    text = comment([entry(planned(None, LOCAL, state=state))])
    assert f"! an earlier run left demo/server {record.key[:8]} staged" in text


def test_signs_stand_in_column_0() -> None:
    for before, after in ((None, LOCAL), (LOCAL, WIDER), (LOCAL, None)):
        text = comment([entry(planned(before, after))])
        (fence,) = re.findall(r"```diff\n(.*?)\n```", text, re.DOTALL)
        assert {line[0] for line in fence.splitlines()} <= set("+-! ")
        assert {line[1] for line in fence.splitlines()} == {" "}


def hostile(chance: random.Random) -> str:
    return "".join(chance.choices(PIECES, k=chance.randint(1, 8)))


def with_values(values: Sequence[str]) -> list[Entry]:
    """A changed and a failed stack that hold the values wherever a value may stand."""
    plan = planned(LOCAL, WIDER)
    path, before, after, detail, note, file = values
    reasons = (
        Reason(Action.REPLACE, Cause.FIELD, path, before, after),
        Reason(Action.START, Cause.DRIFT, detail=detail),
    )
    *others, server = plan.changes
    changed = replace(
        plan,
        stack=file,
        changes=(*others, replace(server, reasons=reasons)),
        drift=(Drift(path, detail),),
        gates=("health", note),
    )
    bad = Diagnostic(path, detail, note, place=Place(file, 1, 2))
    return [
        Entry(file, changed, {path: Place(file, 1, 2)}, (note,), after),
        Entry(file, problems=(bad,), error=detail),
        Entry(file, unchanged=True),
    ]


def test_no_hostile_value_breaks_out() -> None:
    """Whatever values hold, the structure is that of harmless ones, and no link.

    Two parsers say so: the one that GitHub uses, and another of the same dialect.
    """
    harmless = comment(with_values(["a"] * 6), unseen=("a",))
    plain = skeleton(harmless)
    tags = Rendered(harmless).tags
    assert "fence" in plain
    assert not any(tag.startswith(("<a ", "<img ", "<script ")) for tag in tags)
    chance = random.Random(9)  # noqa: S311 - the same values in every run
    for _ in range(HOSTILE_VALUES // 6 + 1):
        values = [hostile(chance) for _ in range(6)]
        text = comment(with_values(values), unseen=(values[0],))
        assert skeleton(text) == plain, values
        rendered = Rendered(text)
        assert rendered.tags == tags, values
        assert "@" not in "".join(rendered.said), values
        assert "link_open" not in plain
        assert text.count(MARKER) == text.rstrip().endswith(MARKER) == 1
        for token in tokens(text):
            if token.type == "text":
                assert "@" not in token.content, values


def test_a_huge_plan_is_cut_and_says_so() -> None:
    many = [
        replace(entry(planned(LOCAL, WIDER)), file=f"s/{n}.yaml") for n in range(900)
    ]
    text = comment(many)
    shown = text.count("<details>")
    assert 50 < shown < 900
    assert len(text) <= LONGEST
    assert f"**{900 - shown} stacks left out**" in text
    assert text.endswith(f"{MARKER}\n")
    assert text.startswith("#### deployer plan: 900 of 900 stacks would change\n")


def test_a_huge_section_is_shortened_and_says_so() -> None:
    notes = tuple(f"note {number} {'🦙' * 300}" for number in range(400))
    text = comment([entry(planned(LOCAL, WIDER), *notes)])
    assert len(text.encode("utf-16-le")) // 2 <= LONGEST
    assert re.search(r"  … \d+ more lines: `deployer plan` shows them\n```", text)


def test_the_picture_of_the_docs_is_drawn_from_a_comment_of_today() -> None:
    text = comment([*entries()])
    drawn = page(text)
    assert drawn.count("<details open>") == 3
    assert '<span class="add">+     server.ctx_size: 16384' in drawn
    assert drawn.count("</details>") == text.count("</details>")


def test_a_long_value_is_cut_and_says_how_much() -> None:
    text = comment([entry(planned(LOCAL, WIDER), "x" * 5_000)])
    assert "x… (+4602 characters)" in text
