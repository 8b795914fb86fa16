"""Errors, printed for a person on stderr; imported only where there is one."""

import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path

import click

from deployer.diagnostics import Diagnostic, span
from deployer.errors import (
    CancelledError,
    DeployerError,
    StackError,
    UsageError,
    error_of,
)
from deployer.spelling import harmless, is_secret_name, secrets_of, without_secrets
from deployer.stack.fields.marks import looks_like_a_credential
from deployer.system.files import read_regular


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
        _tell("\n".join(problem_lines(error.problems)))
        return error.exit_code
    _tell(f"error: {error.message}")
    if error.hint:
        _tell(f"  hint: {error.hint}")
    return error.exit_code


def problem_lines(problems: Iterable[Diagnostic]) -> Iterator[str]:
    """Yield each problem with its line of the file, and what to write instead."""
    read = cache(_lines_of)
    for it in problems:
        yield harmless(str(it))
        yield from _excerpt(it, read(it.place.file))
        if it.hint:
            yield harmless(f"  hint: {it.hint}")


def _lines_of(file: str) -> tuple[str, ...]:
    """Return the lines of a file that a problem is in; none where it cannot be read."""
    try:
        return tuple(read_regular(Path(file)).decode("utf-8").split("\n"))
    except (OSError, UnicodeDecodeError, DeployerError):
        return ()


_SPOKEN_OF = re.compile(r"auth|key|token|secret|passw|credential", re.IGNORECASE)
"""On a line that cannot be parsed, a value after such a word may be one."""
_LONGEST = 160
"""Characters; a longer line says little beside its message."""


def _excerpt(it: Diagnostic, lines: Sequence[str]) -> Iterator[str]:
    """Yield the line of a problem, carets under what is wrong, and the field.

    Nothing where the line may hold a secret.
    """
    place = it.place
    line = lines[place.line - 1].rstrip("\r") if place.line <= len(lines) else ""
    at = place.column - 1
    if (
        line.lstrip()[:1] in ("", "#")
        or len(line) > _LONGEST
        or at >= len(line)
        or "\t" in line
    ):
        return
    if it.path.partition(".")[0] == "auth" or _may_hold_secret(it, line):
        return
    start, end = span(it, line)
    number, path = str(place.line), f" {it.path}" if it.path else ""
    carets = " " * start + "^" * (end - start)
    yield f"  {'':>{len(number)}} |"
    yield harmless(f"  {number} | {line}")
    yield harmless(f"  {'':>{len(number)}} | {carets}{path}")


def _may_hold_secret(it: Diagnostic, line: str) -> bool:
    if not it.path and _SPOKEN_OF.search(line):
        return True
    words = re.split(r"[\s,:{}\[\]\"'=]+", line)
    keyed = re.findall(r"([\w-]+)[\"']?\s*:\s*[\"']?([^\s,{}\[\]\"']+)", line)
    return any(looks_like_a_credential(word) for word in words if word) or any(
        is_secret_name(key) and not _PLAIN.fullmatch(value) for key, value in keyed
    )


_PLAIN = re.compile(r"true|false|on|off|auto|null|~|-?[0-9.]+", re.IGNORECASE)
"""Values that are no secret, whatever the name of their key."""


def tell_trace() -> None:
    """The traceback of the error at hand."""
    import traceback  # noqa: PLC0415 - only on trouble

    _tell(traceback.format_exc().rstrip("\n"))


def _tell(text: str) -> None:
    """Say what went wrong, without the secrets of the environment.

    An error of a library may quote what it was given.
    """
    click.echo(harmless(without_secrets(text, secrets_of(os.environ))), err=True)
