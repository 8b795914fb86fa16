"""A plan as JSON, for programs.  The form is documented in docs/plan-json.md.

The first line is a `Version`, the last a `Summary` that counts all others by type.
A line is never changed once it is written; a stream without a summary did not end.
`schema/events.schema.json` is generated from here.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal, assert_never

from deployer.diagnostics import Place
from deployer.planning.events import (
    AtWork,
    Ended,
    Event,
    Judged,
    Started,
    Talk,
    summary,
)
from deployer.planning.plan import Change, Fit, Plan, Reason, fit_data
from deployer.planning.progress import Progress
from deployer.planning.steps import steps_of
from deployer.show.text import describe, place_of, starts_line, step_text, verb
from deployer.stack.fields.values import JsonValue

if TYPE_CHECKING:
    from deployer.planning.costs import Costs


FORMAT = "2.0"
"""Raised in its first number when a reader of the form before would be misled."""


def plan_data(
    plan: Plan,
    places: Mapping[str, Place],
    *,
    fit: Fit | None = None,
    costs: "Costs | None" = None,
) -> dict[str, JsonValue]:
    """The plan with everything that its text shows."""
    return {
        "type": "plan",
        "format": FORMAT,
        "id": plan.id,
        "stack": plan.stack,
        "engine": plan.engine,
        "lineage": plan.lineage,
        "serial": plan.serial,
        "empty": plan.is_empty,
        "changes": [_change(change, places) for change in plan.changes],
        "gates": list(plan.gates),
        "unproven": list(plan.unproven),
        "unfinished": [
            {
                "address": loose.record.address,
                "key": loose.record.key,
                "begun": loose.begun.value,
            }
            for loose in plan.unfinished
        ],
        "drift": [
            {"address": drift.address, "detail": drift.detail} for drift in plan.drift
        ],
        "resumes": None if plan.resumes is None else plan.resumes.number,
        "steps": [step_text(step) for step in steps_of(plan)],
        "costs": None if costs is None else _costs(costs),
        "fit": None if fit is None else fit_data(fit),
        "starts": starts_line(plan) or None,
    }


def _costs(found: "Costs") -> JsonValue:
    """Return estimates in US dollars."""
    return {
        "currency": "USD",
        "apply": round(found.apply, 4),
        "awake_hour": round(found.awake, 4),
        "always_awake": found.always,
        "storage_month": round(found.storage, 4),
        "parts": {name: round(part, 4) for name, part in found.parts.items()},
        "prices": {"as_of": found.prices.as_of, "source": found.prices.source},
    }


def _change(change: Change, places: Mapping[str, Place]) -> dict[str, JsonValue]:
    return {
        "address": change.address,
        "kind": change.kind.value,
        "action": change.action.name.lower(),
        "verb": verb(change),
        "ready": change.ready,
        "what": describe(change),
        "key": {
            "before": None if change.before is None else change.before.key,
            "after": None if change.after is None else change.after.key,
        },
        "reasons": [_reason(reason, places) for reason in change.reasons],
    }


def _reason(reason: Reason, places: Mapping[str, Place]) -> dict[str, JsonValue]:
    place = place_of(reason, places)
    return {
        "cause": reason.cause.value,
        "calls_for": reason.calls_for.name.lower(),
        "path": reason.path,
        "before": reason.before,
        "after": reason.after,
        "detail": reason.detail,
        "place": None
        if place is None
        else {"file": place.file, "line": place.line, "column": place.column},
    }


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
