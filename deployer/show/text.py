"""A plan for a person at a terminal."""

from collections.abc import Iterator, Mapping

from deployer.diagnostics import Place
from deployer.planning.fit import Fit
from deployer.planning.plan import Cause, Change, Plan
from deployer.show.memory import fit_line
from deployer.show.words import (
    SIGNS,
    because,
    costs,
    counts,
    describe,
    drifted,
    gates_line,
    leftovers,
    line_of,
    place_of,
    printable,
    verb,
)

_VERB_COLUMN = 68
_PLACE_COLUMN = 58
_ROOM = 36
"""For names of gates, in a terminal of 90 columns."""


def plan_text(
    plan: Plan,
    places: Mapping[str, Place],
    *,
    steps: bool = False,
    fit: Fit | None = None,
) -> str:
    """The plan with every reason; ``places`` says where each field was written."""
    lines = map(printable, _lines(plan, places, fit, steps=steps))
    return "\n".join(lines) + "\n"


def _lines(
    plan: Plan, places: Mapping[str, Place], fit: Fit | None, *, steps: bool
) -> Iterator[str]:
    yield f"{plan.stack} on {plan.engine} · plan {plan.id} · state serial {plan.serial}"
    yield ""
    yield from _leftovers(plan)
    yield from _drift(plan)
    heads = [_head(change) for change in plan.changes]
    column = max((len(head) for head in heads), default=0)
    for change, head in zip(plan.changes, heads, strict=True):
        yield f"{head:<{max(column, _VERB_COLUMN)}}  {verb(change)}"
        yield from _reasons(change, places)
    if gates := gates_line(plan, room=_ROOM):
        yield f"  ◌ gates    {gates}"
    if fit is not None:
        yield f"  ≤ fits     {fit_line(fit)}"
    if bill := costs(plan):
        yield f"  $ costs    {bill}"
    yield ""
    yield counts(plan)
    if steps and not plan.is_empty:
        yield ""
        yield "Steps:"
        yield from _steps(plan)


def _steps(plan: Plan) -> Iterator[str]:
    """What an apply would do; imported here, since most plans are not asked for it."""
    from deployer.planning.steps import steps_of  # noqa: PLC0415 - see above
    from deployer.show.step_words import step_text  # noqa: PLC0415 - see above

    for number, step in enumerate(steps_of(plan), start=1):
        yield f"  {number}. {step_text(step)}"


def _leftovers(plan: Plan) -> Iterator[str]:
    """Yield what an interrupted run left, before anything new."""
    lines = [f"  ! {line}" for line in leftovers(plan)]
    yield from lines
    if lines:
        yield ""


def _drift(plan: Plan) -> Iterator[str]:
    """Yield what changed without the stack, apart from what the stack changes."""
    lines = [f"  ! drift    {line}" for line in drifted(plan)]
    yield from lines
    if lines:
        yield ""


def _head(change: Change) -> str:
    return f"  {SIGNS[change.action]} {change.kind:<9}{describe(change)}"


def _reasons(change: Change, places: Mapping[str, Place]) -> Iterator[str]:
    for reason in change.reasons:
        if reason.cause is Cause.NEW:
            continue
        place = place_of(reason, places)
        line = f"      {because(reason)}"
        if place is None:
            yield line
        else:
            yield f"{line:<{_PLACE_COLUMN}}  {line_of(place)}"
