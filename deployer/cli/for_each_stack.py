"""Doing the same for several stacks: a broken one does not hide the others."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import click

from deployer.cli.output import error_data, json_result
from deployer.diagnostics import Diagnostic, Place
from deployer.errors import (
    DeployerError,
    StackError,
    UsageError,
    error_of,
    worst_of,
)
from deployer.planning.plan import crowded
from deployer.spelling import harmless, secrets_of, without_secrets
from deployer.usecases.context.stack_files import Subject, stack_files
from deployer.usecases.reading.prepared import Prepared

SHOWN = 10
"""Errors of one step that GitHub shows; it drops the others and does not say so."""
_TOLD = "deployer.annotations"


def annotate_error(error: DeployerError, file: Path) -> None:
    """Tell every problem of an error, on stderr, which the runner reads as well.

    The last one that GitHub would show says that there may be more.
    """
    whole = Diagnostic("", error.message, error.hint, place=Place(str(file), 0))
    found = error.problems if isinstance(error, StackError) else (whole,)
    for it in found:
        at = f",line={it.place.line},col={it.place.column}" if it.place.line else ""
        what = f"{it.what}\nhint: {it.hint}" if it.hint else it.what
        name = _property(it.place.file)
        _tell(f"::error file={name}{at},title=deployer::{_message(what)}")


def _tell(text: str) -> None:
    """One annotation of this command, as long as GitHub shows them."""
    known = click.get_current_context().meta
    told = known[_TOLD] = known.get(_TOLD, 0) + 1
    if told == SHOWN:
        text = "::error title=deployer::GitHub shows no more here: the log has all"
        text += " problems"
    if told <= SHOWN:
        click.echo(text, err=True)


def _message(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _message(text).replace(":", "%3A").replace(",", "%2C")


ENDS_ALL = (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError)
"""No trouble of one stack."""

annotate_option = click.option(
    "--annotate",
    is_flag=True,
    help="Also print problems as GitHub Actions annotations, on stderr.",
)


def subjects_of(paths: tuple[Path, ...]) -> tuple[Subject, ...]:
    """Every stack of the paths; raises UsageError where there is none."""
    files = stack_files(paths)
    if not files:
        raise UsageError(
            f"no stack file in {', '.join(f'`{path}`' for path in paths)}",
            hint="stack files end in `.yaml`; `deployer init` writes one",
        )
    return tuple(map(Subject, files))


def each(
    subjects: Sequence[Subject],
    do: Callable[[Subject], None],
    *,
    as_json: bool,
    annotate: bool = False,
) -> None:
    """Every stack in turn; exits with the worst code once all were looked at."""
    worst = 0
    for subject in subjects:
        try:
            do(subject)
        except ENDS_ALL:
            raise
        except Exception as error:
            known = error_of(error, subject.file)
            if annotate:
                annotate_error(known, subject.file)
            if len(subjects) == 1 and not as_json:
                raise known from error
            worst = worst_of(worst, known.exit_code)
            report(subject.file, known, as_json=as_json)
    if worst:
        raise click.exceptions.Exit(worst)


def report(file: Path, error: DeployerError, *, as_json: bool) -> None:
    """Report what is wrong with one of several stacks."""
    if as_json:
        json_result({"type": "error", "file": str(file), **error_data(error)})
    elif isinstance(error, StackError):
        from deployer.cli.print_error import problem_lines  # noqa: PLC0415 - only on trouble

        for line in problem_lines(error.problems):
            click.echo(line, err=True)
    else:
        secrets = secrets_of(os.environ)  # an error of a library may quote one
        said = without_secrets(f"{file}: error: {error.message}", secrets)
        click.echo(harmless(said), err=True)
        if error.hint:
            click.echo(harmless(f"  hint: {error.hint}"), err=True)


def print_shared(listening: Mapping[Path, str]) -> None:
    """Print a warning for each port that several stacks would listen on, to stderr."""
    by_address: dict[str, list[Path]] = {}
    for file, address in listening.items():
        by_address.setdefault(address, []).append(file)
    for address, files in by_address.items():
        if address and len(files) > 1:
            names = ", ".join(f"`{file}`" for file in files[:3])
            names += f" and {len(files) - 3} more" if len(files) > 3 else ""
            said = f"warning: {names} would listen on {address}, and one of them can"
            click.echo(harmless(said), err=True)
            click.echo("  hint: write another port in all but one", err=True)


def refuse_crowded(stacks: Mapping[Path, Prepared]) -> None:
    """Raise UsageError for a GPU that is too small for the stacks that use it.

    Where that is unknown, as for stacks that spread over several, a note says so.
    """
    for said, hint in crowded({str(file): it.share for file, it in stacks.items()}):
        if hint:
            raise UsageError(said, hint=hint)
        click.echo(harmless(f"note: {said}"), err=True)
