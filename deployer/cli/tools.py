"""schema, completion, version: small tools."""

import click

from deployer import version_line
from deployer.errors import UsageError


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
    click.echo(version_line())
