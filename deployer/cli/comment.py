"""Plans of several stacks as one comment on a pull request."""

import shlex
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from deployer.cli.for_each_stack import ENDS_ALL, annotate_error, report
from deployer.diagnostics import diagnostic_lines
from deployer.engines.place import costs_of
from deployer.errors import DeployerError, StackError, error_of
from deployer.planning.plan import Plan
from deployer.show.data import plan_data
from deployer.show.markdown import Entry, comment
from deployer.show.text import costs_line, drifted, fit_line, starts_line
from deployer.stack.fields.values import JsonValue
from deployer.usecases.context.stack_files import Subject
from deployer.usecases.plan import UNSEEN_STATE, Planned

if TYPE_CHECKING:
    from deployer.usecases.plan_file import SavedPlan


MANY = 5
"""Stacks that a line names."""
NO_STATE = "no recorded state here"


def print_comment(
    subjects: Sequence[Subject],
    unchanged: Sequence[Path],
    planned_of: Callable[[Subject], Planned],
    since: str | None,
    *,
    annotate: bool,
) -> int:
    """Print the comment; returns how many stacks would change.

    Exits with the worst code where a stack cannot be planned, with the comment
    printed all the same.
    """
    entries: list[Entry] = []
    new: list[str] = []
    blind = False
    worst = changes = 0
    for subject in subjects:
        try:
            planned = planned_of(subject)
        except ENDS_ALL:
            raise
        except Exception as error:  # noqa: BLE001 - one stack does not hide others
            known = error_of(error, subject.file)
            worst = max(worst, known.exit_code)
            entries.append(_failed(subject, known))
            report(subject.file, known, as_json=False)
            if annotate:
                annotate_error(known, subject.file)
            continue
        changes += not planned.plan.is_empty
        blind |= planned.without_state
        new += [] if planned.plan.lineage or subject.gone else [str(subject.file)]
        entries.append(_planned(subject, planned, since))
    entries += [Entry(str(file), unchanged=True) for file in unchanged]
    unseen = tuple(_unseen(subjects, new, UNSEEN_STATE if blind else NO_STATE))
    click.echo(comment(entries, unseen=unseen), nl=False)
    if worst:
        raise click.exceptions.Exit(worst)
    return changes


def comment_of(planned: "Planned | SavedPlan", file: Path) -> str:
    """The comment for one plan."""
    new = [] if planned.plan.lineage else [str(file)]
    entry = _planned(Subject(file), planned, None)
    return comment([entry], unseen=tuple(_unseen((), new, NO_STATE)))


def _planned(
    subject: Subject, planned: "Planned | SavedPlan", since: str | None
) -> Entry:
    command = "" if planned.plan.is_empty else _command(subject, since)
    return Entry(
        file=str(subject.file),
        plan=planned.plan,
        places=planned.places,
        notes=tuple(_below(planned)),
        command=command,
    )


def _below(planned: "Planned | SavedPlan") -> Iterator[str]:
    """Yield what stands below the changes: memory, price, and what else to know."""
    changes = not planned.plan.is_empty
    seen = planned.prepared if changes and isinstance(planned, Planned) else None
    if seen is not None and seen.fit is not None:
        yield f"fits     {fit_line(seen.fit)}"
    if changes and (bill := costs_of(planned.plan)) is not None:
        yield f"costs    {costs_line(bill)}"
    if starts := starts_line(planned.plan):
        yield f"starts   {starts}"
    yield from (f"note: {note}" for note in planned.notes)
    yield from () if seen is None else diagnostic_lines(seen.notices)


def _command(subject: Subject, since: str | None) -> str:
    words = ["deployer", "apply", str(subject.file)]
    if subject.gone is not None:
        words += ["--changed-since", since or "HEAD", "--allow-destroy"]
    return shlex.join(words)


def _failed(subject: Subject, error: DeployerError) -> Entry:
    problems = error.problems if isinstance(error, StackError) else ()
    hint = f" (hint: {error.hint})" if error.hint else ""
    message = f"{error.message}{hint}"
    return Entry(str(subject.file), error=message, problems=tuple(problems))


def _unseen(subjects: Sequence[Subject], new: Sequence[str], why: str) -> Iterator[str]:
    """Yield what the plans could not look at, a line each."""
    yield from (subject.note for subject in subjects if subject.note)
    if new:
        more = f" and {len(new) - MANY} more" if len(new) > MANY else ""
        names = ", ".join(new[:MANY])
        yield f"{why} of {names}{more}: all of it counts as new"


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
