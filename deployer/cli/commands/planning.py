"""validate, lock, plan, drift."""

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypedDict, Unpack

import click

from deployer.cli.for_each_stack import (
    annotate_option,
    each,
    print_shared,
    refuse_crowded,
    subjects_of,
)
from deployer.cli.options import (
    engine_option,
    json_option,
    locked_option,
    no_cache_option,
    since_option,
    stacks_argument,
)
from deployer.cli.output import begin_json, is_asked, json_result
from deployer.diagnostics import diagnostic_data, diagnostic_lines
from deployer.engines.place import costs_of
from deployer.errors import UsageError, worst_of
from deployer.show.text import plan_text
from deployer.spelling import harmless, shown
from deployer.stack.fields.values import JsonValue
from deployer.usecases.context.settings import Options, Settings, settings_of
from deployer.usecases.context.stack_files import Subject, concurrent_states
from deployer.usecases.plan import Planned, needed, plan, prospects
from deployer.usecases.reading.prepared import Prepared

if TYPE_CHECKING:
    from deployer.cli.progress_display import Show
    from deployer.planning.events import Event
    from deployer.planning.plan import Plan
    from deployer.planning.progress import Progress, Watch
    from deployer.usecases.plan_file import SavedPlan
    from deployer.usecases.validate import Valid


_AS_FAR_AS_KNOWN = "nothing wrong as far as known, but options are uncertain"


def print_plan(
    planned: "Planned | SavedPlan",
    form: str,
    file: Path,
    *,
    steps: bool,
    apart: bool = False,
) -> None:
    """Print a plan, in a form for people or for programs."""
    seen = planned.prepared if isinstance(planned, Planned) else None
    fit, notices = (None, ()) if seen is None else (seen.fit, seen.notices)
    match form:
        case "json":
            from deployer.show.data import plan_data  # noqa: PLC0415 - rare

            bill = costs_of(planned.plan)
            data = plan_data(planned.plan, planned.places, fit=fit, costs=bill)
            data["notices"] = [diagnostic_data(notice) for notice in notices]
            data["notes"] = [*planned.notes]
            data["refreshed"] = _is_refreshed(planned)
            json_result({**data, "file": str(file)})
        case "markdown":
            from deployer.cli.comment import comment_of  # noqa: PLC0415 - rare

            click.echo(comment_of(planned, file), nl=False)
        case _:
            text = _plan_in_words(planned, file, steps=steps)
            click.echo(f"\n{text}" if apart else text, nl=False)


def _is_refreshed(planned: "Planned | SavedPlan") -> bool:
    return not isinstance(planned, Planned) or planned.refreshed


def _plan_in_words(planned: "Planned | SavedPlan", file: Path, *, steps: bool) -> str:
    seen = planned.prepared if isinstance(planned, Planned) else None
    ahead, lacks = ahead_of(planned, file)
    text = plan_text(
        planned.plan,
        planned.places,
        steps=steps,
        fit=None if seen is None else seen.fit,
        costs=None if planned.plan.is_empty else costs_of(planned.plan),
        prospects=ahead,
        refreshed=_is_refreshed(planned),
        wide=is_asked("verbose"),
    )
    notes = (f"note: {note}" for note in (*planned.notes, *lacks))
    notices = () if seen is None else seen.notices
    lines = [*notes, *diagnostic_lines(notices)]
    return "\n".join((text.removesuffix("\n"), *lines, ""))


def ahead_of(
    planned: "Planned | SavedPlan", file: Path
) -> tuple[Mapping[str, str], tuple[str, ...]]:
    """Return what an apply will do for each artefact, and what it lacks or writes."""
    if planned.plan.is_empty or not isinstance(planned, Planned):
        return {}, ()
    settings = settings_of()
    return prospects(planned, settings), tuple(needed(planned, settings, file))


CHANGES = 2
"""Exit code of `plan --detailed-exitcode` when something would change."""

NEVER_APPLIED = 10
"""Exit code of `drift --detailed-exitcode` when nothing is recorded of a stack."""

YAML = {".yaml", ".yml"}
_SILENT_SECONDS = 5.0
"""Seconds that a plan in a pipe reads and fetches without a word."""


def _form(context: click.Context, _option: click.Parameter, form: str) -> str:
    if form == "json":
        begin_json(context)
    return form


_format_option = click.option(
    "--format",
    "form",
    type=click.Choice(["text", "json", "markdown"]),
    default="text",
    callback=_form,
    help="Format of the plan.",
)


