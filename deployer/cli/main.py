"""The `deployer` command: commands are imported when they are called."""

import os
import sys
from collections.abc import Mapping
from importlib import import_module
from typing import NoReturn, cast

import click

from deployer import __version__
from deployer.core.problems import problems_text
from deployer.errors import DeployerError, StackError

COMMANDS: Mapping[str, str] = {
    "init": "planning",
    "validate": "planning",
    "lock": "planning",
    "plan": "planning",
    "apply": "applying",
    "status": "releases",
    "history": "releases",
    "diff": "releases",
    "rollback": "applying",
    "destroy": "applying",
    "check": "serving",
    "start": "serving",
    "stop": "serving",
    "logs": "serving",
    "fetch": "artefacts",
    "store": "artefacts",
    "state": "tools",
    "schema": "tools",
    "completion": "tools",
    "version": "tools",
}
"""Every command, and the module of `deployer.cli` that holds it."""

INTERNAL_ERROR = 70


class _Lazy(click.Group):
    """A group that imports a command only to run it or to show its help."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order in which they are usually needed."""
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of this name."""
        del ctx
        if (module := COMMANDS.get(cmd_name)) is None:
            return None
        name = cmd_name.replace("-", "_")
        return cast(
            "click.Command",
            getattr(import_module(f"deployer.cli.{module}"), f"{name}_command"),
        )


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="deployer")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.pass_context
def main(ctx: click.Context, *, debug: bool) -> None:
    """Plan and apply for llama.cpp servers.

    A stack file says how a model is served; `plan` says what would change and why,
    `apply` does it, proves it with gates and promotes it.

    \b
    Example:
      deployer plan stacks/demo.yaml
      deployer apply stacks/demo.yaml
    """
    ctx.obj = debug


def run() -> NoReturn:
    """Run the command line and exit with the code that `deployer.errors` lists."""
    debug = "--debug" in sys.argv or bool(os.environ.get("DEPLOYER_DEBUG"))
    try:
        code = main(standalone_mode=False)
    except click.exceptions.Exit as stop:
        code = stop.exit_code
    except click.Abort:
        click.echo("cancelled", err=True)
        code = 8
    except click.ClickException as error:
        error.show()
        code = 3
    except DeployerError as error:
        if debug:
            raise
        code = _say(error)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except Exception as error:
        if debug:
            raise
        code = _say_internal(error)
    sys.exit(code if isinstance(code, int) else 0)


def _say(error: DeployerError) -> int:
    if isinstance(error, StackError):
        click.echo(problems_text(error.problems), err=True, nl=False)
        return error.exit_code
    click.echo(f"error: {error.message}", err=True)
    if error.hint:
        click.echo(f"  hint: {error.hint}", err=True)
    return error.exit_code


def _say_internal(error: Exception) -> int:
    """A defect of ours: say so without a traceback, and how to get one."""
    click.echo(f"error: internal error ({type(error).__name__}: {error})", err=True)
    click.echo("  hint: run again with `deployer --debug …` and report it", err=True)
    return INTERNAL_ERROR
