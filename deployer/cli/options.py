"""Arguments and options that several commands share."""

from pathlib import Path

import click

stack_argument = click.argument(
    "stack", type=click.Path(path_type=Path), metavar="STACK"
)
engine_option = click.option(
    "--engine", metavar="NAME", help="Use this engine instead of the stack's own."
)
locked_option = click.option(
    "--locked", is_flag=True, help="Refuse to change or outdate the lock file."
)
yes_option = click.option("--yes", "-y", is_flag=True, help="Do not ask.")
json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print JSON lines for programs."
)
