"""The reference of stack files: every field of the model, as its marks say."""

import inspect
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Final, get_args

from pydantic.fields import FieldInfo

from deployer.gates.harness.gate import gate_class
from deployer.stack.fields.marks import Section, fields_of, plain
from deployer.stack.fields.model import Stack
from deployer.stack.fields.schema import schema_of, written_below
from deployer.stack.fields.values import Effect, Flag, JsonValue, Marks
from scripts.docs.types import type_words
from tests.planning.examples import ADDRESS, EXAMPLES

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
_OPEN: Final = 10**9
_UNSET: Final[Mapping[str, str]] = {
    "server": "llama-server's own default",
    "gates": "it does not run",
}
"""What is left out, by section, where the field itself does not say."""
_COMMON: Final = ("advisory", "timeout")
"""What every gate understands, told once."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One field, and where it stands."""

    path: str
    info: FieldInfo
    said: str
    """What its declaration says of it."""
    marks: Marks
    schema: Mapping[str, Any]
    below: type[Section] | None
    """The section that it holds, alone, in a list or by name."""
    listed: str = ""
    """How an entry of it is written behind its path: `[]`, `.NAME`."""


def page() -> str:
    """The whole page, as it is committed."""
    return "\n".join((HEAD.rstrip("\n"), *_sections())) + "\n"


def entries(
    section: type[Section] = Stack, prefix: str = "", inherited: Marks | None = None
) -> Iterator[Entry]:
    """Every field that can be written, those of lists and mappings included."""
    properties, said = _properties(section), written_below(section)
    for name, field in fields_of(section).items():
        info = section.model_fields[name]
        marks = field.under(inherited)
        schema = properties[name]
        listed = {"array": "[]", "object": ".NAME"}.get(schema.get("type", ""), "")
        below = _held(info.annotation)
        path = f"{prefix}{name}"
        yield Entry(
            path,
            info,
            said.get(name) or inspect.getdoc(field.section) or "",
            marks,
            schema,
            below,
            listed if below else "",
        )
        if below is not None:
            yield from entries(below, f"{path}{listed}.", marks)


def _sections() -> Iterator[str]:
    """Fields of the stack itself first, then a heading for each section."""
    found = tuple(entries())
    yield from ("", "## The stack itself")
    for entry in found:
        if "." not in entry.path and entry.below is None:
            yield from _entry(entry)
    for entry in found:
        if "." in entry.path or entry.below is None:
            continue
        yield from ("", f"## {entry.path}", "", _about(entry))
        if entry.listed:
            yield from ("", *_facts(entry, _example_of(entry.path)))
        own = [e for e in found if e.path.startswith(f"{entry.path}{entry.listed}.")]
        yield from _gates(own) if entry.path == "gates" else _plainly(own)


def _plainly(found: list[Entry]) -> Iterator[str]:
    for entry in found:
        if entry.below is None or entry.listed:
            yield from _entry(entry)


def _gates(found: list[Entry]) -> Iterator[str]:
    """What all gates understand once, then each gate with what is its own."""
    yield from (
        "",
        "A gate that is listed runs; `chat: {}` runs it with what it expects by itself.",
        "A gate that is left out does not run.",
    )
    yield from ("", "### Every gate")
    options = {entry.path.rpartition(".")[2]: entry for entry in reversed(found)}
    for name in _COMMON:
        entry = replace(options[name], path=f"gates.GATE.{name}")
        example = _example_of(options[name].path)
        yield from _entry(entry, level=4, example=example)
    for entry in found:
        name = entry.path.removeprefix("gates.")
        if entry.below is not None:
            yield from ("", f"### {entry.path}", "", *_gate(entry, name))
        elif name.rpartition(".")[2] not in _COMMON:
            yield from _entry(entry, level=4)


def _gate(entry: Entry, name: str) -> Iterator[str]:
    yield entry.said
    gate = gate_class(name)
    alone = ", and nothing runs beside it" if gate.alone else ""
    yield f"Without a `timeout` it may take {gate.limit:g} s{alone}."
    yield f"[What it proves, what it costs, and when it fails](../gates/{name}.md)."
    if entry.listed:
        yield from ("", *_facts(entry, _example_of(entry.path)))


