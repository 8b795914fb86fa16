"""Symptoms as a page of the docs."""

import re
from collections.abc import Iterator, Mapping
from typing import Final

from deployer.llama.known.symptoms import symptoms

THEMES: Final[Mapping[str, str]] = {
    "start": "The server does not start, or dies",
    "use": "Requests go wrong",
    "hosts": "Around the server: downloads, snapshots, Modal",
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
    for theme, title in THEMES.items():
        yield from ("", f"## {title}", "", "| Name | | Cause | What to do |")
        yield "|---|---|---|---|"
        for symptom in (it for it in symptoms() if it.theme == theme):
            cells = (_words(symptom.meaning), _words(symptom.hint))
            yield f"| `{symptom.id}` | {symptom.severity} | {cells[0]} | {cells[1]} |"


def _words(text: str) -> str:
    """Without what only a log can fill in, and without the bars of a table."""
    return re.sub(r"\\[0-9]", "…", text).replace("|", "\\|")
