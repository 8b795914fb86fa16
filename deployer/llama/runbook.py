"""Symptoms as a page of the docs."""

import re
from collections.abc import Iterator, Mapping
from typing import Final

from deployer.llama.symptom import Symptom
from deployer.llama.symptoms_of_hosts import HOSTS
from deployer.llama.symptoms_of_start import START
from deployer.llama.symptoms_of_use import USE

THEMES: Final[Mapping[str, tuple[Symptom, ...]]] = {
    "The server does not start, or dies": START,
    "Requests go wrong": USE,
    "Around the server: downloads, snapshots, Modal": HOSTS,
}

_HEAD: Final = """\
# Runbook

<!-- Written by `deployer doctor --runbook > docs/runbook.md`. -->

What a log says, why, and what to do about it.
`deployer doctor STACK` and `deployer doctor --logs FILE` look for all of it.
"""


def markdown() -> str:
    """Every symptom, with its cause and what to do."""
    return _HEAD + "\n".join(_tables()) + "\n"


def _tables() -> Iterator[str]:
    for theme, symptoms in THEMES.items():
        yield from ("", f"## {theme}", "", "| Name | | Cause | What to do |")
        yield "|---|---|---|---|"
        for symptom in symptoms:
            cells = (_words(symptom.meaning), _words(symptom.hint))
            yield f"| `{symptom.id}` | {symptom.severity} | {cells[0]} | {cells[1]} |"


def _words(text: str) -> str:
    """Without what only a log can fill in, and without the bars of a table."""
    return re.sub(r"\\[0-9]", "…", text).replace("|", "\\|")
