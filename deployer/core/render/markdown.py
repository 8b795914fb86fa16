"""A plan as Markdown, for a comment on a pull request."""

from collections.abc import Iterator, Mapping

from deployer.core.fit import Fit
from deployer.core.plan import Action, Cause, Plan
from deployer.core.problems import Place
from deployer.core.render.fit import fit_line
from deployer.core.render.words import (
    SIGNS,
    because,
    costs,
    counts,
    describe,
    drifted,
    leftovers,
    line_of,
    place_of,
    printable,
    verb,
)


def plan_markdown(
    plan: Plan, places: Mapping[str, Place], *, fit: Fit | None = None
) -> str:
    """A heading, a table of resources, and the reasons below it."""
    return "\n".join(map(printable, _lines(plan, places, fit))) + "\n"


def _lines(plan: Plan, places: Mapping[str, Place], fit: Fit | None) -> Iterator[str]:
    yield f"#### {_code(plan.stack)} on {_word(plan.engine)}: plan {_code(plan.id)}"
    yield ""
    yield "| | Resource | What | Action |"
    yield "|---|---|---|---|"
    for change in plan.changes:
        sign = SIGNS[change.action]
        what = _cell(describe(change))
        yield f"| {sign} | {change.kind} | {what} | **{verb(change)}** |"
    yield ""
    yield from (f"- {_code(line)}" for line in leftovers(plan))
    yield from (f"- **drift**: {_code(line)}" for line in drifted(plan))
    for change in plan.changes:
        if change.action is Action.KEEP:
            continue
        for reason in change.reasons:
            if reason.cause is Cause.NEW:
                continue
            place = place_of(reason, places)
            where = f" ({_code(line_of(place))})" if place else ""
            yield f"- {change.kind}: {_code(because(reason))}{where}"
    if plan.gates and not plan.is_empty:
        yield f"- gates: {', '.join(map(_word, plan.gates))}"
    if fit is not None:
        yield f"- fits: {_code(fit_line(fit))}"
    if bill := costs(plan):
        yield f"- costs: {bill}"
    yield ""
    yield f"**{counts(plan)}**"


def _word(text: str) -> str:
    """A name as it is; anything that could be more than a name as code."""
    return text if text.replace("_", "").isalnum() else _code(text)


def _code(text: str) -> str:
    """Text between more backticks than it holds: nothing in it can be markup."""
    longest = max((len(run) for run in _runs_of_backticks(text)), default=0)
    fence = "`" * (longest + 1)
    pad = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{pad}{text}{pad}{fence}"


def _runs_of_backticks(text: str) -> Iterator[str]:
    run = ""
    for character in text:
        if character == "`":
            run += character
        elif run:
            yield run
            run = ""
    if run:
        yield run


def _cell(text: str) -> str:
    """Text in a table: as code, with the bar that would end the cell escaped."""
    return _code(text).replace("|", "\\|") if text else ""
