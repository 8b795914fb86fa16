"""schema, completion, version: small tools."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from deployer import __version__, install_command, version_line
from deployer.cli.options import json_option
from deployer.cli.output import json_head, json_line, wrapped
from deployer.diagnostics import Diagnostic, Severity
from deployer.errors import DeployerError, UsageError
from deployer.spelling import harmless
from deployer.stack.fields.values import JsonValue

if TYPE_CHECKING:
    from deployer.usecases.upgrade import Looked


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


@click.command("version", short_help="Print the version; --check looks for newer.")
@click.argument("paths", type=click.Path(path_type=Path), nargs=-1, metavar="[PATH]…")
@click.option(
    "--check",
    is_flag=True,
    help="Ask the package index for a newer one; look at dependencies and forms.",
)
@json_option
def version_command(paths: tuple[Path, ...], *, check: bool, as_json: bool) -> None:
    """Print the version of deployer and of Python.

    With --check, ask the package index as pip is configured, check that installed
    dependencies are within their bounds, and that this version reads the states and
    lock files of the stacks at PATH (default: the folder `stacks`).  Exit 1 where
    something is wrong or unknown; a newer version alone is reported and is no fault.
    Without --check nothing is sent over the network.

    \b
    Example:
      deployer version --check
    """
    python = sys.version.split()[0]
    if not as_json:
        click.echo(version_line())
    looked = _look(paths) if check else None
    if as_json:
        json_head()
        json_line(_version_data(python, looked))
    elif looked is not None:
        _tell(looked)
    if looked is not None and not all(map(_is_fine, looked.findings)):
        raise click.exceptions.Exit(DeployerError.exit_code)


def _is_fine(finding: Diagnostic) -> bool:
    return finding.severity is Severity.FINE


def _look(paths: tuple[Path, ...]) -> "Looked":
    from deployer.usecases.context.settings import settings_of  # noqa: PLC0415 - only with --check
    from deployer.usecases.upgrade import look  # noqa: PLC0415 - as above

    stacks = Path("stacks")
    return look(paths or ((stacks,) if stacks.is_dir() else ()), settings_of())


def _tell(looked: "Looked") -> None:
    for finding in looked.findings:
        newer = finding.path == "newest" and looked.newer
        sign = "✖" if not _is_fine(finding) else "↑" if newer else "✔"
        for line in wrapped(f"  {sign} {finding.path:<13} ", finding.what):
            click.echo(harmless(line))
        if finding.hint:
            click.echo(harmless(f"    hint: {finding.hint}"))


def _version_data(python: str, looked: "Looked | None") -> dict[str, JsonValue]:
    found: dict[str, JsonValue] = {
        "type": "deployer",
        "version": __version__,
        "python": python,
    }
    if looked is not None:
        found["newest"] = looked.newest
        found["newer"] = looked.newer
        found["findings"] = [
            {
                "about": it.path,
                "text": it.what,
                "hint": it.hint,
                "fine": _is_fine(it),
            }
            for it in looked.findings
        ]
    return found