@click.command("validate", short_help="Check stack files, offline.")
@click.argument("paths", type=click.Path(path_type=Path), nargs=-1, metavar="[PATH…]")
@engine_option
@json_option
@annotate_option
def validate_command(
    paths: tuple[Path, ...],
    engine: str | None,
    *,
    as_json: bool,
    annotate: bool,
) -> None:
    """Check stack files: schema, rules across fields, files they name.  Offline.

    Each is held against the model and against the published JSON schema, literally.

    A folder stands for every YAML file in it.  All problems are shown at once.
    Without a path: the folder `stacks`, and every `*.deployer.yaml` at or below here.

    \b
    Example:
      deployer validate stacks/
    """
    from deployer.usecases.context.stack_files import recognised  # noqa: PLC0415 - as above
    from deployer.usecases.validate import validate  # noqa: PLC0415 - plan needs no more

    listening: dict[Path, str] = {}
    schemas: set[str] = set()

    def check(subject: Subject) -> None:
        file = subject.file
        found = validate(file, settings_of(), engine)
        listening[file] = found.listens
        schemas.add(found.schema)
        _print_valid(file, found, as_json=as_json)

    subjects = subjects_of(paths or recognised(Path()))
    try:
        each(subjects, check, as_json=as_json, annotate=annotate)
    finally:
        print_shared(listening)
        for schema in schemas if not as_json else ():
            click.echo(f"checked against the model and the schema {schema}", err=True)


def _print_valid(file: Path, found: "Valid", *, as_json: bool) -> None:
    if as_json:
        told: list[JsonValue] = [diagnostic_data(notice) for notice in found.notices]
        about: dict[str, JsonValue] = {"notes": [*found.notes], "notices": told}
        about |= {"certain": found.certain, "schema": found.schema}
        json_result({"type": "valid", "file": str(file), **about})
        return
    click.echo(f"{file}: {'valid' if found.certain else _AS_FAR_AS_KNOWN}")
    for note in found.notes:
        click.echo(f"  note: {note}")
    for line in diagnostic_lines(found.notices):
        click.echo(line)


@click.command("lock", short_help="Pin what stacks name, in their lock files.")
@stacks_argument
@engine_option
@click.option("--upgrade", is_flag=True, help="Resolve again what is already pinned.")
@json_option
def lock_command(
    paths: tuple[Path, ...], engine: str | None, *, upgrade: bool, as_json: bool
) -> None:
    """Resolve tags, revisions and packages into the lock file beside the stack.

    \b
    Example:
      deployer lock stacks/prod.yaml --upgrade
    """
    from deployer.usecases.artefacts import lock  # noqa: PLC0415 - plan needs no more

    def write(subject: Subject) -> None:
        file = subject.file
        with _watched(f"deployer lock {file}", as_text=not as_json) as watch:
            done = lock(file, settings_of(), engine, upgrade=upgrade, watch=watch)
        if as_json:
            about: list[JsonValue] = [*done.changes]
            head = {"type": "lock", "file": str(done.file)}
            json_result({**head, "changed": done.changed, "changes": about})
            return
        click.echo(f"{done.file}: {'written' if done.changed else 'unchanged'}")
        for line in done.changes:
            click.echo(f"  {line}")

    each(subjects_of(paths), write, as_json=as_json)


class _Asked(TypedDict):
    """The options that say how a stack is read and compared."""

    engine: str | None
    locked: bool
    refresh: bool | None
    without_state: bool
    cached: bool


_FORM = "deployer.comment"


def _of_comment(
    context: click.Context, option: click.Parameter, value: str | Path | None
) -> None:
    """Keep an option of the comment, for who prints one."""
    context.meta.setdefault(_FORM, {})[option.name] = value


def _label(context: click.Context, option: click.Parameter, text: str) -> None:
    """Keep a label that a marker may contain; raises UsageError for others."""
    if text.strip("abcdefghijklmnopqrstuvwxyz0123456789-") or len(text) > 40:
        raise UsageError(
            f"`--label` is `{shown(text)}`", hint="lower case letters, digits, `-`"
        )
    _of_comment(context, option, text)


_label_option = click.option(
    "--label",
    default="",
    metavar="NAME",
    expose_value=False,
    callback=_label,
    help="With `--format markdown`: tell several comments on a pull request apart.",
)
_at_merge_option = click.option(
    "--at-merge",
    default="",
    metavar="TEXT",
    expose_value=False,
    callback=_of_comment,
    help="With `--format markdown`: what happens once it is merged.",
)
_summary_option = click.option(
    "--summary",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    expose_value=False,
    callback=_of_comment,
    help="With `--format markdown`: also write what a comment has no room for.",
)


