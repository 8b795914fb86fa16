"""The marks a field of the stack may carry, and the one walk that reads them.

A field says on itself what a change of it costs (`Effect`), which option of
llama-server it becomes (`Flag`), what its number means (`Unit`), and whether the
lock file stands for it in the key (`LOCKED`).  Key, diff, argv, schema and reasons
all come from `leaves`; there is no second list of field names.

Prefixes: the published formats of Hugging Face, OpenAI, Anthropic, GitHub, GitLab,
AWS, Google, Slack and Modal tokens; JSON web tokens; PEM keys.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from types import UnionType
from typing import Annotated, Any, ClassVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, TypeAdapter

from deployer.stack.fields.values import (
    Effect,
    File,
    Flag,
    Folder,
    InPlace,
    JsonValue,
    Mark,
    Marks,
    Memory,
    Only,
    Options,
    Unit,
)


class Section(BaseModel):
    """Base of everything a user writes: frozen, strict, closed to unknown keys."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        defer_build=True,  # a stack builds the parts that it has
        allow_inf_nan=False,
    )

    says_something_when_empty: ClassVar[bool] = False
    """Its presence alone has a meaning (`gates: {chat: {}}`)."""


@dataclass(frozen=True, slots=True)
class Leaf:
    """One set field of a section, with its dotted path and its marks."""

    path: str
    value: JsonValue
    """As the user wrote it."""
    marks: Marks


def leaves(
    section: Section, prefix: str = "", inherited: Marks | None = None
) -> Iterator[Leaf]:
    """Every set field in the order of declaration; unset (None) ones are absent.

    A mark on a field that holds a section is the default of all fields in it.
    A section in which nothing is set is a leaf with the value ``{}`` where that says
    something (``gates.chat``), and else as absent as an unset field.
    Entries of a mapping are leaves of their own (``server.flags.ctx-checkpoints``),
    lists are one leaf unless they are marked (``model.lora.0.scale``); so are the
    sections of a mapping that is marked (``auth.api_keys.team-a.env``).
    """
    for name, field in fields_of(type(section)).items():
        value = getattr(section, name)
        if value is None:
            continue
        path = f"{prefix}{name}"
        marks = field.under(inherited)
        match value:
            case Section():
                inner = tuple(leaves(value, f"{path}.", marks))
                yield from inner
                if not inner and value.says_something_when_empty:
                    yield Leaf(path, {}, marks)
            case tuple() | Mapping() if field.each:
                for key in value if isinstance(value, Mapping) else range(len(value)):
                    yield from _entry(value[key], f"{path}.{key}", marks)
            case Mapping() if marks.flags == ():
                for key, entry in value.items():
                    yield Leaf(f"{path}.{key}", plain(entry), marks)
            case _:
                yield Leaf(path, plain(value), marks)


def _entry(value: object, path: str, marks: Marks) -> Iterator[Leaf]:
    """Yield an entry of a list or a mapping: a section, or one value."""
    if isinstance(value, Section):
        yield from leaves(value, f"{path}.", marks)
    else:
        yield Leaf(path, plain(value), marks)


def marks_at(section: type[Section], path: str) -> Marks:
    """The marks of a field by its dotted path; the strongest effect where unknown."""
    found: Marks | None = None
    inside: type[Section] | None = section
    names = iter(path.split("."))
    for name in names:
        field = fields_of(inside).get(name) if inside is not None else None
        if field is None:
            break
        found = field.under(found)
        inside = field.item if field.each else field.section
        if field.each:
            next(names, None)  # its number or its name, whose class is known already
    return found or Marks()


def plain(value: object) -> JsonValue:
    """A field's value as JSON: sections become mappings, tuples lists."""
    match value:
        case Section():
            # pydantic would build the class to dump it, plugins included.
            named = ((name, getattr(value, name)) for name in fields_of(type(value)))
            return {name: plain(it) for name, it in named if it is not None}
        case tuple() | list():
            return [plain(item) for item in value]
        case Mapping():
            return {str(key): plain(item) for key, item in value.items()}
        case None | bool() | int() | float() | str():
            return value
        case _:
            raise TypeError(f"{type(value).__name__} is not a value of a stack")


def first_valid(
    section: type[Section], name: str, readings: Iterable[JsonValue]
) -> JsonValue:
    """Return the first of several readings of a text that a field takes; None: none."""
    takes = _adapter(section, name)
    for reading in readings:
        try:
            return plain(takes.validate_json(json.dumps(reading), strict=True))
        except ValueError:  # of pydantic's, too
            continue
    return None


