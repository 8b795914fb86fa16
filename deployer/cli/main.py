"""The `deployer` command: commands are imported when they are called."""

import errno
import io
import os
import sys
from collections.abc import Mapping
from importlib import import_module
from typing import NoReturn, cast

import click

from deployer import __version__
from deployer.core.problems import problems_text
from deployer.core.spelling import (
    did_you_mean,
    harmless,
    secrets_of,
    shown,
    without_secrets,
)
from deployer.errors import DeployerError, StackError, UsageError

COMMANDS: Mapping[str, str] = {
    "init": "planning",
    "validate": "planning",
    "lock": "planning",
    "plan": "planning",
    "show": "planning",
    "refresh": "planning",
    "apply": "applying",
    "render": "rendering",
    "status": "releases",
    "history": "releases",
    "report": "reporting",
    "diff": "releases",
    "rollback": "applying",
    "destroy": "applying",
    "check": "checking",
    "start": "serving",
    "stop": "serving",
    "restore": "serving",
    "logs": "serving",
    "connect": "connecting",
    "chat": "chatting",
    "metrics": "watching",
    "watch": "watching",
    "monitor": "watching",
    "build": "building",
    "fetch": "artefacts",
    "store": "artefacts",
    "state": "states",
    "gguf": "fitting",
    "fit": "fitting",
    "flags": "flags",
    "traps": "traps",
    "doctor": "doctor",
    "upgrade": "upgrading",
    "patches": "building",
    "schema": "tools",
    "completion": "tools",
    "version": "tools",
}
"""Every command, and the module of `deployer.cli` that holds it."""

INTERNAL_ERROR = 70

_ADVICE: Mapping[int | None, str] = {
    errno.ENOSPC: "free some space; `DEPLOYER_HOME` moves the store to another disk",
    errno.EDQUOT: "free some space; `DEPLOYER_HOME` moves the store to another disk",
    errno.EFBIG: "raise the limit of the file size: `ulimit -f`",
    errno.EACCES: "look at its owner and mode; run `deployer` as one user",
    errno.EPERM: "look at its owner and mode; run `deployer` as one user",
    errno.EROFS: "`DEPLOYER_HOME` moves the store to another disk",
    errno.EMFILE: "raise the limit of open files: `ulimit -n`",
}
"""What to do where the system refuses a file."""


class _Lazy(click.Group):
    """A group that imports a command only to run it or to show its help."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order in which they are usually needed."""
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of this name; raises UsageError where there is none."""
        if (module := COMMANDS.get(cmd_name)) is None:
            if ctx.resilient_parsing:  # a shell asks for completions
                return None
            raise UsageError(
                f"there is no command `{shown(cmd_name)}`",
                hint=did_you_mean(cmd_name, COMMANDS)
                or "`deployer --help` lists the commands",
            )
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
    _print_anywhere()
    try:
        code = main(prog_name="deployer", standalone_mode=False)
    except click.exceptions.Exit as stop:
        code = stop.exit_code
    except click.Abort:
        click.echo("cancelled", err=True)
        code = 8
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        code = UsageError.exit_code
    except click.ClickException as error:
        code = _say(_usage_error(error))
    except DeployerError as error:
        code = _say(error, debug=debug)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except OSError as error:
        code = _say(_refused(error), debug=debug)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is told
        code = _say_internal(error, debug=debug)
    sys.exit(code if isinstance(code, int) else 0)


def _print_anywhere() -> None:
    """Print signs that the terminal's encoding does not have as question marks."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def _usage_error(error: click.ClickException) -> UsageError:
    """What click says, as we say it."""
    context = error.ctx if isinstance(error, click.UsageError) else None
    command = "deployer" if context is None else context.command_path
    message = error.format_message().removeprefix("Invalid value for ")
    message = message.rstrip(".").replace("'", "`")
    return UsageError(
        f"{message[:1].lower()}{message[1:]}",
        hint=f"`{command} --help` shows how to call it",
    )


def _refused(error: OSError) -> DeployerError:
    """The system refused a file; which one, and why."""
    place = f"`{error.filename}`: " if error.filename else ""
    return DeployerError(
        f"{place}{error.strerror or error}", hint=_ADVICE.get(error.errno, "")
    )


def _say(error: DeployerError, *, debug: bool = False) -> int:
    if debug:
        _tell_trace()
    if isinstance(error, StackError):
        _tell(problems_text(error.problems).rstrip("\n"))
        return error.exit_code
    _tell(f"error: {error.message}")
    if error.hint:
        _tell(f"  hint: {error.hint}")
    return error.exit_code


def _say_internal(error: Exception, *, debug: bool) -> int:
    """A defect of ours: say so without a traceback, and how to get one."""
    if debug:
        _tell_trace()
    _tell(f"error: internal error ({type(error).__name__}: {error})")
    _tell("  hint: run again with `deployer --debug …` and report it")
    return INTERNAL_ERROR


def _tell_trace() -> None:
    """The traceback of the error at hand."""
    import traceback  # noqa: PLC0415 - only on trouble

    _tell(traceback.format_exc().rstrip("\n"))


def _tell(text: str) -> None:
    """Say what went wrong, without the secrets of the environment."""
    click.echo(harmless(without_secrets(text, secrets_of(os.environ))), err=True)