@click.command("plan")
@stacks_argument
@engine_option
@locked_option
@no_cache_option
@since_option
@annotate_option
@click.option(
    "--refresh/--no-refresh",
    default=None,
    help="Observe all that is live, or nothing; by default what one look here shows.",
)
@click.option(
    "--without-state",
    is_flag=True,
    help="Plan without reading state (for example in fork pull requests).",
)
@click.option(
    "--detailed-exitcode", is_flag=True, help="Exit 2 when something would change."
)
@_format_option
@json_option
@click.option("--steps", is_flag=True, help="Also list the steps of an apply.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Save the plan of one stack to a file, for `apply FILE`; in a folder that"
    " exists, each plan that changes something.",
)
@_label_option
@_at_merge_option
@_summary_option
def plan_command(  # noqa: PLR0913 - one parameter an option
    paths: tuple[Path, ...],
    form: Literal["text", "json", "markdown"],
    since: str | None,
    out: Path | None,
    *,
    detailed_exitcode: bool,
    as_json: bool,
    steps: bool,
    annotate: bool,
    **asked: Unpack[_Asked],
) -> None:
    """Show what `apply` would change, and why.

    Nothing is changed and, with a lock file, nothing is asked over the network.
    With `--changed-since`, a stack counts by what it resolves to: also a base it
    extends, a patch, or its lock file; a stack that is gone is planned as destroyed.
    A saved plan is shown.

    \b
    Example:
      deployer plan stacks/demo.yaml --out demo.plan
      deployer plan demo.plan
      deployer plan stacks/ --changed-since origin/main --format markdown
    """
    form = "json" if as_json else form
    if _show_saved(paths, form):
        return
    settings, options = replace(settings_of(), base=since or ""), Options(**asked)
    subjects, unchanged = _selected(paths, since, out)
    asked_for = () if options.without_state else subjects
    with concurrent_states(asked_for, settings) as known:
        make = partial(_plan, known, options, as_text=form == "text")
        keep = partial(_keep, options, out)
        tell = (
            _comment if form == "markdown" else partial(_tell_each, form, steps=steps)
        )
        changes = tell(subjects, unchanged, make, since, keep, annotate=annotate)
    if changes and detailed_exitcode:
        raise click.exceptions.Exit(CHANGES)


def _show_saved(paths: tuple[Path, ...], form: str) -> bool:
    """Show a saved plan, with the steps of its apply; false where it is none."""
    if len(paths) != 1 or paths[0].suffix in YAML or not paths[0].is_file():
        return False
    from deployer.usecases.plan_file import (  # noqa: PLC0415 - rare
        is_plan_file,
        read,
    )

    if not is_plan_file(paths[0]):
        return False
    saved = read(paths[0])
    print_plan(saved, form, Path(saved.file), steps=True)
    return True


@click.command("drift", short_help="Report drift between the state and what runs.")
@stacks_argument
@click.option(
    "--detailed-exitcode",
    is_flag=True,
    help="Exit 2 where there is drift, 10 where a stack was never applied.",
)
@json_option
def drift_command(
    paths: tuple[Path, ...], *, detailed_exitcode: bool, as_json: bool
) -> None:
    """Compare what runs with the recorded state, whatever the stacks say by now.

    For a scheduled job; `apply` repairs it.  Live stacks without a file count, too.

    \b
    Example:
      deployer drift stacks/ --detailed-exitcode
    """
    from deployer.cli.comment import (  # noqa: PLC0415 - only here
        drift_data,
        drift_lines,
    )
    from deployer.cli.runs import everything  # noqa: PLC0415 - as above
    from deployer.usecases.releases import refresh, remember_drift  # noqa: PLC0415 - only here

    code = 0

    def look(settings: Settings, subject: Subject) -> None:
        nonlocal code
        file = subject.file
        found = refresh(file, settings, subject.gone)
        code = worst_of(code, _code_of(found, subject))
        if found is not None:
            remember_drift(found, file, settings, _complain)
        if as_json:
            json_result({"type": "drift", "file": str(file), **drift_data(found)})
            return
        if subject.gone:
            click.echo(f"{file}: `{subject.gone}` is live, and no file asks for it")
        for line in drift_lines(found):
            click.echo(f"{file}: {line}")

    subjects = everything(paths, settings_of())
    with concurrent_states(subjects, settings_of()) as settings:
        each(subjects, partial(look, settings), as_json=as_json)
    if code and detailed_exitcode:
        raise click.exceptions.Exit(code)


def _complain(event: "Event") -> None:
    """Say on stderr what could not be recorded, as with credentials that only read."""
    click.echo(harmless(f"note: {getattr(event, 'text', '')}"), err=True)


def _code_of(found: "Plan | None", subject: Subject) -> int:
    """Return the detailed exit code of one stack."""
    if found is None:
        return NEVER_APPLIED
    is_well = found.is_empty and not found.drift and subject.gone is None
    return 0 if is_well else CHANGES