@cache
def _adapter(section: type[Section], name: str) -> TypeAdapter[object]:
    """The type of a field alone, whatever else its section needs."""
    info = section.model_fields[name]
    kind: Any = Annotated[(info.annotation, *info.metadata)]
    made: TypeAdapter[object] = TypeAdapter(kind)
    return made


@dataclass(frozen=True, slots=True)
class Field:
    """The marks of one field of a class, before inheritance."""

    effect: Effect | None
    flags: tuple[Flag, ...]
    unit: Unit | None
    locked: bool
    only: str | None
    file: File | Folder | Options | None
    memory: Memory | None
    ability: str
    each: bool
    section: type[Section] | None
    item: type[Section] | None
    """The class of each section of a list or a mapping."""

    def under(self, parent: Marks | None) -> Marks:
        """With what the section around it says."""
        above = parent or Marks()
        effect = above.effect if self.effect is None else self.effect
        only = self.only or above.only
        return Marks(
            effect,
            self.flags,
            self.unit,
            self.locked,
            only,
            self.memory,
            self.ability,
        )


@cache
def fields_of(section: type[Section]) -> Mapping[str, Field]:
    """The fields of a class; metadata is read once."""
    found = {}
    for name, info in section.model_fields.items():
        marks = info.metadata
        found[name] = Field(
            next((m for m in marks if isinstance(m, Effect)), None),
            tuple(m for m in marks if isinstance(m, Flag)),
            next(filter(None, map(_unit_in, (info.annotation, *marks))), None),
            Mark.LOCKED in marks,
            next((m.engine for m in marks if isinstance(m, Only)), None),
            next((m for m in marks if isinstance(m, File | Folder | Options)), None),
            next((m for m in marks if isinstance(m, Memory)), None),
            next((m.ability for m in marks if isinstance(m, InPlace)), ""),
            Mark.EACH in marks,
            _section_in(info.annotation),
            _section_in(info.annotation, tuple, dict),
        )
    return found


def _unit_in(annotation: object) -> Unit | None:
    """The unit anywhere in an annotation: unions hide it from pydantic's metadata."""
    if isinstance(annotation, Unit):
        return annotation
    inside = (*get_args(annotation), *getattr(annotation, "__metadata__", ()))
    return next((unit for part in inside if (unit := _unit_in(part))), None)


def _section_in(annotation: object, *several: object) -> type[Section] | None:
    """Return the section class in an annotation: alone, or in one of ``several``."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return None if several else annotation
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin in several:
        several = ()
    elif origin not in (Union, UnionType, Annotated):
        return None
    return next((s for part in parts if (s := _section_in(part, *several))), None)


_KNOWN = re.compile(
    r"\bhf_[A-Za-z0-9]{16,}"
    r"|\bsk-[A-Za-z0-9_-]{16,}"
    r"|\bgh[oprsu]_[A-Za-z0-9]{16,}"
    r"|\bgithub_pat_[A-Za-z0-9_]{16,}"
    r"|\bglpat-[A-Za-z0-9_-]{16,}"
    r"|\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"
    r"|\bAIza[0-9A-Za-z_-]{30,}"
    r"|\bxox[abeprs]-[0-9A-Za-z-]{10,}"
    r"|\ba[ks]-[A-Za-z0-9]{22}\b"
    r"|\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\."
    r"|-----BEGIN [A-Z ]*PRIVATE KEY"
    r"|://[^/\s:@]*:[^/\s@]+@"
    r"|[?&](?:access_token|api_key|token|sig|signature|x-amz-signature)=[^&\s]{8,}",
    re.IGNORECASE,
)
_RUN = re.compile(r"[A-Za-z0-9]{32,}")
_HEX = re.compile(r"[0-9a-fA-F]{32,}")

SHORTEST = 16
"""Characters; the shortest text that can look like a credential."""

_DIGESTS = frozenset({"sha256", "commit", "tag", "revision"})
"""Keys under which a long hexadecimal text is what it should be."""


def looks_like_a_credential(text: str, *, key: str = "") -> bool:
    """Return whether a text has the form of a token or a key, or is long and random."""
    if len(text) < SHORTEST:
        return False
    if _KNOWN.search(text):
        return True
    if len(text) == len(text.encode()) and _HEX.fullmatch(text):
        return key not in _DIGESTS
    return any(_random(run) for run in _RUN.findall(text))


def _random(run: str) -> bool:
    """Capitals, small letters and digits in every other place: names change less."""
    classes = [(c.isupper(), c.islower()) for c in run]
    changes = sum(one != other for one, other in pairwise(classes))
    return len(set(classes)) == 3 and changes * 2 >= len(run)
