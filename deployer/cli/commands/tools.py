"""schema, lsp, completion: for editors and shells."""

import click

from deployer import install_command
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
    from deployer.show.data import schema_text  # noqa: PLC0415 - imports the model
    from deployer.stack.fields.reference import published_schema  # noqa: PLC0415 - as above

    text = published_schema() if of == "stack" else schema_text()
    click.echo(text, nl=False)


@click.command("lsp", short_help="Answer an editor, by the Language Server Protocol.")
def lsp_command() -> None:
    """Answer an editor on stdin and stdout: problems, hover and completion of stacks.

    It speaks the Language Server Protocol and ends when the editor does.  Needs
    the extra `editor`.

    \b
    Example:
      deployer lsp
    """
    try:
        from deployer.cli.language_server import serve  # noqa: PLC0415 - slow, and only here
    except ModuleNotFoundError as error:
        raise UsageError(
            f"the package `{error.name}` is not installed",
            hint=f"run `{install_command('editor')}`",
        ) from None
    serve()


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion_command(shell: str) -> None:
    """Print the completion script of a shell.

    \b
    Example:
      deployer completion bash >> ~/.bashrc
    """
    from click.shell_completion import (  # noqa: PLC0415 - rare
        ShellComplete,
        get_completion_class,
    )

    from deployer.cli.main import main  # noqa: PLC0415 - main imports this module

    found = get_completion_class(shell)
    if found is None:
        raise UsageError(f"no completion for `{shell}`")
    script = found(main, {}, "deployer", "_DEPLOYER_COMPLETE")
    # Not its own `source`: that of bash looks for a `bash` on PATH, and starts it.
    click.echo(ShellComplete.source(script))
