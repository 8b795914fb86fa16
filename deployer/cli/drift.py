"""Drift for people and for programs."""

from collections.abc import Iterator

from deployer.planning.plan import Plan
from deployer.show.data import plan_data
from deployer.show.words import drifted
from deployer.stack.fields.values import JsonValue


def drift_lines(found: Plan | None) -> Iterator[str]:
    """Yield what drifted from what was deployed, a line each."""
    if found is None:
        yield "never applied"
    elif found.drift:
        yield from drifted(found)
    else:
        yield "no drift"


def drift_data(found: Plan | None) -> dict[str, JsonValue]:
    """The same as JSON; ``applied`` is false for what was never deployed."""
    if found is None:
        return {"applied": False, "drift": []}
    return {
        "applied": True,
        "stack": found.stack,
        "drift": plan_data(found, {})["drift"],
    }
