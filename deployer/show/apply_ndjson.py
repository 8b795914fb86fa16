"""The lines of `apply --json`: what a program reads while a run goes on.

The first line is a `Version`, the last a `Summary` that counts all others by type.
A line is never changed once it is written; a stream without a summary did not end.
`schema/events.schema.json` is generated from here.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, assert_never

from deployer.planning.events import AtWork, Ended, Event, Judged, Started, Talk
from deployer.planning.progress import Progress
from deployer.planning.verdict import summary
from deployer.show.data import FORMAT
from deployer.show.step_words import step_text

EVENTS_IDENTIFIER = "urn:deployer:events:1"


@dataclass(frozen=True, slots=True)
class Version:
    """The form of the lines, and who wrote them; always the first."""

    deployer: str
    format: str = FORMAT
    type: Literal["version"] = "version"


@dataclass(frozen=True, slots=True)
class Began:
    """A step begins."""

    step: str
    """The kind of the step: make, stage, check, promote, retire …"""
    text: str
    type: Literal["started"] = "started"


@dataclass(frozen=True, slots=True)
class Done:
    """A step is done."""

    step: str
    text: str
    seconds: float
    type: Literal["ended"] = "ended"


@dataclass(frozen=True, slots=True)
class Said:
    """One line about what goes on inside a step."""

    about: str
    """Address of the resource."""
    text: str
    type: Literal["talk"] = "talk"


@dataclass(frozen=True, slots=True)
class Moved:
    """How far a transfer or a build is; told by tenths."""

    name: str
    done: int
    total: int | None
    unit: str
    type: Literal["progress"] = "progress"


@dataclass(frozen=True, slots=True)
class Gate:
    """A gate ended."""

    gate: str
    outcome: str
    because: str
    seconds: float
    advisory: bool
    applicable: bool
    """False: the model lacks what the gate is about."""
    figures: dict[str, float]
    type: Literal["verdict"] = "verdict"


@dataclass(frozen=True, slots=True)
class Applied:
    """A stack is as its plan says; the URL is absent where nothing is left."""

    stack: str
    file: str
    changed: bool
    release: int
    url: str | None = None
    api_key_env: str | None = None
    type: Literal["applied"] = "applied"


@dataclass(frozen=True, slots=True)
class Failed:
    """A stack was not applied, and why."""

    file: str
    message: str
    hint: str
    exit_code: int
    problems: list[dict[str, Any]] = field(default_factory=list)
    type: Literal["error"] = "error"


@dataclass(frozen=True, slots=True)
class Summary:
    """The last line: how many lines of each type came before, but for the first."""

    counts: dict[str, int]
    stacks: int
    exit_code: int
    type: Literal["summary"] = "summary"


Line = Version | Began | Done | Said | Moved | Gate | Applied | Failed | Summary


def line_of(event: Event) -> Line | None:
    """The line that tells an event of a run; None for what is only said to wait."""
    match event:
        case Started(step):
            return Began(_kind(step), step_text(step))
        case Ended(step, seconds):
            return Done(_kind(step), step_text(step), round(seconds, 3))
        case Talk(about, text):
            return Said(about, text)
        case Judged(verdict):
            told: Mapping[str, Any] = summary(verdict)
            return Gate(**told)
        case Progress(name, done, total, unit):
            return Moved(name, done, total, unit)
        case AtWork():
            return None
        case _:
            assert_never(event)


def data_of(line: Line) -> dict[str, Any]:
    """A line as JSON, its type first."""
    found = asdict(line)
    return {"type": found.pop("type"), **found}


def _kind(step: object) -> str:
    return type(step).__name__.lower()


def events_schema() -> dict[str, Any]:
    """The JSON schema of one line; a `plan` is described in docs/plan-json.md."""
    from pydantic import TypeAdapter  # noqa: PLC0415 - writing lines needs none

    made = TypeAdapter(Line).json_schema(mode="serialization")
    definitions = made["$defs"]
    for definition in definitions.values():
        definition["required"] = sorted({*definition.get("required", ()), "type"})
    definitions["Plan"] = {
        "type": "object",
        "description": "The plan of one stack, as `plan --json` prints it.",
        "properties": {"type": {"const": "plan"}, "stack": {"type": "string"}},
        "required": ["changes", "id", "stack", "steps", "type"],
    }
    names = [{"$ref": f"#/$defs/{name}"} for name in definitions]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": EVENTS_IDENTIFIER,
        "title": "a line of `deployer apply --json`",
        "oneOf": names,
        "$defs": definitions,
    }


def schema_text() -> str:
    """The schema as it is committed."""
    return json.dumps(events_schema(), indent=2, ensure_ascii=False) + "\n"
