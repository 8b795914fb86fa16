"""The parts of pages that list gates, from their classes: heads, options, tables."""

from collections.abc import Callable, Iterator, Mapping
from typing import Final

from deployer.gates import GATES
from deployer.gates.harness.gate import Subject, gate_class
from deployer.stack.fields.gate_options import Gates
from deployer.stack.fields.reference import entries
from deployer.stack.fields.schema import schema_of
from scripts.docs.parts import ROOT, field, marked

COMMON: Final = ("advisory", "timeout")
"""Options of every gate, which pages list once."""
_OF_ALL: Final = "[those of every gate](../reference/stack/gates.md)"
_FIRST: Final = "\n## What it proves\n"
_OPTIONS: Final = "\n## Options\n"
_EMPTY: Final = f"{_FIRST}\n## What it costs\n\n## When it fails\n"


def pages() -> Mapping[str, Callable[[], str]]:
    """Return the pages that have such a part, by name below `docs/`."""
    found = {f"gates/{gate}.md": _page(gate) for gate in GATES}
    return {
        **found,
        "gates/README.md": marked("docs/gates/README.md", {"gates": _table}),
        "../README.md": marked("README.md", {"gates": _list}),
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
        own = text[text.index(_FIRST) :].partition(_OPTIONS)[0].rstrip("\n")
        return "\n".join((*_head(gate), own, *_options(gate)))

    return page


def _head(gate: str) -> Iterator[str]:
    """Yield the lines above the first heading."""
    yield from (f"# {gate}", "")
    yield "<!-- Written by `python -m scripts.docs.write`, but for what it proves,"
    yield "costs, and when it fails. -->"
    yield from ("", sentence(gate), facts(gate))


def _options(gate: str) -> Iterator[str]:
    """Yield the options that the gate has beside those of every gate."""
    own = [
        entry
        for entry in entries()
        if (entry.path == f"gates.{gate}" and entry.listed)
        or (entry.path.startswith(f"gates.{gate}.") and entry.name not in COMMON)
    ]
    if own:
        yield from (_OPTIONS, f"Beside {_OF_ALL}:")
        for entry in own:
            yield from ("", *field(entry, "###"))
    yield ""


def _table() -> Iterator[str]:
    yield from ("| Gate | Proves | Limit |", "|---|---|---|")
    for gate in GATES:
        told = sentence(gate).removesuffix(".")
        found = gate_class(gate)
        alone = ", alone" if found.alone else ""
        yield f"| [{gate}]({gate}.md) | {told} | {found.limit:g} s{alone} |"


def _list() -> Iterator[str]:
    yield f"[{len(GATES)} gates](docs/gates/README.md) ask for what users will:"
    yield "chat, tools, thinking, streams, images, long contexts, speed, restores."


def nav() -> Iterator[str]:
    """Yield the lines of the nav."""
    for subject in Subject:
        yield f"          - {subject.value}:"
        for gate in GATES:
            if gate_class(gate).subject is subject:
                yield f"              - gates/{gate}.md"
