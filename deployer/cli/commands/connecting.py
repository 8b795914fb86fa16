"""connect: what to write into a client."""

from pathlib import Path

import click

from deployer.cli.options import stack_argument
from deployer.show.client_configs import CLIENTS
from deployer.usecases.context.settings import settings_of


@click.command("connect")
@stack_argument
@click.option(
    "--client",
    type=click.Choice([*CLIENTS]),
    default="curl",
    show_default=True,
    help="For which client.",
)
def connect_command(stack: Path, client: str) -> None:
    """Print the configuration of a client for the live endpoint.

    The key stands in it as the name of its variable, never itself.

    \b
    Example:
      deployer connect stacks/prod.yaml --client codex
    """
    from deployer.usecases.connect import live_of  # noqa: PLC0415 - only here

    click.echo(CLIENTS[client](live_of(stack, settings_of())), nl=False)
