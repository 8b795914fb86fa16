"""fit, upgrade, bisect and render: where a model fits, and other builds."""

import shlex
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from deployer.cli.options import (
    engine_option,
    json_option,
    known_tags,
    locked_option,
    stack_argument,
)
from deployer.cli.output import end, json_result, width, wrapped
from deployer.cli.progress_display import Show
from deployer.cli.terminal import styled
from deployer.diagnostics import diagnostic_lines, diagnostics_text
from deployer.engines.contract import Rendering
from deployer.engines.place import costs_of
from deployer.planning.plan import fit_data
from deployer.planning.progress import unwatched
from deployer.show.client_configs import CLIENTS
from deployer.show.text import fit_text, gib, mib, plan_text, printable, sized
from deployer.stack.fields.values import JsonValue
from deployer.usecases.context.settings import Options, Settings, settings_of
from deployer.usecases.validate import rendered, write

if TYPE_CHECKING:
    from deployer.gguf.choices import Cell, Suggestion
    from deployer.usecases.bisect import Bisected
    from deployer.usecases.reading.inspect_model import Fitted, Measured
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

    Behind it the cheapest GPUs that hold it, with the largest context and the most
    slots of each.  With `--matrix`: which GPU fits which context, and its price.
    An estimate from headers: nothing is started; docs/fit.md says how exact.

    \b
    Example:
      deployer fit stacks/prod.yaml
      deployer fit stacks/prod.yaml --matrix
    """
    from deployer.usecases.reading.inspect_model import (  # noqa: PLC0415 - only here
        choices,
        fitted,
        suggested,
    )

    with Show(f"deployer fit {stack}", aside=True) as show:
        say = unwatched if as_json else show
        found = fitted(stack, settings_of(), engine, say)
    if as_json:
        cells = choices(found) if matrix else ()
        _fit_json(found, cells, () if matrix else suggested(found))
        return
    if matrix:
        _table(choices(found), own=found.size.serving.context(found.size.facts.model))
        for line in _apart(found):
            click.echo(line)
        return
    for line in _fit_lines(found, suggested(found)):
        click.echo(line)
    if found.weighed.too_large:
        click.echo(diagnostics_text(found.weighed.too_large), nl=False)


def _fit_lines(found: "Fitted", every: "tuple[Suggestion, ...]") -> Iterator[str]:
    for number, fit in enumerate(found.fits):
        if number:
            yield ""
        yield from fit_text(fit)
    if found.measured is not None:
        yield _measured_line(found.measured)
    yield from _suggestions(found, every)


def _fit_json(
    found: "Fitted", cells: "tuple[Cell, ...]", every: "tuple[Suggestion, ...]"
) -> None:
    for fit in found.fits:
        json_result({"type": "fit", **fit_data(fit)})
    if found.measured is not None:
        json_result({"type": "measured", **asdict(found.measured)})
    for one in every:
        json_result(_suggestion_json(one))
    for cell in cells:
        json_result(_cell_json(cell))


def _measured_line(found: "Measured") -> str:
    taken = f"measured: release {found.release} took {sized(found.taken)}"
    if not found.same:
        return f"{taken} of main memory, with other weights or options"
    off = 100 * (found.taken / found.computed - 1)
    than = f"{abs(off):.0f} % {'more' if off > 0 else 'less'} than is computed"
    return f"{taken} of main memory at its gates, {than}: expect that again"


def _suggestions(found: "Fitted", every: "tuple[Suggestion, ...]") -> Iterator[str]:
    """Show what holds the stack, cheapest first, and how much more it would hold."""
    serving, model = found.size.serving, found.size.facts.model
    own = serving.context(model)
    each = own if serving.unified else own // serving.slots
    share = " shared" if serving.unified else ""
    if every:
        yield ""
        yield "holds it, and the most of it:"
    for it in every:
        price = f", ${it.hourly:.2f}/h" if it.gpu else ""
        used = f"{100 * it.fit.total / it.fit.capacity:.0f} %"
        slots = "1 slot" if it.slots == 1 else f"{it.slots} slots"
        yield from wrapped(
            "  ",
            f"{it.fit.where}{price}: {it.cache_type} KV, {used} used; a context up to"
            f" {it.context}, or {slots} with {each} tokens{share}",
        )


def _suggestion_json(one: "Suggestion") -> dict[str, JsonValue]:
    return {
        "type": "suggestion",
        "where": one.fit.where,
        "gpu": one.gpu or None,
        "usd_per_hour": round(one.hourly, 4) if one.gpu else None,
        "cache_type": one.cache_type,
        "total": one.fit.total,
        "capacity": one.fit.capacity,
        "largest_ctx_size": one.context,
        "most_slots": one.slots,
    }


def _apart(found: "Fitted") -> Iterator[str]:
    """Yield what `fit` of the stack counts otherwise than the table does."""
    serving, fit = found.size.serving, found.fits[0]
    own = (serving.cache_type_k or "f16", serving.cache_type_v or "f16")
    _, machine = found.size.machines[0]
    if own[0] != own[1]:
        yield (
            f"the stack has {own[0]} keys and {own[1]} values, and the table one type"
            f" for both: {fit.where} with those takes {gib(fit.total)} GiB"
        )
    if not machine.gpus:
        yield (
            f"the stack runs without a GPU: {fit.where} needs {gib(fit.total)} GiB,"
            " without context and margin of a GPU, and with all weights"
        )
    if machine.gpus > 1:
        yield f"each row stands for {machine.gpus} GPUs of a type, as the stack has"
    for note in fit.unsure:
        yield f"not in the figures: {note}"


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


@click.command("bisect", short_help="Find the build that made a gate fail.")
@stack_argument
@click.option(
    "--good",
    default="",
    metavar="TAG",
    shell_complete=known_tags,
    help="A build on which the gates pass.",
)
@click.option(
    "--bad",
    default="",
    metavar="TAG",
    shell_complete=known_tags,
    help="A build on which they fail; an older one to find the fix.",
)
@click.option(
    "--gate",
    "gates",
    multiple=True,
    metavar="GATE",
    help="Ask this gate only (repeatable); default: those of the stack.",
)
@click.option(
    "--patches",
    is_flag=True,
    help="Bisect the patches of the stack, in their order, instead of builds.",
)
@click.option(
    "--quants",
    default="",
    metavar="A,B,…",
    help="Bisect quantisations instead, named from good to bad.",
)
@click.option("--again", is_flag=True, help="Ask again what earlier runs found.")
@json_option
def bisect_command(  # noqa: PLR0913 - one parameter an option
    stack: Path,
    good: str,
    bad: str,
    gates: tuple[str, ...],
    *,
    patches: bool,
    quants: str,
    again: bool,
    as_json: bool,
) -> None:
    """Find the first build on which the gates of a stack fail, and what came with it.

    Each step serves the stack on this machine, beside the live release and apart from
    it.  A build that cannot be made is skipped.  Results are kept: a run that was
    stopped carries on.  Exits 1 where the first bad build is not known for certain.

    \b
    Example:
      deployer bisect stacks/prod.yaml --good b9763 --bad b11434 --gate tools
      deployer bisect stacks/prod.yaml --quants Q8_0,Q5_K_M,Q4_K_M --gate quality
    """
    from deployer.usecases.bisect import (  # noqa: PLC0415 - fit needs none of it
        Wanted,
        bisect,
    )

    named = tuple(it.strip() for it in quants.split(",") if it.strip())
    wanted = Wanted(good, bad, gates, patches=patches, quants=named, again=again)
    with Show(f"deployer bisect {stack}", aside=True) as show:
        found = bisect(stack, settings_of(), wanted, unwatched if as_json else show)
    if as_json:
        json_result(_data_of_bisection(found))
    else:
        for line in _lines_of_bisection(found):
            click.echo(printable(line))
    if not found.first_bad:
        click.get_current_context().exit(1)


_FINDINGS: Final = {"good": "✔", "bad": "✖", "unknown": "?"}


def _lines_of_bisection(found: "Bisected") -> Iterator[str]:
    order = {name: at for at, name in enumerate(found.points)}
    for it in sorted(found.tried, key=lambda it: order[it.name]):
        earlier = " (found by an earlier run)" if it.remembered else ""
        why = f": {it.because}" if it.because else ""
        sign = _FINDINGS[it.finding.value]
        yield from wrapped(f"{sign} ", f"{it.name} {it.finding}{why}{earlier}")
    yield ""
    yield from _conclusion(found)
    if found.pulls or found.pulls_note:
        yield ""
        yield "pull requests in it"
        if found.pulls_note:
            yield from wrapped("  · ", found.pulls_note)
        for pull in found.pulls[:_MOST_LINES]:
            yield from wrapped("  + ", f"#{pull.number} {pull.title}")
        if len(found.pulls) > _MOST_LINES:
            yield f"    and {len(found.pulls) - _MOST_LINES} more: `--json` has them"
    if found.trap:
        yield ""
        yield "known issue to add to `deployer/llama/known/traps.toml`:"
        yield ""
        yield from found.trap.splitlines()


def _conclusion(found: "Bisected") -> Iterator[str]:
    what = found.over.value.removesuffix("s").replace("patche", "patch")
    if found.trouble:
        yield from wrapped("", f"not found: {found.trouble}")
    elif found.first_bad and found.backwards:
        yield f"first good {what}: {found.last_good} ({found.first_bad} is bad)"
    elif found.first_bad:
        yield f"first bad {what}: {found.first_bad} ({found.last_good} is good)"
    else:
        names = ", ".join(found.suspects)
        which = "last" if found.backwards else "first"
        text = f"the {which} bad {what} is one of {len(found.suspects)}: {names}"
        skipped = "the others could not be tried"
        yield from wrapped("", f"{text} ({found.last_good} is good; {skipped})")


def _data_of_bisection(found: "Bisected") -> dict[str, JsonValue]:
    return {
        "type": "bisect",
        "stack": found.stack,
        "over": found.over.value,
        "points": [*found.points],
        "tried": [
            {
                "name": it.name,
                "finding": it.finding.value,
                "because": it.because,
                "remembered": it.remembered,
            }
            for it in found.tried
        ],
        "first_bad": found.first_bad or None,
        "last_good": found.last_good,
        "suspects": [*found.suspects],
        "fixed": found.backwards,
        "trouble": found.trouble,
        "pulls": [{"number": it.number, "title": it.title} for it in found.pulls],
        "pulls_note": found.pulls_note,
        "trap": found.trap,
    }


"""Folder of what every rendered app comes with."""


@click.command(
    "render", short_help="Show the apps, the command line or clients of a stack."
)
@stack_argument
@engine_option
@locked_option
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Write the files there instead of printing them.",
)
@click.option(
    "--monitoring",
    is_flag=True,
    help="Write rules and a dashboard for Prometheus and Grafana instead.",
)
@click.option(
    "--client",
    type=click.Choice([*CLIENTS]),
    help="Print the configuration of a client for the live endpoint instead.",
)
@click.option(
    "--systemd",
    type=click.Choice(["system", "user"]),
    help="Print a unit that keeps the live release up instead.",
)
@json_option
def render_command(  # noqa: PLR0913 - its options
    stack: Path,
    engine: str | None,
    out: Path | None,
    client: str | None,
    systemd: str | None,
    *,
    locked: bool,
    monitoring: bool,
    as_json: bool,
) -> None:
    """Show what the engine would run: the command line, on Modal also the apps.

    Nothing is made or deployed.  The same stack and lock file give the same bytes.
    Digests are zeros, which is said, without a lock file where no source answers.

    `--monitoring` writes alert rules and a dashboard to `--out` (default:
    `monitoring`); a server that scales to zero is not scraped, which would wake it.
    `--client` names the API key by its variable.  `--systemd` prints a unit for
    `deployer server run`, ready once the short gates pass, hardened where the stack has
    no snapshot.

    \b
    Example:
      deployer render stacks/prod.yaml --out rendered/
      deployer render stacks/prod.yaml --client codex
    """
    if client is not None:
        _print_client(stack, client, as_json=as_json)
    elif systemd is not None:
        _print_unit(stack, of_user=systemd == "user", as_json=as_json)
    elif monitoring:
        _write_monitoring(stack, out or Path("monitoring"), as_json=as_json)
    else:
        options = Options(engine=engine, locked=locked)
        _render(stack, options, out, as_json=as_json)


def _render(stack: Path, options: Options, out: Path | None, *, as_json: bool) -> None:
    found = rendered(stack, settings_of(), options)
    _note_unpinned(found, stack)
    written = write(found, out) if out is not None else ()
    if as_json:
        _print_json(found, with_text=out is None)
        return
    for path in written:
        click.echo(f"wrote {path}")
    if out is None:
        _print_files(found)
    click.echo(command_text(found.argv))


def _print_client(stack: Path, client: str, *, as_json: bool) -> None:
    from deployer.usecases.check import live_of  # noqa: PLC0415 - only here

    text = CLIENTS[client](live_of(stack, settings_of()))
    end(text.rstrip("\n"), as_json=as_json, kind="client", client=client, text=text)


def _print_unit(stack: Path, *, of_user: bool, as_json: bool) -> None:
    from deployer.usecases.releases import unit_of  # noqa: PLC0415 - only here

    text = unit_of(stack, settings_of(), of_user=of_user)
    end(text.rstrip("\n"), as_json=as_json, kind="unit", text=text)


def _write_monitoring(stack: Path, out: Path, *, as_json: bool) -> None:
    from deployer.usecases.watch import render_monitor  # noqa: PLC0415 - only here

    written = render_monitor(stack, settings_of(), out)
    for path in written:
        if as_json:
            json_result({"type": "wrote", "file": str(path)})
        else:
            click.echo(f"wrote {path}")


def _note_unpinned(found: Rendering, stack: Path) -> None:
    if found.unpinned:
        what = ", ".join(found.unpinned)
        hint = f"`deployer lock {stack}` asks the sources"
        click.echo(f"note: not pinned yet, digests are zeros: {what}; {hint}", err=True)


def command_text(argv: tuple[str, ...]) -> str:
    """A command line for a shell, an option a line."""
    lines = [shlex.quote(argv[0])]
    for word in argv[1:]:
        if word.startswith("--"):
            lines.append(shlex.quote(word))
        else:
            lines[-1] += f" {shlex.quote(word)}"
    return " \\\n  ".join(lines)


def _print_files(found: Rendering) -> None:
    for name, content in found.files.items():
        if name.startswith(RUNTIME):
            continue
        click.echo(f"# ==> {name} <==")
        if name.endswith(".py"):
            click.echo(content.decode())
        else:
            click.echo(f"# {len(content)} bytes\n")
    if any(name.startswith(RUNTIME) for name in found.files):
        click.echo(
            f"# {RUNTIME} is the same for every stack; `--out DIR` writes it too\n"
        )


RUNTIME = "runtime/"
"""Folder of what every rendered app comes with."""


def _print_json(found: Rendering, *, with_text: bool) -> None:
    for name, content in found.files.items():
        text = content.decode() if with_text and name.endswith(".py") else None
        json_result({"type": "file", "name": name, "size": len(content), "text": text})
    json_result({"type": "argv", "argv": list(found.argv)})
