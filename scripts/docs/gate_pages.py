"""The parts of pages that list gates, from their classes: heads, tables, the nav."""

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

from deployer.gates import GATES
from deployer.gates.harness.gate import Subject, gate_class
from deployer.stack.fields.gate_options import Gates
from deployer.stack.fields.schema import schema_of

ROOT: Final = Path(__file__).parents[2]
BEGIN, END = "gates: begin", "gates: end"
"""Marks around a part that is written here, as a comment of the file."""
COMMON: Final = ("advisory", "timeout")
"""Options of every gate, which pages list once."""
_FIRST: Final = "\n## What it proves\n"
_EMPTY: Final = f"{_FIRST}\n## What it costs\n\n## When it fails\n"


def pages() -> Mapping[str, Callable[[], str]]:
    """Return the pages that have such a part, by name below `docs/`."""
    found = {f"gates/{gate}.md": _page(gate) for gate in GATES}
    return {
        **found,
        "gates/README.md": _part("docs/gates/README.md", _table),
        "../README.md": _part("README.md", _list),
        "../mkdocs.yml": _part("mkdocs.yml", _nav),
    }


def sentence(gate: str) -> str:
    """Return what a gate proves, in one sentence, as its section says."""
    described: str = schema_of()["$defs"][Gates.__name__]["properties"][gate][
        "description"
    ]
    return described


def facts(gate: str) -> str:
    """Return the limit of a gate, and that it runs alone, as a sentence."""
    found = gate_class(gate)
    alone = ", and nothing runs beside it" if found.alone else ""
    return f"Without a `timeout` it may take {found.limit:g} s{alone}."


def _page(gate: str) -> Callable[[], str]:
    def page() -> str:
        file = ROOT / "docs" / "gates" / f"{gate}.md"
        text = file.read_text(encoding="utf-8") if file.exists() else _EMPTY
        return "\n".join((*_head(gate), text[text.index(_FIRST) :]))

    return page


def _head(gate: str) -> Iterator[str]:
    """Yield the lines above the first heading."""
    yield from (f"# {gate}", "")
    yield "<!-- Down to the next heading written by `python -m scripts.docs.write`. -->"
    yield from ("", sentence(gate), facts(gate))
    properties = schema_of()["$defs"][_section(gate)]["properties"]
    path = f"gates{gate}NAME".lower() if gate == "custom" else f"gates{gate}"
    if options := [name for name in properties if name not in COMMON]:
        links = (
            f"[`{one}`](../reference/stack.md#{path.lower()}{one})" for one in options
        )
        yield f"Options: {', '.join(links)}."


def _section(gate: str) -> str:
    field = schema_of()["$defs"][Gates.__name__]["properties"][gate]
    reference: str = field.get("additionalProperties", field)["$ref"]
    return reference.rpartition("/")[2]


def _part(name: str, lines: Callable[[], Iterator[str]]) -> Callable[[], str]:
    def page() -> str:
        text = (ROOT / name).read_text(encoding="utf-8")
        pattern = rf"(?s)(?<={BEGIN})([^\n]*\n).*?\n([^\n]*{END})"
        made = "\n".join(lines())
        done, count = re.subn(pattern, lambda m: f"{m[1]}{made}\n{m[2]}", text)
        if count != 1:
            raise ValueError(f"{name} has no part between `{BEGIN}` and `{END}`")
        return done

    return page


def _table() -> Iterator[str]:
    yield from ("| Gate | Proves | Limit |", "|---|---|---|")
    for gate in GATES:
        told = sentence(gate).removesuffix(".")
        found = gate_class(gate)
        alone = ", alone" if found.alone else ""
        yield f"| [{gate}]({gate}.md) | {told} | {found.limit:g} s{alone} |"


def _list() -> Iterator[str]:
    links = ", ".join(f"[{gate}](docs/gates/{gate}.md)" for gate in GATES)
    yield f"The gates: {links}."


def _nav() -> Iterator[str]:
    for subject in Subject:
        yield f"      - {subject.value}:"
        for gate in GATES:
            if gate_class(gate).subject is subject:
                yield f"          - gates/{gate}.md"