def _selected(
    paths: tuple[Path, ...], since: str | None, out: Path | None
) -> tuple[tuple[Subject, ...], tuple[Path, ...]]:
    """The stacks to plan, and those that did not change since the revision.

    Raises UsageError where the plans of several do not fit into one file.
    """
    unchanged: tuple[Path, ...] = ()
    if since is None:
        subjects = subjects_of(paths)
    else:
        from deployer.usecases.changed import changed_since  # noqa: PLC0415 - asks git

        subjects, unchanged = changed_since(paths, since)
        if not subjects:
            click.echo(f"No stack resolves to anything else than at {since}.", err=True)
    if out is not None and len(subjects) != 1 and not out.is_dir():
        raise UsageError(
            "`--out` saves the plan of one stack",
            hint="name one stack file, and another file for each plan; or a folder"
            " that exists, for all of them",
        )
    return subjects, unchanged


def _comment(
    subjects: tuple[Subject, ...],
    unchanged: tuple[Path, ...],
    make: Callable[[Subject], Planned],
    since: str | None,
    save: Callable[[Subject, Planned, str], None],
    *,
    annotate: bool,
) -> int:
    """Print one comment of all plans; returns how many would change something."""
    from deployer.cli.comment import Form, print_comment  # noqa: PLC0415 - rare

    form = Form(**click.get_current_context().meta[_FORM])
    return print_comment(
        subjects, unchanged, make, since, form, save, annotate=annotate
    )


def _tell_each(  # noqa: PLR0913 - as those of `_comment`, and how
    form: str,
    subjects: tuple[Subject, ...],
    unchanged: tuple[Path, ...],
    make: Callable[[Subject], Planned],
    since: str | None,
    save: Callable[[Subject, Planned, str], None],
    *,
    steps: bool,
    annotate: bool,
) -> int:
    """Print every plan; returns how many would change something."""
    del unchanged, since
    changes, found = 0, dict[Path, Prepared]()

    def tell(subject: Subject) -> None:
        nonlocal changes
        apart = subject != subjects[0]
        planned = make(subject)
        save(subject, planned, "")
        found[subject.file] = planned.prepared
        changes += not planned.plan.is_empty
        print_plan(planned, form, subject.file, steps=steps, apart=apart)

    try:
        each(subjects, tell, as_json=form == "json", annotate=annotate)
    finally:
        print_shared({file: it.listens for file, it in found.items()})
    refuse_crowded(found)
    return changes


def _plan(
    settings: Settings,
    options: Options,
    subject: Subject,
    *,
    as_text: bool,
) -> Planned:
    if subject.gone is not None:
        from deployer.usecases.changed import plan_gone  # noqa: PLC0415 - asks git

        return plan_gone(subject, settings, without_state=options.without_state)
    file = subject.file
    with _watched(f"deployer plan {file}", as_text=as_text) as watch:
        planned = plan(file, settings, options, watch)
    notes = (*planned.notes, subject.note) if subject.note else planned.notes
    return planned._replace(notes=notes)


def _keep(
    options: Options, out: Path | None, subject: Subject, planned: Planned, digest: str
) -> None:
    """Save a plan where that was asked for; what is gone has no file to save."""
    if out is None or (out.is_dir() and (planned.plan.is_empty or subject.gone)):
        return
    from deployer.cli.comment import comment_of  # noqa: PLC0415 - rare
    from deployer.show.markdown import digest_of  # noqa: PLC0415 - as above
    from deployer.usecases.plan_file import Shown, save  # noqa: PLC0415 - as above
    from deployer.usecases.runs import origin_of  # noqa: PLC0415 - as above

    file = subject.file
    origin = origin_of(file.parent, os.environ)
    digest = digest or digest_of(comment_of(planned, file))
    where = Shown(origin.commit, origin.pull_request, origin.run, digest)
    place = save(planned, file, options, out, where)
    click.echo(
        f"\nSaved to {place}: `deployer apply {place}` carries it out, or less.",
        err=True,
    )


@contextmanager
def _watched(command: str, *, as_text: bool) -> Iterator["Watch | None"]:
    """Show how far reading and fetching are; without a terminal where it takes long."""
    if not as_text:
        yield None
        return
    shows: list[Show] = []
    begun, patience = time.monotonic(), 0.0 if sys.stdout.isatty() else _SILENT_SECONDS

    def watch(progress: "Progress") -> None:
        if time.monotonic() - begun < patience:
            return
        if not shows:
            from deployer.cli.progress_display import Show  # noqa: PLC0415 - most plans read little

            shows.append(Show(command))
        shows[0](progress)

    try:
        yield watch
    finally:
        for show in shows:
            show.pause()
