"""Drift for people and for programs."""

from collections.abc import Iterator

from deployer.core.plan import Plan
from deployer.core.render.data import plan_data
from deployer.core.render.words import drifted
from deployer.core.values import JsonValue


def drift_lines(found: Plan | None) -> Iterator[str]:
    """What drifted from what was deployed, a line each."""
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
