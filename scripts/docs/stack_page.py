"""The reference of stack files: every field of the model, as its marks say."""

from collections.abc import Iterator
from typing import Final

from deployer.stack.fields.model import Weights
from deployer.stack.fields.reference import Entry, entries
from scripts.docs.gate_pages import COMMON, facts

HEAD: Final = """\
# Stack reference

<!-- Written by `python -m scripts.docs.write`. -->

Every field of a stack file, in the order of the vocabulary.
It is made from the declarations that plan, schema and argument list are made from, so it cannot say anything else.
`deployer schema` prints the same as a JSON schema; the first line of a stack gives it to your editor.

- **Unset** is what holds where the field is left out.
  deployer repeats no default of llama-server: an unset field writes no option, and the build decides.
- **A change** is what it costs, from `note` to `build`; [what a change costs](../plans.md) explains the words.
- **Becomes** is the option of llama-server that is written, with the builds that spell it so.
- A field without an engine works on both.
- A duration is a number of seconds or a text such as `90s`; a size is a number of bytes or a text such as `24GiB`.
"""


def page() -> str:
    """The whole page, as it is committed."""
    return "\n".join((HEAD.rstrip("\n"), *_sections())) + "\n"


def _sections() -> Iterator[str]:
    """Fields of the stack itself first, then a heading for each section."""
    found = entries()
    yield from ("", "## The stack itself")
    for entry in found:
        if "." not in entry.path and entry.below is None:
            yield from _entry(entry)
    for entry in found:
        if "." in entry.path or entry.below is None:
            continue
        yield from ("", f"## {entry.path}", "", _about(entry))
        if entry.listed:
            yield from ("", *_facts(entry))
        own = [e for e in found if e.path.startswith(f"{entry.path}{entry.listed}.")]
        yield from _gates(own) if entry.path == "gates" else _plainly(own)


def _plainly(found: list[Entry]) -> Iterator[str]:
    """Every field; those that say where weights come from are told once, of `model`."""
    sources = Weights.model_fields.keys()
    for entry in found:
        above = entry.path.rpartition(".")[0]
        if entry.name in sources and above.startswith("model."):
            continue
        yield from _entry(entry)
        if entry.below is not None and issubclass(entry.below, Weights):
            names = ", ".join(f"`{name}`" for name in sources)
            yield f"- Where it comes from: {names} in it, as in [model](#model)"


def _gates(found: list[Entry]) -> Iterator[str]:
    """What all gates understand once, then each gate with what is its own."""
    yield from (
        "",
        "A gate that is listed runs; `chat: {}` runs it with what it expects by itself.",
        "A gate that is left out does not run.",
    )
    yield from ("", "### Every gate")
    options = {entry.name: entry for entry in reversed(found)}
    for name in COMMON:
        yield from _entry(options[name], f"#### gates.GATE.{name}")
    for entry in found:
        gate = entry.path.removeprefix("gates.")
        if entry.below is not None:
            yield from ("", f"### {entry.path}", "", *_gate(entry, gate))
        elif entry.name not in COMMON:
            yield from _entry(entry, f"#### {entry.path}")


def _gate(entry: Entry, name: str) -> Iterator[str]:
    yield entry.said
    yield facts(name)
    yield f"[What it proves, what it costs, and when it fails](../gates/{name}.md)."
    if entry.listed:
        yield from ("", *_facts(entry))


def _about(entry: Entry) -> str:
    """What a section is, and what holds without it."""
    if entry.listed:
        return entry.said
    only = f" Only for the engine `{entry.marks.only}`." if entry.marks.only else ""
    if entry.info.is_required():
        return f"{entry.said} Required.{only}"
    if entry.info.default_factory is not None:
        return f"{entry.said} Unset: what its fields say by themselves.{only}"
    return f"{entry.said} Unset: {entry.unset}.{only}"


def _entry(entry: Entry, heading: str = "") -> Iterator[str]:
    yield from ("", heading or f"### {entry.path}", "", entry.said, "")
    yield from _facts(entry)


def _facts(entry: Entry) -> Iterator[str]:
    """The lines below the sentence of a field."""
    yield from (f"- {fact}" for fact in entry.facts())
