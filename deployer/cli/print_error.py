"""What goes wrong, told to a person on stderr; imported only where something does."""

import os
import sys

import click

from deployer.diagnostics import diagnostics_text
from deployer.errors import (
    CancelledError,
    DeployerError,
    StackError,
    UsageError,
    error_of,
)
from deployer.spelling import harmless, secrets_of, without_secrets


def tell(error: BaseException, *, debug: bool) -> int:
    """Say what went wrong; returns the exit code that `deployer.errors` lists."""
    if isinstance(error.__cause__, KeyboardInterrupt):
        # Python 3.11 wraps what comes while a class names its attributes.
        error = error.__cause__
    match error:
        case click.Abort() | KeyboardInterrupt():
            click.echo("cancelled", err=True)
            return CancelledError.exit_code
        case click.exceptions.NoArgsIsHelpError():
            error.show()
            return UsageError.exit_code
        case click.ClickException():
            return _say(_usage_error(error))
        case BrokenPipeError():
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
        case _:
            return _say(error_of(error), debug=debug)


def _usage_error(error: click.ClickException) -> UsageError:
    """Return what click says, as we say it."""
    context = error.ctx if isinstance(error, click.UsageError) else None
    command = "deployer" if context is None else context.command_path
    message = error.format_message().removeprefix("Invalid value for ")
    message = message.rstrip(".").replace("'", "`")
    return UsageError(
        f"{message[:1].lower()}{message[1:]}",
        hint=f"`{command} --help` shows how to call it",
    )


def _say(error: DeployerError, *, debug: bool = False) -> int:
    if debug:
        tell_trace()
    if isinstance(error, StackError):
        _tell(diagnostics_text(error.problems).rstrip("\n"))
        return error.exit_code
    _tell(f"error: {error.message}")
    if error.hint:
        _tell(f"  hint: {error.hint}")
    return error.exit_code


def tell_trace() -> None:
    """The traceback of the error at hand."""
    import traceback  # noqa: PLC0415 - only on trouble

    _tell(traceback.format_exc().rstrip("\n"))


def _tell(text: str) -> None:
    """Say what went wrong, without the secrets of the environment.

    An error of a library may quote what it was given.
    """
    click.echo(harmless(without_secrets(text, secrets_of(os.environ))), err=True)