def _about(entry: Entry) -> str:
    """What a section is, and what holds without it."""
    text, unset = _told(entry)
    if entry.listed:
        return text
    only = f" Only for the engine `{entry.marks.only}`." if entry.marks.only else ""
    if entry.info.is_required():
        return f"{text} Required.{only}"
    if entry.info.default_factory is not None:
        return f"{text} Unset: what its fields say by themselves.{only}"
    return f"{text} Unset: {unset}.{only}"


def _entry(entry: Entry, *, level: int = 3, example: str = "") -> Iterator[str]:
    yield from ("", f"{'#' * level} {entry.path}", "", _told(entry)[0], "")
    yield from _facts(entry, example or _example_of(entry.path))


def _facts(entry: Entry, example: str) -> Iterator[str]:
    """The lines below the sentence of a field."""
    unset = _told(entry)[1]
    unit = None if entry.marks.unit is None else entry.marks.unit.value
    words = type_words(entry.schema, unit)
    below = ", with the fields below" if entry.below else ""
    yield f"- Type: {words}{below}"
    yield "- Required" if entry.info.is_required() else f"- Unset: {unset}"
    yield f"- A change: {_effect(entry)}"
    if entry.marks.flags:
        yield f"- Becomes: {'; '.join(_flag(flag) for flag in entry.marks.flags)}"
    if entry.marks.only:
        yield f"- Engine: `{entry.marks.only}` only"
    if example:
        yield f"- Example: `{example}`"


def _told(entry: Entry) -> tuple[str, str]:
    """The sentence of a field, and what holds where it is unset."""
    text = entry.said
    said, _, unset = text.rstrip(".").partition("; unset: ")
    if entry.info.is_required():
        return text, ""
    if entry.info.default is not None and entry.info.default_factory is None:
        return text, f"`{_flow(plain(entry.info.default))}`"
    if unset:
        return f"{said}.", unset
    return text, _UNSET.get(entry.path.partition(".")[0], "")


def _effect(entry: Entry) -> str:
    if entry.path in ADDRESS:
        return "another stack"
    word = entry.marks.effect.name.lower()
    if entry.marks.locked and entry.marks.effect is not Effect.NOTE:
        return f"**{word}**, where the lock file then pins something else"
    return f"**{word}**"


def _flag(flag: Flag) -> str:
    """Its words, and for which builds."""
    names = " or ".join(f"`{word}`" for word in (flag.name, flag.off) if word)
    match flag.since, flag.until:
        case 0, until if until >= _OPEN:
            return names
        case 0, until:
            return f"{names} up to b{until}"
        case since, until if until >= _OPEN:
            return f"{names} from b{since}"
        case since, until:
            return f"{names} from b{since} to b{until}"


def _example_of(path: str) -> str:
    """As it is written in the section; the examples are those of the tests."""
    listed, _, inner = path.replace(".NAME.", "[].").partition("[].")
    known = {**EXAMPLES, **ADDRESS, "version": (1,)}.get(listed, ())
    if not inner:
        return f"{path.rpartition('.')[2]}: {_flow(known[0])}" if known else ""
    parts = (part for value in known for part in _entries_of(value))
    found = (part for part in parts if isinstance(part, dict) and inner in part)
    return next((f"{inner}: {_flow(part[inner])}" for part in found), "")


def _entries_of(value: JsonValue) -> list[JsonValue]:
    """What a list or a mapping by name holds."""
    match value:
        case list():
            return value
        case dict():
            return list(value.values())
        case _:
            return []


def _flow(value: JsonValue) -> str:
    """YAML of one line, without quotes where none are needed."""
    match value:
        case dict():
            return "{" + ", ".join(f"{k}: {_flow(v)}" for k, v in value.items()) + "}"
        case list():
            return f"[{', '.join(_flow(item) for item in value)}]"
        case str() if value[:1].isdigit() and value.replace(".", "").isdigit():
            return f'"{value}"'
        case str():
            return value
        case _:
            return json.dumps(value)


def _held(annotation: object) -> type[Section] | None:
    """The section anywhere in an annotation."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    return next((s for part in get_args(annotation) if (s := _held(part))), None)


@cache
def _properties(section: type[Section]) -> Mapping[str, Any]:
    schema = schema_of()
    found = schema if section is Stack else schema["$defs"][section.__name__]
    properties: Mapping[str, Any] = found["properties"]
    return properties
