"""Output to the terminal: text for people, JSON for programs."""

import json
import os
import sys
from collections.abc import Mapping

import click

from deployer.diagnostics import diagnostic_data
from deployer.errors import (
    CancelledError,
    DeployerError,
    StackError,
    UsageError,
    error_of,
)
from deployer.spelling import json_harmless, secrets_of, without_secrets
from deployer.stack.fields.values import JsonValue

_RESULTS = "deployer.results"


def begin_json(context: click.Context) -> None:
    """Let the results of this command be one JSON object, printed at its end."""
    context.meta.setdefault(_RESULTS, [])


def json_result(value: Mapping[str, JsonValue]) -> None:
    """Add a result to the JSON object of this command."""
    click.get_current_context().meta[_RESULTS].append(value)


def end_json(context: click.Context, error: BaseException | None) -> None:
    """Print the JSON object of this command, where one was begun."""
    results = context.meta.pop(_RESULTS, None)
    if results is None:
        return
    from deployer.show.data import FORMAT  # noqa: PLC0415 - not for people

    if isinstance(error, DeployerError):
        results.append({"type": "error", **error_data(error)})
    code = exit_code_of(error)
    json_line({"format": FORMAT, "results": results, "exit_code": code})


def error_data(error: DeployerError) -> Mapping[str, JsonValue]:
    """An error as JSON, without the secrets of the environment."""
    problems = error.problems if isinstance(error, StackError) else ()
    secrets = secrets_of(os.environ)  # an error of a library may quote one
    return {
        "message": without_secrets(error.message, secrets),
        "hint": without_secrets(error.hint, secrets),
        "exit_code": error.exit_code,
        "problems": [*map(diagnostic_data, problems)],
    }


def exit_code_of(error: BaseException | None) -> int:
    """Return the exit code of a command that ended so."""
    match error:
        case None:
            return 0
        case click.exceptions.Exit() | click.ClickException():
            return error.exit_code
        case click.Abort() | KeyboardInterrupt():
            return CancelledError.exit_code
        case _:
            return error_of(error).exit_code


def json_line(value: Mapping[str, JsonValue]) -> None:
    """One JSON value on one line of stdout."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    click.echo(json_harmless(text))


def json_head() -> None:
    """The first line of a stream: the version of its form."""
    from deployer.show.data import FORMAT  # noqa: PLC0415 - not for people

    json_line({"type": "version", "format": FORMAT})


def end(text: str, /, *, as_json: bool, kind: str, **data: JsonValue) -> None:
    """Print the result of a short command: a sentence, or JSON for programs."""
    if not as_json:
        click.echo(text)
        return
    json_result({"type": kind, **data})


def width() -> int:
    """Columns to fill."""
    import shutil  # noqa: PLC0415 - few commands fill them

    return shutil.get_terminal_size((100, 24)).columns


def wrapped(head: str, text: str) -> list[str]:
    """The text behind its head, in the columns that there are; words stay whole."""
    from textwrap import wrap  # noqa: PLC0415 - few commands print prose

    return wrap(
        text,
        width=max(60, width()),
        initial_indent=head,
        subsequent_indent=" " * len(head),
        break_long_words=False,
        break_on_hyphens=False,
    ) or [head]


def is_asked(level: str) -> bool:
    """Return whether `--quiet` or `--verbose` was given, by its long name."""
    context = click.get_current_context(silent=True)
    return context is not None and bool(context.meta.get(f"deployer.{level}"))


_UNITS = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))


def when(stamp: str) -> str:
    """A time as people read it, from one as the state keeps it: UTC, ISO 8601."""
    from datetime import UTC, datetime  # noqa: PLC0415 - few commands show times

    text = stamp.replace("T", " ").replace("+00:00", " UTC")
    try:
        passed = (datetime.now(tz=UTC) - datetime.fromisoformat(stamp)).total_seconds()
    except (ValueError, TypeError):  # a record may say anything
        return text
    found = ((passed // size, unit) for size, unit in _UNITS if passed >= size)
    count, unit = next(found, (0, "s"))
    return f"{text} ({count:.0f} {unit} ago)" if passed >= 0 else text


def refuse_without_terminal(hint: str) -> None:
    """Raise UsageError where no question can be asked."""
    for name in ("stdin", "stdout"):
        if not getattr(sys, name).isatty():
            raise UsageError(f"{name} is not a terminal", hint=hint)
