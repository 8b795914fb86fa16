"""A plan as JSON, for programs.  The form is documented in docs/plan-json.md."""

from collections.abc import Mapping

from deployer.diagnostics import Place
from deployer.planning.fit import Fit, fit_data
from deployer.planning.plan import Change, Plan, Reason
from deployer.planning.steps import steps_of
from deployer.show.step_words import step_text
from deployer.show.words import describe, place_of, verb
from deployer.stack.fields.values import JsonValue

FORMAT = "1.0"
"""Raised in its first number when a reader of the form before would be misled."""


def plan_data(
    plan: Plan, places: Mapping[str, Place], *, fit: Fit | None = None
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
        "costs": _costs(plan),
        "fit": None if fit is None else fit_data(fit),
    }


def _costs(plan: Plan) -> JsonValue:
    """Estimates in US dollars; null where nothing is billed, or all is to go."""
    if plan.engine != "modal" or plan.destroys:
        return None
    from deployer.planning.costs import costs_of  # noqa: PLC0415 - on modal alone

    found = costs_of(plan)
    return {
        "currency": "USD",
        "apply": round(found.apply, 4),
        "awake_hour": round(found.awake, 4),
        "always_awake": found.always,
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
