"""state, schema, completion, version: small tools."""

import sys
from pathlib import Path

import click

from deployer import __version__
from deployer.app.deployed import name_of
from deployer.app.settings import STATE_FOLDER, settings_of
from deployer.cli.options import json_option, stack_argument
from deployer.cli.output import json_head, json_line
from deployer.errors import UsageError
from deployer.state.files import list_stacks
from deployer.state.form import to_json


@click.group("state")
def state_command() -> None:
    """What was deployed, as it is recorded.

    \b
    Example:
      deployer state list stacks
    """


@state_command.command("list")
@click.argument(
    "folder",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    default=Path("stacks"),
)
@json_option
def state_list(folder: Path, *, as_json: bool) -> None:
    """List the stacks of a folder that have a state.

    \b
    Example:
      deployer state list stacks
    """
    names = list_stacks(folder / STATE_FOLDER)
    if as_json:
        json_head()
    for name in names:
        if as_json:
            json_line({"type": "state", "stack": name})
        else:
            click.echo(name)
    if not names and not as_json:
        click.echo(f"no stack of `{folder}` has a state", err=True)


@state_command.command("show")
@stack_argument
def state_show(stack: Path) -> None:
    """Print the state of a stack as JSON.

    \b
    Example:
      deployer state show stacks/demo.yaml
    """
    settings = settings_of()
    name = name_of(stack, settings)
    found = settings.states(stack, name).read()
    if found is None:
        raise UsageError(
            f"stack `{name}` has no state here", hint=f"run `deployer apply {stack}`"
        )
    click.echo(to_json(found), nl=False)


@state_command.command("unlock")
@stack_argument
@click.argument("lock_id")
def state_unlock(stack: Path, lock_id: str) -> None:
    """Break the lock LOCK_ID that a run on another machine left.

    \b
    Example:
      deployer state unlock stacks/demo.yaml 3f9a1c
    """
    settings = settings_of()
    holder = settings.states(stack, name_of(stack, settings)).unlock(lock_id)
    click.echo(f"unlocked; it was held by {holder}")


@click.command("schema", short_help="Print a JSON schema: of stacks, or of events.")
@click.argument("of", type=click.Choice(["stack", "events"]), default="stack")
def schema_command(of: str) -> None:
    """Print a JSON schema: of stack files, for editors, or of `apply --json`.

    \b
    Example:
      deployer schema > schema/stack.schema.json
      deployer schema events
    """
    from deployer.core import lines, schema  # noqa: PLC0415 - imports the model

    text = schema.schema_text() if of == "stack" else lines.schema_text()
    click.echo(text, nl=False)


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion_command(shell: str) -> None:
    """Print the completion script of a shell.

    \b
    Example:
      deployer completion bash >> ~/.bashrc
    """
    from click.shell_completion import get_completion_class  # noqa: PLC0415 - rare

    from deployer.cli.main import main  # noqa: PLC0415 - main imports this module

    found = get_completion_class(shell)
    if found is None:
        raise UsageError(f"no completion for `{shell}`")
    script = found(main, {}, "deployer", "_DEPLOYER_COMPLETE")
    click.echo(script.source())


@click.command("version")
def version_command() -> None:
    """Print the version of deployer and of Python.

    \b
    Example:
      deployer version
    """
    click.echo(f"deployer {__version__} (Python {sys.version.split()[0]})")
