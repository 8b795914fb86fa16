"""Plans as they are printed."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from deployer.cli.output import json_line
from deployer.diagnostics import diagnostic_data, diagnostic_lines
from deployer.engines.place import costs_of
from deployer.show.text import plan_text
from deployer.usecases.plan import Planned

if TYPE_CHECKING:
    from deployer.usecases.plan_file import SavedPlan


def print_plan(
    planned: "Planned | SavedPlan",
    form: str,
    file: Path,
    *,
    steps: bool,
    apart: bool = False,
) -> None:
    """Print a plan, in a form for people or for programs."""
    seen = planned.prepared if isinstance(planned, Planned) else None
    fit, notices = (None, ()) if seen is None else (seen.fit, seen.notices)
    match form:
        case "json":
            from deployer.show.data import plan_data  # noqa: PLC0415 - rare

            bill = costs_of(planned.plan)
            data = plan_data(planned.plan, planned.places, fit=fit, costs=bill)
            data["notices"] = [diagnostic_data(notice) for notice in notices]
            data["notes"] = [*planned.notes]
            json_line({**data, "file": str(file)})
        case "markdown":
            from deployer.cli.comment import comment_of  # noqa: PLC0415 - rare

            click.echo(comment_of(planned, file), nl=False)
        case _:
            bill = None if planned.plan.is_empty else costs_of(planned.plan)
            text = plan_text(
                planned.plan, planned.places, steps=steps, fit=fit, costs=bill
            )
            notes = (f"note: {note}" for note in planned.notes)
            lines = [*notes, *diagnostic_lines(notices)]
            text = "\n".join((text.removesuffix("\n"), *lines, ""))
            click.echo(f"\n{text}" if apart else text, nl=False)
