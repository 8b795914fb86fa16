"""apply, rollback, destroy: the commands that change something."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import click

from deployer.app.applying import Applied, Confirm, apply_stack, destroy, rollback
from deployer.app.planning import Options, Planned
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
from deployer.core.verdict import Verdict
from deployer.engines import Endpoint
from deployer.errors import CancelledError, GateError, UsageError


@click.command("apply")
@stack_argument
@engine_option
@locked_option
@yes_option
def apply_command(stack: Path, engine: str | None, *, locked: bool, yes: bool) -> None:
    """Carry out the plan: make, prove with gates, promote.

    The steps are shown before you are asked.  Ctrl-C once ends the run cleanly,
    twice at once; running `apply` again carries on.

    \b
    Example:
      deployer apply stacks/demo.yaml --yes
    """
    settings = settings_of()
    options = Options(engine=engine, locked=locked, refresh=True)
    with Show(f"deployer apply {stack}") as show, _evidence(show):
        done = apply_stack(stack, settings, options, show, _asker(show, yes=yes))
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
@yes_option
def destroy_command(stack: Path, *, yes: bool) -> None:
    """Stop and remove what runs; builds and weights stay in the store.

    \b
    Example:
      deployer destroy stacks/demo.yaml
    """
    settings = settings_of()

    def confirm(planned: Planned) -> bool:
        name = planned.plan.stack
        show.pause()
        click.echo(plan_text(planned.plan, planned.places, steps=True))
        click.echo("Builds and weights stay in the store.\n")
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
        done = destroy(stack, settings, show, confirm)
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

    click.echo(f"\n{table(verdicts, width=width())}")


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
