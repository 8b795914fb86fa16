"""apply, rollback, destroy: the commands that change something."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import click

from deployer import saved_plan
from deployer.app.applying import Applied, Confirm, apply_stack, destroy, rollback
from deployer.app.planning import Options, Pending, Planned
from deployer.app.saving import stack_of
from deployer.app.settings import settings_of
from deployer.cli.options import (
    engine_option,
    locked_option,
    stack_argument,
    yes_option,
)
from deployer.cli.output import is_terminal, width
from deployer.cli.show import Show
from deployer.core.render.text import plan_text
from deployer.core.spelling import harmless
from deployer.core.verdict import Verdict
from deployer.engines import Endpoint
from deployer.errors import CancelledError, GateError, UsageError


@click.command("apply")
@stack_argument
@click.argument("plan_file", type=click.Path(path_type=Path), required=False)
@engine_option
@locked_option
@click.option(
    "--refresh",
    is_flag=True,
    help="Look at what runs first, where that takes requests.",
)
@click.option(
    "--pending",
    type=click.Choice([it.value for it in Pending]),
    default=Pending.ADOPT.value,
    show_default=True,
    help="What to do about a run that did not end: settle it and go on, settle it"
    " alone, or refuse.",
)
@yes_option
def apply_command(
    stack: Path,
    plan_file: Path | None,
    engine: str | None,
    pending: str,
    *,
    locked: bool,
    refresh: bool,
    yes: bool,
) -> None:
    """Carry out the plan: make, prove with gates, promote.

    The steps are shown before you are asked.  Ctrl-C once ends the run cleanly,
    twice at once; running `apply` again carries on.

    A file of `plan --out` may follow the stack, or stand alone: then that plan is
    carried out, or less, without a question; exit 7 where anything moved since.

    \b
    Example:
      deployer apply stacks/demo.yaml --yes
      deployer apply demo.plan
    """
    settings = settings_of()
    if plan_file is None and saved_plan.is_plan_file(stack):
        stack, plan_file = Path(), stack
    saved = None if plan_file is None else saved_plan.read(plan_file)
    if saved is not None:
        stack = stack_of(saved) if stack == Path() else stack
        engine, yes = engine or saved.bound.engine or None, True
    options = Options(
        engine,
        locked=locked,
        refresh=True,
        cheaply=not refresh,
        pending=Pending(pending),
    )
    asker = _asker(show := Show(f"deployer apply {stack}"), yes=yes)
    with show, _evidence(show):
        done = apply_stack(stack, settings, options, show, asker, saved=saved)
    _finish(done)


@click.command("rollback")
@stack_argument
@click.argument("release", type=int, required=False)
@yes_option
def rollback_command(stack: Path, release: int | None, *, yes: bool) -> None:
    """Promote an earlier release again, after its gates pass.

    Without a number: the one before the live release.  Nothing is rebuilt.

    \b
    Example:
      deployer rollback stacks/prod.yaml 3
    """
    settings = settings_of()
    command = f"deployer rollback {stack} {release or ''}".rstrip()
    with Show(command) as show, _evidence(show):
        done = rollback(stack, settings, release, show, _asker(show, yes=yes))
    _finish(done)


@click.command("destroy", short_help="Stop and remove what runs.")
@stack_argument
@click.option(
    "--artefacts",
    is_flag=True,
    help="Remove builds and weights too that no other stack needs.",
)
@yes_option
def destroy_command(stack: Path, *, artefacts: bool, yes: bool) -> None:
    """Stop and remove what runs, and its snapshots; builds and weights stay.

    \b
    Example:
      deployer destroy stacks/demo.yaml
    """
    settings = settings_of()

    def confirm(planned: Planned) -> bool:
        name = planned.plan.stack
        show.pause()
        click.echo(plan_text(planned.plan, planned.places, steps=True))
        click.echo(
            "Snapshots are removed, and builds and weights that no other stack needs.\n"
            if artefacts
            else "Builds and weights stay in the store, snapshots are removed.\n"
        )
        if yes:
            return True
        _refuse_without_terminal()
        answer = click.prompt(
            f"Type the stack's name ({name}) to destroy it",
            default="",
            show_default=False,
        )
        return bool(answer == name)

    with Show(f"deployer destroy {stack}") as show:
        done = destroy(stack, settings, show, confirm, artefacts=artefacts)
    if done is None:
        raise CancelledError("nothing was destroyed")
    click.echo(f"Destroyed: nothing of `{done.state.stack}` runs any more.")


def _asker(show: Show, *, yes: bool) -> Confirm:
    """Shows the plan with its steps, and asks."""

    def confirm(planned: Planned) -> bool:
        show.pause()
        text = plan_text(planned.plan, planned.places, steps=True, fit=planned.fit)
        click.echo(text)
        for note in planned.notes:
            click.echo(f"note: {note}")
        if yes:
            return True
        _refuse_without_terminal()
        return click.confirm("Apply these steps?", default=False)

    return confirm


@contextmanager
def _evidence(show: Show) -> Iterator[None]:
    """Print what the gates saw where they held a candidate back."""
    try:
        yield
    except GateError:
        _table(show.verdicts)
        raise


def _table(verdicts: Sequence[Verdict]) -> None:
    from deployer.gates.report import table  # noqa: PLC0415 - only with gates

    click.echo(harmless(f"\n{table(verdicts, width=width())}"))


def _refuse_without_terminal() -> None:
    if not is_terminal():
        raise UsageError(
            "nobody can be asked here: this is not a terminal",
            hint="add `--yes` once the plan above is what you want",
        )


def _finish(done: Applied | None) -> None:
    if done is None:
        raise CancelledError("nothing was applied")
    if done.planned.plan.is_empty:
        click.echo(plan_text(done.planned.plan, done.planned.places), nl=False)
        if done.endpoint is not None:
            click.echo(f"Live at {done.endpoint.url}")
        return
    if done.verdicts:
        _table(done.verdicts)
    if done.report is not None:
        click.echo(f"Report: {done.report}")
    if done.endpoint is not None:
        click.echo(f"\nRelease {done.state.released} is live at {done.endpoint.url}")
        click.echo(f"\n  {curl_line(done.endpoint)}\n")


def curl_line(endpoint: Endpoint) -> str:
    """A request to try, with the key by its variable's name."""
    key = (
        f' -H "Authorization: Bearer ${endpoint.api_key_env}"'
        if endpoint.api_key_env
        else ""
    )
    body = '{"messages":[{"role":"user","content":"Hello"}],"max_tokens":32}'
    return (
        f"curl {endpoint.url}/v1/chat/completions{key}"
        f" -H 'Content-Type: application/json' -d '{body}'"
    )
