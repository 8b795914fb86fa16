"""A plan for a person at a terminal."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from deployer.diagnostics import Place
from deployer.planning.fit import Fit, Parts
from deployer.planning.plan import Cause, Change, Plan
from deployer.show.words import (
    SIGNS,
    because,
    costs_line,
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

if TYPE_CHECKING:
    from deployer.planning.costs import Costs


_MIB, _GIB = 1024**2, 1024**3
_TOGETHER = {"output": "compute", "context": "compute", "process": "compute"}
"""Parts that one line adds to another."""


def fit_line(fit: Fit) -> str:
    """What is needed, of what: ``L40S 48 GB: weights 16.7 + … = 19.6 GiB (44 %)``."""
    joined: dict[str, int] = {}
    for name, size in fit.parts:
        name = _TOGETHER.get(name, name)  # noqa: PLW2901 - the name it is told by
        joined[name] = joined.get(name, 0) + size
    number = gib if fit.total >= _GIB else mib
    unit = "GiB" if fit.total >= _GIB else "MiB"
    parts = " + ".join(f"{name} {number(size)}" for name, size in joined.items())
    share = f" ({percent(fit)})" if fit.capacity else ""
    doubt = ", and what could not be told" if fit.unsure else ""
    return f"{fit.where}: {parts} = {number(fit.total)} {unit}{share}{doubt}"


def fit_text(fit: Fit) -> Iterator[str]:
    """Every part on a line of its own."""
    yield f"{fit.where}: {_verdict(fit)}"
    yield from _parts(fit.parts)
    if fit.host:
        yield f"host memory beside it: {sized(_sum(fit.host))} at the start"
        yield from _parts(fit.host)
    if fit.grows:
        held = _sum(fit.host or fit.parts)
        yield (
            f"host memory under load: up to {sized(held + _sum(fit.grows))},"
            f" {sized(_sum(fit.grows))} of it for"
        )
        yield from _parts(fit.grows)
    for note in fit.unsure:
        yield f"not in the figures: {note}"


def gib(size: int) -> str:
    """A size in GiB, without the unit."""
    return f"{size / _GIB:.1f}"


def mib(size: int) -> str:
    """A size in MiB, without the unit."""
    return f"{size / _MIB:.0f}" if size >= 10 * _MIB else f"{size / _MIB:.1f}"


def sized(size: int) -> str:
    """A size in the unit that shows it."""
    return f"{gib(size)} GiB" if size >= _GIB else f"{mib(size)} MiB"


def percent(fit: Fit) -> str:
    """The share of what there is."""
    return f"{100 * fit.total / fit.capacity:.0f} %"


def _verdict(fit: Fit) -> str:
    if not fit.capacity:
        return f"needs {sized(fit.total)}"
    word = "fits" if fit.holds else "does not fit"
    return f"{word}, {sized(fit.total)} of {sized(fit.capacity)} ({percent(fit)})"


def _parts(parts: Parts) -> Iterator[str]:
    for name, size in parts:
        yield f"  {name:<16}{sized(size):>12}"


def _sum(parts: Parts) -> int:
    return sum(size for _, size in parts)


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
    costs: "Costs | None" = None,
) -> str:
    """Return the plan with every reason and, by `places`, where its field is."""
    lines = map(printable, _lines(plan, places, fit, costs, steps=steps))
    return "\n".join(lines) + "\n"


def _lines(
    plan: Plan,
    places: Mapping[str, Place],
    fit: Fit | None,
    costs: "Costs | None",
    *,
    steps: bool,
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
    if costs is not None and not plan.is_empty:
        yield f"  $ costs    {costs_line(costs)}"
    yield ""
    yield counts(plan)
    if steps and not plan.is_empty:
        yield ""
        yield "Steps:"
        yield from _steps(plan)


def _steps(plan: Plan) -> Iterator[str]:
    """What an apply would do; imported here, since most plans are not asked for it."""
    from deployer.planning.steps import steps_of  # noqa: PLC0415 - see above
    from deployer.show.words import step_text  # noqa: PLC0415 - see above

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
