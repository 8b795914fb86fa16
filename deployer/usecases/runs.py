"""The results of runs, a line each: longer than releases and the reports of gates.

The state keeps the last releases, this keeps what they were measured at, and what
gates kept from promotion.  It lies with the reports of this user, and is no more than a
memory: nothing is decided by it.
"""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from deployer.artefacts.json_files import FormError, decoded, parse
from deployer.planning.events import Verdict, all_let_pass, left_unproven, summary
from deployer.planning.plan import Cause, Plan
from deployer.planning.state import State
from deployer.show.text import because
from deployer.stack.fields.values import JsonValue
from deployer.system.files import contained, guarded, read_regular, replace_file
from deployer.usecases.context.settings import utc_now

PAGE: Final = "report.html"
KEPT_RUNS: Final = 10
"""Reports kept of runs that led to no release: not promoted, or judged again."""
_RELEASE: Final = "release-"


def record(
    home: Path,
    plan: Plan,
    before: State,
    cause: str,
    verdicts: Sequence[Verdict],
    used: Sequence[str],
    after: State,
) -> Path | None:
    """Record a run that just ended, and its gates; returns the page to read."""
    remember(home, before, after, ran_now(plan, cause, verdicts, used))
    return keep_report(home, before, after, verdicts, plan.id, plan.unproven)


def keep_report(
    home: Path,
    before: State,
    after: State,
    verdicts: Sequence[Verdict],
    plan: str,
    unproven: Sequence[str] = (),
) -> Path | None:
    """Write what the gates saw, and remove what is not kept any more; the page to read.

    ``before`` and ``after`` are the states around the run: a new release has its report
    under its number.
    """
    if not verdicts:
        return None
    from deployer.gates.harness.report import write_report  # noqa: PLC0415 - only with gates

    now = utc_now()
    name, title = f"{now.replace(':', '')}-{plan}", f"{after.stack}: gates"
    if after.released > before.released:
        name = f"{_RELEASE}{after.released}"
        title = f"{after.stack}: gates of release {after.released}"
    about = f"plan {plan} on {after.engine}, {now[:16].replace('T', ' ')} UTC"
    if left := (*unproven, *left_unproven(verdicts)):
        about += f"; not proven: {', '.join(left)}"
    folder = folder_of(home, after)
    page = write_report(verdicts, folder / name, title=title, about=about)
    _prune(folder, after)
    return page


def report_of(home: Path, state: State, number: int) -> Path | None:
    """The page of a kept release, if there is one."""
    page = folder_of(home, state) / f"{_RELEASE}{number}" / PAGE
    return page if page.is_file() else None


def folder_of(home: Path, state: State) -> Path:
    """Names of stacks are unique in a folder only, lineages everywhere."""
    reports = home / "reports"
    return contained(reports, reports / f"{state.stack}-{state.lineage[:6]}")


def _prune(folder: Path, state: State) -> None:
    kept = {f"{_RELEASE}{release.number}" for release in state.releases}
    names = sorted(path.name for path in folder.iterdir())
    runs = [name for name in names if not name.startswith(_RELEASE)]
    for name in names:
        if name not in kept and name not in runs[-KEPT_RUNS:]:
            shutil.rmtree(contained(folder, folder / name), ignore_errors=True)


KEPT: Final = 200
"""Runs of a stack that are remembered."""


@dataclass(frozen=True, slots=True)
class Ran:
    """One run whose gates said something, or that led to a release."""

    at: str
    """UTC, ISO 8601."""
    plan: str
    """Short name of the plan."""
    cause: str
    release: int | None
    """None where it led to none: not promoted, or judged again."""
    held_back: bool
    changes: tuple[str, ...]
    """Planned changes with reasons, a sentence each."""
    used: tuple[str, ...]
    """The bill, as it was reported."""
    gates: tuple[Mapping[str, JsonValue], ...]
    """Summaries of the verdicts."""


def ran_now(
    plan: Plan, cause: str, verdicts: Sequence[Verdict], used: Sequence[str]
) -> Ran:
    """A run that just ended, and led to no release as far as is known here."""
    return Ran(
        at=utc_now(),
        plan=plan.id,
        cause=cause,
        release=None,
        held_back=not all_let_pass(verdicts),
        changes=tuple(changes_in(plan)),
        used=tuple(used),
        gates=tuple(summary(verdict) for verdict in verdicts),
    )


def remember(home: Path, before: State, after: State, ran: Ran) -> None:
    """Add a run to the record; ``before`` and ``after`` are the states around it.

    Raises OSError.
    """
    released = after.released > before.released
    if not ran.gates and not released:
        return
    line = {**asdict(ran), "release": after.released if released else None}
    file = _record(home, after)
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with guarded(file.parent):
        lines = [*_lines(file), json.dumps(line, ensure_ascii=False)]
        text = "".join(f"{it}\n" for it in lines[-KEPT:])
        replace_file(file, text.encode(errors="replace"))


def remembered(home: Path, state: State) -> tuple[Ran, ...]:
    """The runs of a stack, oldest first; lines that are no run are left out."""
    return tuple(_runs(_record(home, state)))


def changes_in(plan: Plan) -> Iterator[str]:
    """Yield what changes and why, a sentence each."""
    for change in plan.changes:
        for reason in change.reasons:
            words = " ".join(because(reason).split())
            own = reason.cause in {Cause.FIELD, Cause.LOCK}
            yield words if own else f"{change.role} {words}"


def _record(home: Path, state: State) -> Path:
    folder = folder_of(home, state)
    return folder.with_name(f"{folder.name}.jsonl")


def _lines(record: Path) -> list[str]:
    if not record.exists():
        return []
    text = read_regular(record).decode("utf-8", errors="replace")
    return [line for line in text.split("\n") if line]


def _runs(record: Path) -> Iterator[Ran]:
    for line in _lines(record):
        with suppress(FormError):
            yield decoded(Ran, parse(line))
