"""Draws the comment on a pull request as a reviewer sees it, on a desktop and a phone.

Run: python scripts/picture_of_comment.py [FOLDER]

The comment is what deployer makes of four stacks; GitHub's own parser turns it into
HTML, and Chromium draws that.  Its colours are like GitHub's.
"""

import html
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cmarkgfm  # type: ignore[import-untyped]
from cmarkgfm.cmark import Options  # type: ignore[import-untyped]

sys.path.insert(0, str(Path(__file__).parents[1]))

from deployer.diagnostics import Diagnostic, Place
from deployer.engines.place import costs_of
from deployer.show.markdown import Entry, comment
from deployer.show.text import costs_line
from tests.planning.checking import MODAL, but, planned

SIZES = {"desktop": (920, 840), "phone": (420, 950)}
"""Width and height of the page, in pixels."""
GATES = "gates: {health: {}, chat: {}, auth: {}, tools: {}, speed: {ttft: 2s}}\n"
PROD = but(MODAL, "name: demo", "name: prod") + GATES
STAGING = but(MODAL, "name: demo", "name: staging") + GATES
STYLE = """
body {margin: 0; font-size: 15px; background: #fff; color: #1f2328; line-height: 1.5;
  font-family: "Helvetica Neue", Arial, "DejaVu Sans", sans-serif}
main {border: 1px solid #d1d9e0; border-radius: 6px; margin: 12px; padding: 4px 16px}
code {font-family: "DejaVu Sans Mono", monospace; font-size: 85%; padding: .2em .4em;
  background: #eef0f2; border-radius: 6px}
pre {background: #f6f8fa; border-radius: 6px; padding: 12px; overflow: auto}
pre code {background: none; padding: 0}
summary {cursor: pointer; margin: 10px 0}
.add {background: #dafbe1; color: #116329} .del {background: #ffebe9; color: #82071e}
.mod {color: #953800}
"""
CLASSES = {"+": "add", "-": "del", "!": "mod"}


def main() -> None:
    """Draw it in every size."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "docs/pictures")
    folder.mkdir(parents=True, exist_ok=True)
    text = comment([*entries()], unseen=("no recorded state here of stacks/new.yaml",))
    for name, size in SIZES.items():
        draw(page(text), folder / f"comment-{name}.png", size)


def entries() -> Iterator[Entry]:
    """A change, a change of the build, a stack that is gone, one that is wrong."""
    wider = but(but(PROD, "ctx_size: 4096", "ctx_size: 16384"), "gpu: L4", "gpu: L40S")
    yield entry("prod", PROD, wider, fits="L40S 48 GB: 7.9 of 44.2 GiB (18 %)")
    yield entry("staging", STAGING, but(STAGING, "b9763", "b10434"))
    yield entry("old", but(MODAL, "name: demo", "name: old"), None)
    place = Place("stacks/new.yaml", 14, 3)
    hint = "did you mean `ctx_size`?"
    what = "unknown key `ctx` under `server`"
    problem = Diagnostic("server.ctx", what, hint, place=place)
    yield Entry("stacks/new.yaml", problems=(problem,))
    yield from (Entry(f"stacks/team-{n}.yaml", unchanged=True) for n in range(1, 15))


def entry(name: str, before: str, after: str | None, fits: str = "") -> Entry:
    """A planned stack, with what stands below its changes."""
    made = replace(planned(before, after), stack=name)
    file = f"stacks/{name}.yaml"
    notes = [f"fits     {fits}"] if fits else []
    if (bill := costs_of(made)) is not None:
        notes.append(f"costs    {costs_line(bill)}")
    gone = " --changed-since origin/main --allow-destroy" if after is None else ""
    places = {"server.ctx_size": Place(file, 8, 10), "gpu": Place(file, 7, 1)}
    places["llama_cpp.tag"] = Place(file, 4, 13)
    return Entry(file, made, places, tuple(notes), f"deployer apply {file}{gone}")


def page(text: str) -> str:
    """The comment as a page, with one of the closed sections opened."""
    options = Options.CMARK_OPT_UNSAFE
    body = cmarkgfm.github_flavored_markdown_to_html(text, options=options)
    body = body.replace("<details>", "<details open>", 1)
    body = re.sub(r'(?s)<pre lang="diff"><code>(.*?)</code>', coloured, body)
    head = f"<meta charset=utf-8><style>{STYLE}</style>"
    return f"<!doctype html>{head}<main>{body}</main>"


def coloured(found: "re.Match[str]") -> str:
    """The lines of a diff in the colours of their signs."""
    lines = html.unescape(found[1]).splitlines()
    spans = (
        f'<span class="{CLASSES.get(line[:1], "")}">{html.escape(line)}</span>'
        for line in lines
    )
    return "<pre><code>" + "\n".join(spans) + "</code>"


def draw(text: str, picture: Path, size: tuple[int, int]) -> None:
    """A screenshot by Chromium, which asks nobody; raises where there is none."""
    with tempfile.TemporaryDirectory() as made:
        source = Path(made) / "page.html"
        source.write_text(text, encoding="utf-8")
        quiet = ("background-networking", "component-update", "sync", "quic", "gpu")
        argv = [
            *("chromium", "--headless", "--no-sandbox", "--no-first-run"),
            *(f"--disable-{name}" for name in quiet),
            *("--hide-scrollbars", f"--user-data-dir={made}/profile"),
            "--window-size={},{}".format(*size),
            f"--screenshot={picture.resolve()}",
            source.as_uri(),
        ]
        subprocess.run(argv, check=True, capture_output=True, timeout=120)


if __name__ == "__main__":
    main()
