"""Colours and line breaks: put on where text leaves, by how its lines begin."""

import io
import re

import pytest

from deployer.cli.terminal import Escaped, painted, wants_colour
from tests.cli.project import COMMAND, STACK, Project
from tests.cli.terminal import terminal

LINES = {
    "s.yaml:3:1: error: no": "[bold:s.yaml:3:1: ][red+bold:error:] no",
    "error: no": "[red+bold:error:] no",
    "warning: hm": "[yellow+bold:warning:] hm",
    "note: ok": "[blue+bold:note:] ok",
    "  hint: do it": "[cyan:  hint:] do it",
    "  3 |   port: x": "[blue:  3 |]   port: x",
    "    |         ^ local.port": "[blue:    |]         [red:^ local.port]",
    "demo on local · plan 1": "[bold:demo][dim: on local · plan 1]",
    "  ± server   x   redeploy": "  [yellow+bold:±] server   x   [yellow:redeploy]",
    "  ✔ weights  x   unchanged": "  [green+bold:✔] weights  x   [green:unchanged]",
    "      a.b   1 → 2  s.yaml:3": "      a.b   [red:1] → [green:2][dim:  s.yaml:3]",
    "    ✖ chat   failed: no": "    [red+bold:✖] chat   [red:failed]: no",
    "Plan: 1 to deploy.": "[bold:Plan: 1 to deploy.]",
    "Steps:": "[bold:Steps:]",
    "an answer - of somebody": "an answer - of somebody",
    '{"type":"plan"}': '{"type":"plan"}',
}
_NAMES = {"1": "bold", "2": "dim", "31": "red", "32": "green", "33": "yellow"}
_NAMES |= {"34": "blue", "36": "cyan"}


def _read(text: str) -> str:
    def name(found: "re.Match[str]") -> str:
        return f"[{'+'.join(_NAMES[code] for code in found[1].split(';'))}:{found[2]}]"

    return re.sub(r"\x1b\[([\d;]+)m(.*?)\x1b\[0m", name, text)


@pytest.mark.parametrize(("line", "shown"), LINES.items())
def test_a_line_is_coloured_by_how_it_begins(line: str, shown: str) -> None:
    assert _read(painted(f"{line}\n")) == f"{shown}\n"


@pytest.mark.parametrize(
    ("variables", "wanted"),
    [({}, False), ({"FORCE_COLOR": "1"}, True), ({"FORCE_COLOR": "0"}, False)],
)
def test_the_environment_has_a_say(variables: dict[str, str], *, wanted: bool) -> None:
    assert wants_colour(io.StringIO(), variables) is wanted
    assert not wants_colour(io.StringIO(), {**variables, "NO_COLOR": "1"})


def test_an_escape_of_others_is_never_a_colour() -> None:
    stream = Escaped(inner := io.StringIO())
    stream.colour = True
    stream.write("error: \x1b[31mred\n")
    assert "\\x1b[31mred" in inner.getvalue()


def test_colour_is_asked_for_before_and_behind_a_command(paper: Project) -> None:
    plain = paper.run("plan", "stacks", "--color", "never").out
    for words in (("--color", "always", "plan"), ("plan", "--color", "always")):
        coloured = paper.run(*words, "stacks").out
        assert re.sub(r"\x1b\[[\d;]*m", "", coloured) == plain != coloured
    assert paper.run("plan", "stacks", "--json", env={"FORCE_COLOR": "1"}).results()


def test_a_terminal_gets_colours_and_whole_words(paper: Project) -> None:
    paper.write(STACK.replace("alias: tiny", "alais: tiny"))
    variables = paper.environment({"COLUMNS": "60", "TERM": "xterm", "NO_COLOR": None})
    words = (*COMMAND, "validate", "stacks")
    with terminal(words, paper.folder, variables) as it:
        assert it.end() == 3
    assert "\x1b[31;1merror:\x1b[0m" in it.seen


def test_quiet_prints_results_and_verbose_every_name(paper: Project) -> None:
    assert paper.run("-v", "plan", "stacks").code == 0
    gates = (
        "health: {}\n  build: {}\n  props: {}\n  models: {}\n  auth: {}\n  stream: {}"
    )
    paper.write(STACK.replace("health: {}", gates))
    assert "…" in paper.run("plan", "stacks").out
    assert "…" not in paper.run("plan", "stacks", "--verbose").out
