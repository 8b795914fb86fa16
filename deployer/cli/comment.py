"""Plans of several stacks as one comment on a pull request."""

import os
import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from deployer.cli.for_each_stack import ENDS_ALL, annotate_error, report
from deployer.diagnostics import diagnostic_lines
from deployer.engines.place import costs_of
from deployer.errors import (
    DeployerError,
    StackError,
    UsageError,
    error_of,
    worst_of,
)
from deployer.planning.plan import Plan
from deployer.show.data import plan_data
from deployer.show.markdown import LONGEST_SUMMARY, Entry, comment, digest_of
from deployer.show.text import costs_line, drifted, fit_line, leftovers, starts_line
from deployer.stack.fields.values import JsonValue
from deployer.system.files import replace_file
from deployer.usecases.context.settings import utc_now
from deployer.usecases.context.stack_files import Subject
from deployer.usecases.plan import UNSEEN_STATE, Planned
from deployer.usecases.runs import origin_of

if TYPE_CHECKING:
    from deployer.usecases.plan_file import SavedPlan


MANY = 5
"""Stacks that a line names."""
NO_STATE = "no recorded state here"


class Form(NamedTuple):
    """How the comment of a run of CI is written, and what else of the same plans."""

    label: str = ""
    """Tells the comments of one pull request apart."""
    at_merge: str = ""
    """The effect of a merge, in the words of the workflow."""
    summary: Path | None = None
    """Gets the same, as long as the summary of a job may be."""


Save = Callable[[Subject, Planned, str], None]
"""Saves a plan, with the digest of the comment that shows it."""


def print_comment(
    subjects: Sequence[Subject],
    unchanged: Sequence[Path],
    planned_of: Callable[[Subject], Planned],
    since: str | None,
    form: Form,
    save: Save,
    *,
    annotate: bool,
) -> int:
    """Print the comment, and save the plans that it shows; returns how many change.

    Exits with the worst code where a stack cannot be planned, with the comment
    printed all the same.
    """
    found = _All()
    for subject in subjects:
        found.look(subject, planned_of, since, annotate=annotate)
    entries = [*found.entries, *(Entry(str(it), unchanged=True) for it in unchanged)]
    show = partial(
        comment,
        entries,
        unseen=[*_ahead(form), *found.unseen()],
        label=form.label,
        footer=_footer([planned.plan.id for _, planned in found.planned], os.environ),
    )
    text = show()
    if form.summary is not None:
        _write(form.summary, show(longest=LONGEST_SUMMARY))
    digest = digest_of(text)
    for subject, planned in found.planned:
        save(subject, planned, digest)
    click.echo(text, nl=False)
    if found.worst:
        raise click.exceptions.Exit(found.worst)
    return sum(not planned.plan.is_empty for _, planned in found.planned)


@dataclass(slots=True)
class _All:
    """The plans of all stacks, as far as they could be made."""

    planned: list[tuple[Subject, Planned]] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)
    worst: int = 0

    def look(
        self,
        subject: Subject,
        planned_of: Callable[[Subject], Planned],
        since: str | None,
        *,
        annotate: bool,
    ) -> None:
        try:
            planned = planned_of(subject)
        except ENDS_ALL:
            raise
        except Exception as error:  # noqa: BLE001 - one stack does not hide others
            known = error_of(error, subject.file)
            self.worst = worst_of(self.worst, known.exit_code)
            self.entries.append(_failed(subject, known))
            report(subject.file, known, as_json=False)
            if annotate:
                annotate_error(known, subject.file)
            return
        self.planned.append((subject, planned))
        self.entries.append(_planned(subject, planned, since))

    def unseen(self) -> Iterator[str]:
        """Yield what the plans could not look at, a line each."""
        blind = any(planned.without_state for _, planned in self.planned)
        new = [
            str(subject.file)
            for subject, planned in self.planned
            if not planned.plan.lineage and not subject.gone
        ]
        subjects = [subject for subject, _ in self.planned]
        return _unseen(subjects, new, UNSEEN_STATE if blind else NO_STATE)


def _ahead(form: Form) -> Iterator[str]:
    if form.at_merge:
        yield f"at the merge: {form.at_merge}"


def _footer(plans: Sequence[str], environment: Mapping[str, str]) -> tuple[str, ...]:
    """Return what was planned when, from what, for a run of CI; else nothing."""
    origin = origin_of(Path(), environment)
    if not origin.run:
        return ()
    more = f" and {len(plans) - MANY} more" * (len(plans) > MANY)
    ids = ", ".join(f"`{it}`" for it in plans[:MANY])
    at = utc_now()[:16].replace("T", " ")
    commit = re.sub(r"[^0-9a-z-]", "", origin.commit)[:40]
    words = (
        f"commit `{commit}`" if commit else "commit not known",
        f"plan {ids}{more}" if ids else "",
        f"[run]({origin.run})",
        f"{at} UTC",
    )
    return tuple(filter(None, words))


def _write(file: Path, text: str) -> None:
    try:
        replace_file(file, text.encode())
    except OSError as error:
        raise UsageError(f"cannot write `{file}`: {error.strerror}") from error


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
    elif found.drift or not found.is_empty:
        yield from leftovers(found)
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
