"""The words of the product: the glossary's banned ones stand in no text of it.

Where some still do, there is a ceiling. It goes down with the count and never up.
"""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import click
import pytest

from scripts.docs.cli_page import calls
from tests.docs.pages import PAGES, ROOT, inline_code, prose

CODE = ROOT / "deployer"

BANNED = {
    r"kept (?:plan|release)s?": "saved plan, retained releases",
    r"held back|holds? (?:it |them )?back": "failed, blocked, not promoted",
    r"may be promoted": "gate passed",
    r"about to take over": "candidate",
    r"(?<!in )the world": "actual state, what is running",
    r"anew": "again, rebuild, recompute",
    r"(?<!`)a texts?\b|texts (?:that|which|of)": "a string",
    r"whole numbers?": "an integer",
    r"yes or no": "a boolean",
    r"pictures?": "image",
    r"is to be in": "environment variable … is not set",
    r"(?:comes|brought|brings?) back|warm after a rest": "restore, warm start",
    r"first token after": "time to first token (TTFT)",
    r"requests? that waits?|(?:requests )?at work": "queued, active requests",
    r"runs? otherwise|otherwise than": "drift",
    r"(?:could|can) not be told|(?:is|are|was|were) told": "unknown, reported",
    r"pass(?:es|ed)? over|lefts? alone": "skip, ignore",
    r"holds(?! (?:the|it|that|its)\b)": "contains",
    r"ma(?:kes|de) up": "fills in",
    r"somebody|whoever|nobody|everybody": "developer, user, client, operator",
    r"once more stops at once": "press Ctrl-C again to quit",
    r"known traps?|a trap": "known issue",
}
"""Words and phrases, and what to write (GLOSSARY)."""
_BANNED = {
    re.compile(rf"(?<![-\w]){words}(?![-\w])", re.IGNORECASE): better
    for words, better in BANNED.items()
}

OPENINGS = 5
"""Docstrings that open with “What …”, “Whether …” or “Of …”."""
HELP = 0
ALLOWED = {"CHANGELOG.md": 99}
"""Words of the past stay as they were written."""


def found_in(text: str) -> list[str]:
    """Each banned phrase in a text, with what to write instead."""
    return [
        f"`{match[0]}` (write: {better})"
        for banned, better in _BANNED.items()
        for match in banned.finditer(text)
    ]


@cache
def trees() -> tuple[tuple[Path, ast.Module], ...]:
    files = sorted(CODE.rglob("*.py"))
    return tuple((it, ast.parse(it.read_text(encoding="utf-8"))) for it in files)


def docstrings(tree: ast.Module) -> Iterator[ast.Constant]:
    """Strings that stand alone: of modules, classes, functions, fields, constants."""
    for node in ast.walk(tree):
        match node:
            case ast.Expr(value=ast.Constant(str()) as constant):
                yield constant
            case _:
                pass


def banned_strings() -> Iterator[str]:
    """The place of each banned phrase in a string that is shown."""
    for file, tree in trees():
        apart = {id(constant) for constant in docstrings(tree)}
        for node in ast.walk(tree):
            match node:
                case ast.Constant(str(text)) if id(node) not in apart:
                    for what in found_in(text):
                        place = f"{file.relative_to(ROOT)}:{node.lineno}"
                        yield f"{place}: {what}"


def openings() -> Iterator[str]:
    """The place of each docstring that opens as no engineer writes."""
    for file, tree in trees():
        for constant in docstrings(tree):
            if re.match(r"(?:What|Whether|Of)\b", str(constant.value)):
                place = f"{file.relative_to(ROOT)}:{constant.lineno}"
                yield f"{place}: {str(constant.value)[:60]}"


def above(found: Iterator[str], ceiling: int) -> list[str]:
    """Every finding, where there are more than there may be."""
    everything = [*found]
    return everything if len(everything) > ceiling else []


def test_a_banned_phrase_is_found_where_it_stands_as_a_word() -> None:
    assert found_in("the plan was made anew") == [
        "`anew` (write: again, rebuild, recompute)"
    ]
    assert not found_in("trap-picture-above, anewer, a texture")


def test_no_string_that_is_shown_has_a_banned_word() -> None:
    assert [*banned_strings()] == []


def test_docstrings_open_with_a_verb_or_a_noun() -> None:
    assert above(openings(), OPENINGS) == []


def test_no_help_has_a_banned_word() -> None:
    found = []
    for words, command in calls():
        with click.Context(command, info_name=" ".join(words)) as context:
            text = " ".join(command.get_help(context).split())
        found += [f"deployer {' '.join(words)} --help: {it}" for it in found_in(text)]
    assert len(found) <= HELP, found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_page_has_a_banned_word(page: Path) -> None:
    text = re.sub(r"\]\([^)]*\)", "]", prose(page))
    for code in inline_code(page):
        text = text.replace(f"`{code}`", "")
    found = found_in(text)
    assert len(found) <= ALLOWED.get(page.name, 0), found
