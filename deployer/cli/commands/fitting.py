"""fit and upgrade: where a model fits, and what another build means."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from deployer.cli.options import (
    engine_option,
    json_option,
    known_tags,
    stack_argument,
)
from deployer.cli.output import json_result, width, wrapped
from deployer.cli.progress_display import Show
from deployer.cli.terminal import styled
from deployer.diagnostics import diagnostic_lines, diagnostics_text
from deployer.engines.place import costs_of
from deployer.planning.plan import fit_data
from deployer.planning.progress import unwatched
from deployer.show.text import fit_text, gib, mib, plan_text, printable
from deployer.stack.fields.values import JsonValue
from deployer.usecases.context.settings import Options, Settings, settings_of

if TYPE_CHECKING:
    from deployer.gguf.choices import Cell
    from deployer.usecases.upgrade import Upgrade


@click.command("fit", short_help="Show whether a model fits, and on which GPU.")
@stack_argument
@engine_option
@click.option(
    "--matrix",
    is_flag=True,
    help="Compare GPUs by context size and KV cache type.",
)
@json_option
def fit_command(
    stack: Path, engine: str | None, *, matrix: bool, as_json: bool
) -> None:
    """Show the memory that a stack needs, part by part, and whether it is there.

    With `--matrix`: which GPU fits which context, and its price an hour on Modal.
    An estimate from headers: nothing is started; docs/fit.md says how exact.

    \b
    Example:
      deployer fit stacks/prod.yaml
      deployer fit stacks/prod.yaml --matrix
    """
    from deployer.usecases.reading.inspect_model import choices, fitted  # noqa: PLC0415 - only here

    with Show(f"deployer fit {stack}", aside=True) as show:
        say = unwatched if as_json else show
        found = fitted(stack, settings_of(), engine, say)
    if as_json:
        for fit in found.fits:
            json_result({"type": "fit", **fit_data(fit)})
        for cell in choices(found) if matrix else ():
            json_result(_cell_json(cell))
        return
    if matrix:
        _table(choices(found), own=found.size.serving.context(found.size.facts.model))
        return
    for number, fit in enumerate(found.fits):
        if number:
            click.echo()
        for line in fit_text(fit):
            click.echo(line)
    if found.weighed.too_large:
        click.echo(diagnostics_text(found.weighed.too_large), nl=False)


def _cell_json(cell: "Cell") -> dict[str, JsonValue]:
    return {
        "type": "cell",
        "gpu": cell.gpu,
        "count": cell.count,
        "ctx_size": cell.ctx_size,
        "cache_type": cell.cache_type,
        "total": cell.total,
        "capacity": cell.capacity,
        "fits": cell.fits,
        "usd_per_hour": round(cell.hourly, 4),
    }


def _table(cells: "tuple[Cell, ...]", *, own: int) -> None:
    """Show the memory of each context by cache type, and the best type for each GPU."""
    from rich import box  # noqa: PLC0415 - only a table pays for it
    from rich.console import Console  # noqa: PLC0415 - as above
    from rich.table import Table  # noqa: PLC0415 - as above

    contexts = list(dict.fromkeys(cell.ctx_size for cell in cells))
    kinds = list(dict.fromkeys(cell.cache_type for cell in cells))
    by_gpu: dict[str, list[Cell]] = {}
    for cell in cells:
        by_gpu.setdefault(cell.gpu, []).append(cell)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("GPU", no_wrap=True)
    table.add_column("$/h", justify="right", no_wrap=True)
    for context in contexts:
        name = f"{context // 1024}k" if context % 1024 == 0 else str(context)
        table.add_column(f"{name}*" if context == own else name, justify="right")
    one = next(iter(by_gpu.values()))
    unit, show = ("GiB", gib) if max(c.total for c in one) >= 1024**3 else ("MiB", mib)
    for kind in kinds:
        needs = [show(cell.total) for cell in one if cell.cache_type == kind]
        table.add_row(f"{unit} with {kind} KV", "", *needs)
    table.add_section()
    for row in by_gpu.values():
        first = row[0]
        best = [_best([c for c in row if c.ctx_size == it]) for it in contexts]
        table.add_row(printable(first.name), f"{first.hourly:.2f}", *best)
    Console(width=max(width(), 60), file=styled(sys.stdout)).print(table)
    click.echo("best KV type that fits, and the memory used · - does not fit")
    click.echo("$/h: Modal's price of the GPU alone · * the context of the stack")


def _best(cells: "list[Cell]") -> str:
    """The least quantised cache that fits, with the share of memory it takes."""
    for cell in cells:
        if cell.fits:
            return f"{cell.cache_type} {100 * cell.total / cell.capacity:.0f}%"
    return "-"


@click.command("upgrade", short_help="Show what another build means for a stack.")
@stack_argument
@click.option(
    "--to",
    required=True,
    metavar="TAG",
    shell_complete=known_tags,
    help="The build, or `latest`.",
)
@click.option("--write", "writes", is_flag=True, help="Change the files, then plan.")
@click.option(
    "--tree", is_flag=True, help="Fetch the source of the build to check patches."
)
@json_option
def upgrade_command(
    stack: Path, to: str, *, writes: bool, tree: bool, as_json: bool
) -> None:
    """Show what another build means for a stack: patches, options, API, known issues.

    Nothing is changed without `--write`, which edits the files in place and keeps
    their comments.  `--to latest` asks the repository of the stack; everything else
    works offline.  An older build works as well.

    \b
    Example:
      deployer upgrade stacks/prod.yaml --to b11434
      deployer upgrade stacks/prod.yaml --to b11434 --write
    """
    from deployer.usecases.upgrade import (  # noqa: PLC0415 - fit needs none of it
        Wanted,
        upgrade,
        write,
    )

    settings = settings_of()
    found = upgrade(stack, settings, Wanted(to, with_tree=tree), unwatched)
    if writes:
        write(found)
    if as_json:
        json_result(_data_of_upgrade(found, written=writes))
        return
    for line in _lines(found):
        click.echo(line)
    if not found.certain:
        click.echo("not known to be clean: `?` marks what could not be judged")
    if not found.files:
        click.echo("nothing to change in the files")
    elif not writes:
        click.echo("nothing is written: `--write` changes the files as shown")
    if writes:
        for file in found.files:
            click.echo(f"wrote {file.path}")
        _plan_of(stack, settings)


def _plan_of(stack: Path, settings: Settings) -> None:
    """Print the plan of the files as they are written now."""
    from deployer.usecases.plan import plan  # noqa: PLC0415 - only here

    click.echo("")
    planned = plan(stack, settings, Options())
    costs = costs_of(planned.plan)
    click.echo(plan_text(planned.plan, planned.places, costs=costs), nl=False)
    for line in diagnostic_lines(planned.prepared.notices):
        click.echo(line)


_MOST_LINES = 40
"""Lines of one topic; hundreds of pull requests lie between two builds."""


def _lines(found: "Upgrade") -> Iterator[str]:
    yield f"{found.stack}: {found.old} → {found.new}"
    topics = dict.fromkeys(line.topic for line in found.lines)
    for topic in topics:
        yield ""
        yield topic
        mine = [line for line in found.lines if line.topic == topic]
        for line in mine[:_MOST_LINES]:
            yield from wrapped(f"  {line.sign} ", line.text)
            if line.hint:
                yield from wrapped("      ", line.hint)
        if len(mine) > _MOST_LINES:
            yield f"    and {len(mine) - _MOST_LINES} more: `--json` has every one"
    yield ""
    for file in found.files:
        yield from file.diff.splitlines()
        yield ""


def _data_of_upgrade(found: "Upgrade", *, written: bool) -> dict[str, JsonValue]:
    return {
        "type": "upgrade",
        "stack": found.stack,
        "old": found.old,
        "new": found.new,
        "lines": [
            {"topic": n.topic, "sign": n.sign, "text": n.text, "hint": n.hint}
            for n in found.lines
        ],
        "files": [{"path": str(f.path), "diff": f.diff} for f in found.files],
        "written": written and bool(found.files),
        "certain": found.certain,
    }


"""Folder of what every rendered app comes with."""
