"""init, validate, lock, plan."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from deployer.app.planning import Options, Planned, plan
from deployer.app.settings import settings_of
from deployer.cli.options import engine_option, json_option, locked_option
from deployer.cli.output import json_head, json_line, stack_files
from deployer.core.notices import notice_data, notice_lines, notice_markdown
from deployer.core.problems import Problem, problems_text
from deployer.core.progress import Progress, Watch, unwatched
from deployer.core.render.text import plan_text
from deployer.core.values import JsonValue
from deployer.errors import DeployerError, StackError, UsageError

if TYPE_CHECKING:
    from deployer.cli.show import Show

CHANGES = 2
"""Exit code of `plan --detailed-exitcode` when something would change."""

_paths = click.argument(
    "paths", type=click.Path(path_type=Path), nargs=-1, required=True, metavar="PATH…"
)


@click.command("init", short_help="Write a stack file to start from.")
@click.argument(
    "path", type=click.Path(path_type=Path), default=Path("stacks/demo.yaml")
)
@click.option(
    "--template",
    default="demo",
    metavar="NAME",
    show_default=True,
    help="Which stack to start from: demo, local or modal.",
)
def init_command(path: Path, template: str) -> None:
    """Write a stack file to start from, with .env.example and .gitignore lines.

    \b
    Example:
      deployer init stacks/mine.yaml
    """
    from deployer.app.starting import start_project  # noqa: PLC0415 - only here

    for written in start_project(path, template):
        click.echo(f"wrote {written}")
    click.echo(f"next: deployer plan {path}")


@click.command("validate", short_help="Check stack files, offline.")
@_paths
@engine_option
@json_option
def validate_command(
    paths: tuple[Path, ...], engine: str | None, *, as_json: bool
) -> None:
    """Check stack files: schema, rules across fields, files they name.  Offline.

    A folder stands for every YAML file in it.  All problems are shown at once.

    \b
    Example:
      deployer validate stacks/
    """
    from deployer.app.checking import validate  # noqa: PLC0415 - plan needs no more

    def check(file: Path) -> None:
        found = validate(file, settings_of(), engine)
        if as_json:
            notices = [notice_data(notice) for notice in found.notices]
            notes: list[JsonValue] = [*found.notes]
            json_line(
                {
                    "type": "valid",
                    "file": str(file),
                    "notes": notes,
                    "notices": [*notices],
                }
            )
            return
        click.echo(f"{file}: valid")
        for note in found.notes:
            click.echo(f"  note: {note}")
        for line in notice_lines(found.notices):
            click.echo(line)

    _each(paths, check, as_json=as_json)


@click.command("lock", short_help="Pin what stacks name, in their lock files.")
@_paths
@engine_option
@click.option("--upgrade", is_flag=True, help="Resolve again what is pinned already.")
def lock_command(paths: tuple[Path, ...], engine: str | None, *, upgrade: bool) -> None:
    """Resolve tags, revisions and packages into the lock file beside the stack.

    \b
    Example:
      deployer lock stacks/prod.yaml --upgrade
    """
    from deployer.app.locking import lock  # noqa: PLC0415 - plan needs no more

    def write(file: Path) -> None:
        done = lock(file, settings_of(), engine, upgrade=upgrade)
        click.echo(f"{done.file}: {'written' if done.changed else 'unchanged'}")
        for line in done.changes:
            click.echo(f"  {line}")

    _each(paths, write, as_json=False)


@click.command("plan")
@_paths
@engine_option
@locked_option
@click.option("--refresh", is_flag=True, help="Look at the world, and report drift.")
@click.option(
    "--detailed-exitcode", is_flag=True, help="Exit 2 when something would change."
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "json", "markdown"]),
    default="text",
    help="How to print the plan.",
)
@click.option("--json", "as_json", is_flag=True, help="Short for --format json.")
@click.option("--steps", is_flag=True, help="Also list the steps of an apply.")
def plan_command(  # noqa: PLR0913 - one parameter an option
    paths: tuple[Path, ...],
    engine: str | None,
    form: Literal["text", "json", "markdown"],
    *,
    locked: bool,
    refresh: bool,
    detailed_exitcode: bool,
    as_json: bool,
    steps: bool,
) -> None:
    """Show what `apply` would change, and why.

    Nothing is changed and, with a lock file, nothing is asked over the network.

    \b
    Example:
      deployer plan stacks/demo.yaml
      deployer plan stacks/ --format markdown
    """
    settings = settings_of()
    options = Options(engine=engine, locked=locked, refresh=refresh)
    form = "json" if as_json else form
    changes = shown = 0

    def show(file: Path) -> None:
        nonlocal changes, shown
        with _watched(f"deployer plan {file}", as_text=form == "text") as watch:
            planned = plan(file, settings, options, watch)
        changes += not planned.plan.is_empty
        if shown and form == "text":
            click.echo()
        shown += 1
        _print(planned, form, steps=steps)

    _each(paths, show, as_json=form == "json")
    if changes and detailed_exitcode:
        raise click.exceptions.Exit(CHANGES)


@contextmanager
def _watched(command: str, *, as_text: bool) -> Iterator[Watch]:
    """At a terminal, show how far reading and fetching are, if any is needed."""
    if not as_text or not sys.stdout.isatty():
        yield unwatched
        return
    shows: list[Show] = []

    def watch(progress: Progress) -> None:
        if not shows:
            from deployer.cli.show import Show  # noqa: PLC0415 - most plans read little

            shows.append(Show(command))
        shows[0](progress)

    try:
        yield watch
    finally:
        for show in shows:
            show.pause()


def _print(planned: Planned, form: str, *, steps: bool) -> None:
    match form:
        case "json":
            from deployer.core.render.data import plan_data  # noqa: PLC0415 - rare

            data = plan_data(planned.plan, planned.places)
            notices = [notice_data(notice) for notice in planned.prepared.notices]
            json_line({**data, "notices": [*notices]})
        case "markdown":
            from deployer.core.render.markdown import plan_markdown  # noqa: PLC0415

            click.echo(plan_markdown(planned.plan, planned.places))
            for line in notice_markdown(planned.prepared.notices):
                click.echo(line)
        case _:
            text = plan_text(planned.plan, planned.places, steps=steps)
            click.echo(text, nl=False)
            for note in planned.notes:
                click.echo(f"note: {note}")
            for line in notice_lines(planned.prepared.notices):
                click.echo(line)


def _each(
    paths: tuple[Path, ...], do: Callable[[Path], None], *, as_json: bool
) -> None:
    """Every stack in turn; a broken one does not hide the others."""
    files = stack_files(paths)
    if not files:
        raise UsageError(
            f"no stack file in {', '.join(f'`{path}`' for path in paths)}",
            hint="stack files end in `.yaml`; `deployer init` writes one",
        )
    worst = 0
    if as_json:
        json_head()
    for file in files:
        try:
            do(file)
        except DeployerError as error:
            if len(files) == 1 and not as_json:
                raise
            worst = max(worst, error.exit_code)
            _report(file, error, as_json=as_json)
    if as_json:
        json_line({"type": "summary", "stacks": len(files), "exit_code": worst})
    if worst:
        raise click.exceptions.Exit(worst)


def _report(file: Path, error: DeployerError, *, as_json: bool) -> None:
    problems = error.problems if isinstance(error, StackError) else ()
    if as_json:
        json_line(
            {
                "type": "error",
                "file": str(file),
                "message": error.message,
                "hint": error.hint,
                "exit_code": error.exit_code,
                "problems": [_problem(problem) for problem in problems],
            }
        )
    elif problems:
        click.echo(problems_text(problems), err=True, nl=False)
    else:
        click.echo(f"{file}: error: {error.message}", err=True)
        if error.hint:
            click.echo(f"  hint: {error.hint}", err=True)


def _problem(problem: Problem) -> JsonValue:
    return {
        "file": problem.place.file,
        "line": problem.place.line,
        "column": problem.place.column,
        "path": problem.path,
        "what": problem.what,
        "hint": problem.hint,
    }
