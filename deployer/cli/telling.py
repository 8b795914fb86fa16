"""Plans as they are printed, and kept for the next call that is the same."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from deployer.app.planning import Planned
from deployer.app.settings import Settings
from deployer.cli.output import json_line
from deployer.core.notices import notice_data, notice_lines
from deployer.core.render.text import plan_text

if TYPE_CHECKING:
    from deployer.saved_plan import SavedPlan


def print_plan(
    planned: "Planned | SavedPlan",
    form: str,
    file: Path,
    *,
    steps: bool,
    apart: bool = False,
) -> str:
    """Print a plan; returns what was printed where that is text for people."""
    seen = planned.prepared if isinstance(planned, Planned) else None
    fit, notices = (None, ()) if seen is None else (seen.fit, seen.notices)
    match form:
        case "json":
            from deployer.core.render.data import plan_data  # noqa: PLC0415 - rare

            data = plan_data(planned.plan, planned.places, fit=fit)
            told = [notice_data(notice) for notice in notices]
            json_line({**data, "notices": [*told], "file": str(file)})
        case "markdown":
            from deployer.cli.comment import comment_of  # noqa: PLC0415 - rare

            click.echo(comment_of(planned, file), nl=False)
        case _:
            text = plan_text(planned.plan, planned.places, steps=steps, fit=fit)
            notes = (f"note: {note}" for note in planned.notes)
            lines = [*notes, *notice_lines(notices)]
            text = "\n".join((text.removesuffix("\n"), *lines, ""))
            click.echo(said := f"\n{text}" if apart else text, nl=False)
            return said
    return ""


class Told(NamedTuple):
    """A plan, and the text that was printed of it."""

    file: Path
    planned: Planned
    text: str


def remember(call: tuple[str, ...], settings: Settings, told: "Sequence[Told]") -> None:
    """Keep what was said for the next call that is the same."""
    if not call:
        return
    from deployer.app.remembering import (  # noqa: PLC0415 - not for other calls
        remember_plans,
    )

    plans = [(it.file, it.planned) for it in told]
    remember_plans(call, settings, plans, "".join(it.text for it in told))
