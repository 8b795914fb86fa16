"""Problems as annotations of GitHub Actions: shown at their line of a pull request."""

from pathlib import Path

import click

from deployer.errors import DeployerError, StackError

SHOWN = 10
"""Errors of one step that GitHub shows; it drops the others and does not say so."""
_TOLD = "deployer.annotations"


def annotate_error(error: DeployerError, file: Path) -> None:
    """Tell every problem of an error, on stderr, which the runner reads as well.

    The last one that GitHub would show says that there may be more.
    """
    if not isinstance(error, StackError):
        _tell(_annotation(str(file), error.message, error.hint))
        return
    for problem in error.problems:
        place = problem.place
        at = f",line={place.line},col={place.column}"
        _tell(_annotation(place.file, problem.what, problem.hint, at))


def _tell(text: str) -> None:
    """One annotation of this command, as long as GitHub shows them."""
    known = click.get_current_context().meta
    told = known[_TOLD] = known.get(_TOLD, 0) + 1
    if told == SHOWN:
        text = "::error title=deployer::GitHub shows no more here: the log has all"
        text += " problems"
    if told <= SHOWN:
        click.echo(text, err=True)


def _annotation(file: str, what: str, hint: str, at: str = "") -> str:
    message = f"{what}\nhint: {hint}" if hint else what
    return f"::error file={_property(file)}{at},title=deployer::{_message(message)}"


def _message(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _message(text).replace(":", "%3A").replace(",", "%2C")
