"""Problems as annotations of GitHub Actions: shown at their line of a pull request."""

from pathlib import Path

import click

from deployer.errors import DeployerError, StackError


def annotate_error(error: DeployerError, file: Path) -> None:
    """Tell every problem of an error, on stderr, which the runner reads as well."""
    if not isinstance(error, StackError):
        click.echo(_annotation(str(file), error.message, error.hint), err=True)
        return
    for problem in error.problems:
        place = problem.place
        at = f",line={place.line},col={place.column}"
        text = _annotation(place.file, problem.what, problem.hint, at)
        click.echo(text, err=True)


def _annotation(file: str, what: str, hint: str, at: str = "") -> str:
    message = f"{what}\nhint: {hint}" if hint else what
    return f"::error file={_property(file)}{at},title=deployer::{_message(message)}"


def _message(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _message(text).replace(":", "%3A").replace(",", "%2C")
