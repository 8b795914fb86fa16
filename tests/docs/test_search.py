"""What people type into the search of the site leads to the right page first.

The theme's own worker answers: the script that the site ships, in V8, with the
site's own index.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from py_mini_racer import MiniRacer

WORKER = """\
var self = globalThis, answers = [], listener;
var console = {warn() {}};
function addEventListener(_, heard) { listener = heard; }
function postMessage(answer) { answers.push(answer); }
"""
QUESTIONS = {
    "out of memory": "howto/out-of-memory",
    "cold start": "howto/cold-start",
    "rotate key": "howto/rotate-key",
    "rollback": "howto/rollback",
    "own gguf": "howto/own-gguf",
    "adopt compose": "howto/adopt",
    "private model": "howto/private-model",
    "second model": "howto/second-model",
    "502": "howto/no-answer",
    "cost": "howto/cost",
    "systemd": "howto/systemd",
}


class Search:
    """The search of a built site."""

    def __init__(self, site: Path) -> None:
        index = json.loads((site / "search" / "search_index.json").read_text("utf-8"))
        (script,) = (site / "assets/javascripts/workers").glob("search.*.min.js")
        self.engine = MiniRacer()
        self.engine.eval(WORKER)
        self.engine.eval(script.read_text("utf-8"))
        self._send({"type": 0, "data": {**index, "options": {"suggest": True}}})

    def pages(self, words: str) -> list[str]:
        """Return the pages that are found, the first one first."""
        answer = self._send({"type": 2, "data": words})
        return [
            page["location"].partition("#")[0].strip("/")
            for (page, *_) in answer["data"]["items"]
        ]

    def _send(self, message: object) -> dict[str, Any]:
        self.engine.eval(f"listener({{data: {json.dumps(message)}}})")
        answer: dict[str, Any] = json.loads(
            str(self.engine.eval("JSON.stringify(answers.pop())"))
        )
        return answer


@pytest.fixture(scope="module")
def search(site: Path) -> Iterator[Search]:
    found = Search(site)
    yield found
    found.engine.close()


@pytest.mark.parametrize("words", QUESTIONS)
def test_the_right_page_is_first(words: str, search: Search) -> None:
    assert search.pages(words)[:1] == [QUESTIONS[words]]


def test_nothing_is_found_of_what_no_page_says(search: Search) -> None:
    assert search.pages("kangaroo") == []
