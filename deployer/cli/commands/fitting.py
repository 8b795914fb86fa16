"""gguf and fit: what is in a model file, and where it fits."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from deployer.cli.options import engine_option, json_option, stack_argument
from deployer.cli.output import json_head, json_line, width
from deployer.cli.terminal import styled
from deployer.diagnostics import diagnostics_text
from deployer.planning.plan import fit_data
from deployer.planning.progress import unwatched
from deployer.show.text import fit_text, gib, mib, printable
from deployer.stack.fields.values import JsonValue, show_bytes
from deployer.usecases.context.settings import settings_of

if TYPE_CHECKING:
    from deployer.gguf.choices import Cell
    from deployer.gguf.facts import Model, Projector
    from deployer.usecases.reading.inspect_model import Looked


@click.command("gguf", short_help="Show the header of a GGUF file.")
@click.argument("named", metavar="FILE|URL|REPO[:QUANT]|STACK")
@click.option(
    "--sizes", is_flag=True, help="Read only up to the tokenizer: 4 KiB, one request."
)
@json_option
def gguf_command(named: str, *, sizes: bool, as_json: bool) -> None:
    """Show what a model or projector is, from the header alone.

    A file of this machine, an address, a repository of the hub, or the weights of a
    stack.  Of a remote file of any size at most 16 MB are read.

    \b
    Example:
      deployer gguf models/gemma.gguf
      deployer gguf unsloth/gemma-3-270m-it-GGUF:Q4_K_M --json
    """
    from deployer.usecases.reading.inspect_model import look  # noqa: PLC0415 - only here

    found = look(named, settings_of(), sizes_only=sizes, watch=unwatched)
    if as_json:
        json_head()
        for looked in found:
            json_line(_looked_json(looked))
        return
    for looked in found:
        for line in _looked_lines(looked):
            click.echo(printable(line))


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

    found = fitted(stack, settings_of(), engine, unwatched)
    if as_json:
        json_head()
        for fit in found.fits:
            json_line({"type": "fit", **fit_data(fit)})
        for cell in choices(found) if matrix else ():
            json_line(_cell_json(cell))
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


def _looked_lines(looked: "Looked") -> Iterator[str]:
    from deployer.gguf.facts import Model  # noqa: PLC0415 - only here

    thing = looked.thing
    lines = _model_lines(thing) if isinstance(thing, Model) else _projector_lines(thing)
    yield looked.name
    for name, value in lines:
        if value:
            yield f"  {name:<14}{value}"
    if looked.headers:
        read = sum(header.read for header in looked.headers)
        yield f"  {'read':<14}{show_bytes(read)} of {show_bytes(thing.size)}"


def _model_lines(model: "Model") -> Iterator[tuple[str, str]]:
    from deployer.gguf.memory import windowed_layers  # noqa: PLC0415 - only here

    windows = sum(windowed_layers(model))
    yield "architecture", model.architecture
    yield "name", model.name
    yield "quantisation", model.quant
    files = f" in {model.files} files" if model.files > 1 else ""
    yield "size", f"{show_bytes(model.size)}{files}"
    yield (
        "parameters",
        f"{model.parameters / 1e6:,.0f} million" * bool(model.parameters),
    )
    yield "context", f"{model.context_length} tokens"
    yield "layers", f"{model.block_count}, {model.embedding_length} wide"
    yield "attention", f"{_span(model.heads)} heads, {_span(model.kv_heads)} of keys"
    if windows:
        window = f"{windows} layers see {model.sliding_window} tokens"
        yield "window", f"{window}, {model.block_count - windows} see all"
    if model.experts:
        yield "experts", f"{model.experts}, {model.experts_used} used"
    yield "vocabulary", f"{model.vocabulary} tokens" * bool(model.vocabulary)
    yield "chat template", _template(model)


def _template(model: "Model") -> str:
    if model.template is None:
        return "none" if model.whole else "not read"
    knows = [name for name in ("thinking", "tools") if getattr(model.template, name)]
    parts = [model.template.digest, " and ".join(knows), model.template.outdated]
    return ", ".join(part for part in parts if part)


def _projector_lines(projector: "Projector") -> Iterator[tuple[str, str]]:
    yield "projector", ", ".join(projector.kinds)
    yield "size", show_bytes(projector.size)
    yield (
        "makes",
        f"embeddings {projector.projection} wide" * bool(projector.projection),
    )
    picture = f"{projector.image_size} pixels, in patches of {projector.patch_size}"
    yield "images", picture * bool(projector.image_size)


def _span(value: int | tuple[int, ...]) -> str:
    if isinstance(value, int):
        return str(value)
    low, high = min(value, default=0), max(value, default=0)
    return str(low) if low == high else f"{low} to {high}"


def _looked_json(looked: "Looked") -> dict[str, JsonValue]:
    from deployer.gguf.facts import (  # noqa: PLC0415 - where JSON was asked for
        Model,
        as_json,
    )

    headers: list[JsonValue] = [
        {
            "version": header.version,
            "length": header.length,
            "read": header.read,
            "keys": len(header.values),
            "tensors": len(header.tensors),
        }
        for header in looked.headers
    ]
    kind = "model" if isinstance(looked.thing, Model) else "mmproj"
    facts = as_json(looked.thing)
    return {"type": kind, "name": looked.name, "facts": facts, "headers": headers}


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
