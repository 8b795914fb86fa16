"""Every field of a stack as the reference, the schema and editors show it."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, get_args

from pydantic.fields import FieldInfo

from deployer.stack.explain_problems import expected
from deployer.stack.fields.examples import ADDRESS, EXAMPLES
from deployer.stack.fields.gate_options import Gates
from deployer.stack.fields.marks import Section, fields_of, plain
from deployer.stack.fields.model import Stack
from deployer.stack.fields.schema import followed_schema, schema_of
from deployer.stack.fields.values import NO_GATES, Effect, Flag, JsonValue, Marks

_OPEN: Final = 10**9
_UNSET: Final[Mapping[str, str]] = {
    "server": "llama-server's own default",
    "gates": "it does not run",
}
"""By section, for fields that do not say it themselves."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One field, and where it stands."""

    path: str
    info: FieldInfo
    schema: Mapping[str, Any]
    """Its part of the schema, without references."""
    marks: Marks
    owner: type[Section]
    """The section that declares it."""
    below: type[Section] | None
    """The section that it holds, alone, in a list or by name."""
    listed: str = ""
    """How an entry of it is written behind its path: `[]`, `.NAME`."""

    @property
    def name(self) -> str:
        """The key as it is written."""
        return self.path.rpartition(".")[2]

    @property
    def said(self) -> str:
        """The sentence of the field."""
        text = str(self.schema["description"])
        said, _, unset = text.rstrip(".").partition("; unset: ")
        kept = self.info.is_required() or (self.default is None and not unset)
        return text if kept else f"{said}."

    @property
    def default(self) -> JsonValue:
        """The value that holds where the field is left out; None where none is set."""
        if self.info.is_required() or self.info.default_factory is not None:
            return None
        return plain(self.info.default)

    @property
    def unset(self) -> str:
        """The words for a field that is left out."""
        if self.info.is_required():
            return ""
        if self.default is not None:
            return f"`{flow(self.default)}`"
        _, _, unset = str(self.schema["description"]).rstrip(".").partition("; unset: ")
        return unset or _UNSET.get(self.path.partition(".")[0], "")

    @property
    def examples(self) -> tuple[JsonValue, ...]:
        """Values that it may have."""
        listed, _, inner = self.path.replace(".NAME.", "[].").partition("[].")
        known = {**EXAMPLES, **ADDRESS, "version": (1,)}.get(listed, ())
        if not inner:
            return tuple(known)
        parts = (part for value in known for part in _entries_of(value))
        return tuple(p[inner] for p in parts if isinstance(p, dict) and inner in p)

    def facts(self) -> Iterator[str]:
        """Yield its type, its default and the cost of a change, a line each."""
        below = ", with the fields below" if self.below else ""
        yield f"Type: {expected(self.schema)}{below}"
        yield "Required" if self.info.is_required() else f"Unset: {self.unset}"
        yield f"A change: {self._effect()}"
        if self.marks.flags:
            yield f"Becomes: {'; '.join(_spelled(flag) for flag in self.marks.flags)}"
        if self.marks.only:
            yield f"Engine: `{self.marks.only}` only"
        if self.examples:
            yield f"Example: `{self.name}: {flow(self.examples[0])}`"

    def _effect(self) -> str:
        if self.path in ADDRESS:
            return "another stack"
        word = self.marks.effect.name.lower()
        if self.marks.locked and self.marks.effect is not Effect.NOTE:
            return f"**{word}**, where the lock file then pins something else"
        return f"**{word}**"


@cache
def entries() -> tuple[Entry, ...]:
    """Return every field that can be written, of lists and mappings as well."""
    return tuple(_entries(Stack, followed_schema(Stack), "", None))


def _entries(
    section: type[Section],
    part: Mapping[str, Any],
    prefix: str,
    inherited: Marks | None,
) -> Iterator[Entry]:
    for name, field in fields_of(section).items():
        info = section.model_fields[name]
        marks = field.under(inherited)
        schema = part["properties"][name]
        below = _held(info.annotation)
        inside, listed = _inside(schema) if below else (schema, "")
        path = f"{prefix}{name}"
        yield Entry(path, info, schema, marks, section, below, listed)
        if below is not None:
            yield from _entries(below, inside, f"{path}{listed}.", marks)


def _inside(schema: Mapping[str, Any]) -> tuple[Mapping[str, Any], str]:
    """Return the part of a section in a field, and how an entry of it is written."""
    for member in schema.get("anyOf", (schema,)):
        if "properties" in member:
            return member, ""
        for below, listed in (("items", "[]"), ("additionalProperties", ".NAME")):
            entry = member.get(below) or {}
            for part in entry.get("anyOf", (entry,)):
                if "properties" in part:
                    return part, listed
    raise LookupError(f"no section in {sorted(schema)}")


@cache
def _by_path() -> Mapping[str, Entry]:
    return {entry.path: entry for entry in entries()}


def entry_at(path: str) -> Entry | None:
    """Return the field of a dotted path in which indexes are `[]` and names `NAME`."""
    return _by_path().get(path)


def markdown(entry: Entry) -> str:
    """Return what an editor shows of a field."""
    return "\n".join((entry.said, "", *(f"- {fact}" for fact in entry.facts())))


def published_schema() -> str:
    """Return the schema as it is committed, with what editors show beside it."""
    schema = schema_of()
    sections = {Stack.__name__: schema, **schema["$defs"]}
    for entry in reversed(entries()):
        field = sections[entry.owner.__name__]["properties"][entry.name]
        field["markdownDescription"] = markdown(entry)
        if entry.owner is Gates and entry.name not in NO_GATES:
            field["defaultSnippets"] = [{"label": entry.name, "body": {}}]
        elif "$ref" not in field and entry.examples:
            field["examples"] = list(entry.examples)
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def _spelled(flag: Flag) -> str:
    """Return the words of an option, and for which builds."""
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


def _entries_of(value: JsonValue) -> list[JsonValue]:
    """Return what a list or a mapping by name holds."""
    match value:
        case list():
            return value
        case dict():
            return list(value.values())
        case _:
            return []


def flow(value: JsonValue) -> str:
    """Return YAML of one line, without quotes where none are needed."""
    match value:
        case dict():
            return "{" + ", ".join(f"{k}: {flow(v)}" for k, v in value.items()) + "}"
        case list():
            return f"[{', '.join(flow(item) for item in value)}]"
        case str() if value[:1].isdigit() and value.replace(".", "").isdigit():
            return f'"{value}"'
        case str():
            return value
        case _:
            return json.dumps(value)


def _held(annotation: object) -> type[Section] | None:
    """Return the section anywhere in an annotation."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    return next((s for part in get_args(annotation) if (s := _held(part))), None)
