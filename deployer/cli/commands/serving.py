"""start, stop, restore, logs: day to day."""

from pathlib import Path

import click

from deployer.cli.options import stack_argument
from deployer.cli.progress_display import Show
from deployer.spelling import harmless
from deployer.stack.fields.units import show_seconds
from deployer.usecases.context.settings import settings_of
from deployer.usecases.lifecycle import logs, restore, start, stop


@click.command("start")
@stack_argument
def start_command(stack: Path) -> None:
    """Start the live release where it does not run.

    \b
    Example:
      deployer start stacks/demo.yaml
    """
    with Show(f"deployer start {stack}") as show:
        endpoint = start(stack, settings_of(), show)
    click.echo(f"running at {endpoint.url}")


@click.command("restore", short_help="Bring the server back from its snapshot.")
@stack_argument
def restore_command(stack: Path) -> None:
    """Bring the live server back from its snapshot, now.

    It finishes what it answers, ends, and is restored; nothing answers in between.
    Where the snapshot cannot be used, what runs is left alone.

    \b
    Example:
      deployer restore stacks/demo.yaml
    """
    with Show(f"deployer restore {stack}") as show:
        found = restore(stack, settings_of(), show)
    took = show_seconds(found.seconds)
    if not found.really:
        click.echo(f"running again after {took}, and not restored: {found.detail}")
        return
    click.echo(f"restored in {took}")


@click.command("stop", short_help="Stop the server; `start` brings it back.")
@stack_argument
def stop_command(stack: Path) -> None:
    """Stop the server; the release stays, and `start` brings it back.

    \b
    Example:
      deployer stop stacks/demo.yaml
    """
    with Show(f"deployer stop {stack}") as show:
        found = stop(stack, settings_of(), show)
    click.echo(f"stopped; `deployer start {found.file}` brings it back")


@click.command("logs")
@stack_argument
@click.option("-f", "--follow", is_flag=True, help="Keep printing what comes.")
@click.option(
    "-n",
    "--lines",
    type=click.IntRange(min=0),
    default=50,
    show_default=True,
    help="Last lines to show.",
)
def logs_command(stack: Path, lines: int, *, follow: bool) -> None:
    """Print the log of the live server.

    \b
    Example:
      deployer logs stacks/demo.yaml -f
    """
    try:
        for line in logs(stack, settings_of(), lines=lines, follow=follow):
            click.echo(harmless(line))
    except KeyboardInterrupt:
        return
