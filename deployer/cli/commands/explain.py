"""explain: known issues, options, gates, models and patches, one word for each."""

import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import click

from deployer.cli.options import json_option, known_tags, suggest
from deployer.cli.output import json_result, wrapped
from deployer.errors import UsageError
from deployer.gates import GATES
from deployer.llama.catalogue import (
    Catalogue,
    Known,
    Life,
    Option,
    catalogue,
    every_name,
    known_builds,
    life_of,
)
from deployer.llama.explain import Explanation, FlagDiff, diff, explain
from deployer.llama.known.traps import NEWEST, Trap, themes, traps
from deployer.planning.progress import unwatched
from deployer.show.text import printable
from deployer.spelling import did_you_mean, nearest, one_of, shown
from deployer.stack.fields.values import JsonValue, show_bytes
from deployer.usecases.context.settings import patches_folder, settings_of

if TYPE_CHECKING:
    from deployer.gguf.facts import Model, Projector
    from deployer.llama.build.trees import Source
    from deployer.llama.patches import PatchVerdict
    from deployer.stack.fields.reference import Entry
    from deployer.usecases.artefacts import Described
    from deployer.usecases.reading.inspect_model import Looked

_BUILD = re.compile(r"b?([0-9]{1,6})")
_WIDTH = 42
"""Columns for names and value; longer ones push the rest of their line."""


@click.group("explain", short_help="Explain a known issue, option, gate or model.")
def explain_command() -> None:
    """Explain a known issue, an option, a gate, a model file or a patch.

    Without a NAME each lists what there is.

    \b
    Example:
      deployer explain trap context-checkpoints
      deployer explain flag no-mmap
      deployer explain gate stream
    """


def _bare_names() -> list[str]:
    """Every option without dashes: a shell takes a word with them for one of ours."""
    return sorted({name.lstrip("-") for name in every_name()})


@explain_command.command("flag", short_help="Explain an option of llama-server.")
@click.argument("name", required=False, shell_complete=suggest(_bare_names))
@click.option(
    "--at",
    "tag",
    metavar="TAG",
    shell_complete=known_tags,
    help="The build; else the newest known.",
)
@click.option(
    "--diff", "builds", nargs=2, metavar="OLD NEW", help="Compare two builds."
)
@click.option(
    "--from",
    "origin",
    metavar="PATH|BINARY|TAG",
    help="Read a tree, start a binary with --help, or fetch the source of a tag.",
)
@json_option
def explain_flag(
    name: str | None,
    tag: str | None,
    *,
    builds: tuple[str, str] | None,
    origin: str | None,
    as_json: bool,
) -> None:
    """Explain an option of llama-server at a build, or list all of them.

    NAME is an option, with or without dashes.  Nothing is fetched or started without
    `--from`: the catalogue is shipped with deployer.

    \b
    Example:
      deployer explain flag no-mmap --at b10878
      deployer explain flag --at b10434
      deployer explain flag --diff b9763 b11434
      deployer explain flag moe-cache-mib --from ../llama.cpp
    """
    if sum(it is not None for it in (tag, builds, origin)) > 1:
        raise UsageError("give one of `--at`, `--diff` and `--from`")
    if builds is not None and name is not None:
        raise UsageError("`--diff` compares all options, and takes no NAME")
    if origin is not None:
        lines = _of_origin(origin, name, as_json=as_json)
    else:
        lines = _of_table(tag, name, builds, as_json=as_json)
    for line in lines:
        if isinstance(line, str):
            click.echo(line)
        else:
            json_result(line)


_Lines: TypeAlias = Iterator[str] | Iterator[dict[str, JsonValue]]


def _of_table(
    tag: str | None, name: str | None, builds: tuple[str, str] | None, *, as_json: bool
) -> _Lines:
    """The shipped table: a build, an option, or two builds."""
    if builds is not None:
        found = diff(*map(_build, builds))
        return iter([_diff_json(found)]) if as_json else _diff_lines(found)
    build = known_builds()[-1] if tag is None else _build(tag)
    if name is not None:
        explained = explain(build, name)
        field = _field_of(explained)
        if as_json:
            return iter([_explained_json(explained, field)])
        return _explained_lines(explained, field)
    known = catalogue(build)
    return _list_json(known) if as_json else _list_lines(known)


def _of_origin(named: str, name: str | None, *, as_json: bool) -> _Lines:
    """The options of a build as it states them itself, or one of them."""
    from deployer.usecases.artefacts import describe  # noqa: PLC0415 - other commands need no store

    found = describe(named, settings_of(), unwatched)
    known = found.description.catalogue(found.build)
    if name is not None:
        option = _stated_option(named, name, known)
        if as_json:
            return iter([_listed_json(option, known)])
        return _stated_lines(option, named, known)
    if as_json:
        about = {"type": "description", "build": found.build, **_stated(found)}
        return chain([about], _list_json(known))
    counts = (
        f"{k}: {len(v)}" for k, v in _stated(found).items() if isinstance(v, list)
    )
    head = f"{len(known.options)} options of {named}, by its {known.origin}"
    return chain([head], (_option_line(it, known) for it in known.options), counts)


def _stated_option(named: str, name: str, known: Catalogue) -> Option:
    long = f"--{name.lstrip('-')}"
    option = known.find(name if name.startswith("-") else long) or known.find(long)
    if option is None:
        close = nearest(long, known.by_name)
        raise UsageError(
            f"`{named}` has no option `{name[:60]}`",
            hint=f"did you mean `{close}`?" if close else "",
        )
    return option


def _stated_lines(option: Option, named: str, known: Catalogue) -> Iterator[str]:
    yield f"{option.name} of {named}, by its {known.origin}"
    yield f"  names         {', '.join(option.spellings)}"
    yield f"  takes         {_takes(option)}"
    about = {
        "default": option.default,
        "environment": option.env,
        "standing": option.standing.value,
        "write": ", ".join(option.instead),
    }
    yield from (f"  {word:<12}  {text}" for word, text in about.items() if text)


def _stated(found: "Described") -> dict[str, JsonValue]:
    """All of a description but its options."""
    stated = found.description
    return {
        "origin": stated.origin.value,
        "version": stated.version or None,
        "routes": [*stated.routes],
        "fields": [*stated.fields],
        "architectures": [*stated.architectures],
        "projectors": [*stated.projectors],
        "templates": [*stated.templates],
        "markers": [*stated.markers],
        "formats": {**stated.formats},
    }


def _build(tag: str) -> int:
    """The number of a build; names of releases and commits say none."""
    if found := _BUILD.fullmatch(tag):
        return int(found[1])
    raise UsageError(
        f"`{tag[:60]}` is not the number of a build",
        hint=f"write it as `b10434`, or `deployer explain flag --from {tag[:60]}` to"
        " read its source",
    )


def _field_of(explained: Explanation) -> str:
    """The field of a stack that states the option; empty for none."""
    from deployer.stack.fields.marks import fields_of  # noqa: PLC0415 - imports the model
    from deployer.stack.fields.server import Server  # noqa: PLC0415 - imports the model

    option = explained.option
    names = {*(option.spellings if option else ()), explained.name}
    for field, marks in fields_of(Server).items():
        if any(flag.name.split()[0] in names for flag in marks.flags):
            return f"server.{field}"
    return ""


def _list_lines(found: Catalogue) -> Iterator[str]:
    count = len(found.options)
    yield f"{count} options of llama-server b{found.build}, {_of(found)}"
    yield from (_option_line(option, found) for option in found.options)


def _list_json(found: Catalogue) -> Iterator[dict[str, JsonValue]]:
    return (_listed_json(option, found) for option in found.options)


def _listed_json(option: Option, found: Catalogue) -> dict[str, JsonValue]:
    unsure = bool(found.beyond or found.uncertain & {*option.spellings})
    return {"type": "option", **_option_json(option), "uncertain": unsure}


def _of(found: Catalogue) -> str:
    if found.exact:
        return "read from this build"
    if found.beyond:
        return f"as far as known: {found.beyond}"
    return "inferred from its neighbours; `?` where they differ"


def _option_line(option: Option, found: Catalogue) -> str:
    """One option: names and value, then what else there is to say."""
    value = "|".join(option.values) or option.hint
    names = ", ".join(option.spellings)
    about = (
        "?" if found.uncertain & {*option.spellings} else "",
        option.standing.value,
        option.env and f"env {option.env}",
    )
    left = f"{names} {value}".rstrip()
    return f"  {left:<{_WIDTH}}  {' · '.join(filter(None, about))}".rstrip()


def _explained_lines(explained: Explanation, field: str) -> Iterator[str]:
    """The answer first, then what it rests on."""
    option, life = explained.option, explained.life
    yield f"{explained.name} on b{explained.build}: {_answer(explained)}"
    for word in explained.instead if explained.known is not Known.YES else ():
        yield f"  write         {word}"
    if field:
        yield f"  in a stack    {field}, written as the build wants it"
    if explained.near:
        yield f"  near          {explained.near}"
    if option is not None:
        yield f"  names         {', '.join(option.spellings)}"
        yield f"  takes         {_takes(option)}"
        if option.default:
            yield f"  default       {option.default}"
        if option.env:
            yield f"  environment   {option.env}"
    yield from _life_lines(life)


def _answer(explained: Explanation) -> str:
    match explained.known:
        case Known.YES:
            standing = explained.option.standing.value if explained.option else ""
            return standing or "known"
        case Known.NO if explained.option and explained.life:
            gone = explained.life.refused or explained.life.gone
            removed = gone is not None and gone.by <= (explained.build or gone.by)
            return "removed" if removed else "not there yet"
        case Known.NO:
            return "no build that was read has it"
        case Known.UNCERTAIN:
            beyond = catalogue(explained.build).beyond
            if explained.life is None:
                return f"uncertain: no build that was read has it, and {beyond}"
            return (
                f"uncertain: {beyond or 'the builds around it that were read differ'}"
            )


def _takes(option: Option) -> str:
    if option.values:
        number = "an integer or " if option.takes.value == "int" else ""
        return number + one_of(option.values)
    if not option.hint:
        return "no value"
    words = {"int": "an integer", "number": "a number", "two": "two values"}
    return f"{words.get(option.takes.value, 'a string')} ({option.hint})"


def _life_lines(life: Life | None) -> Iterator[str]:
    if life is None:
        return
    if life.came:
        yield f"  came          {life.came}"
    if life.deprecated:
        yield f"  deprecated    {life.deprecated}"
    if life.refused:
        yield f"  refused       since a build {life.refused}"
    if life.gone:
        yield f"  removed       {life.gone}"


def _diff_lines(found: FlagDiff) -> Iterator[str]:
    """Return the first option that breaks."""
    yield f"options of llama-server, b{found.old} → b{found.new}"
    for option in found.removed:
        yield f"  - {option.name}   removed{_when(option)}"
    for renamed in found.renamed:
        yield f"  ± {renamed.old}   write {renamed.new}"
    for option in found.deprecated:
        yield f"  ! {option.name}   deprecated"
    for change in found.changed:
        if change.part == "names":
            gone = f" no longer {change.old}" if change.old else ""
            won = f" also {change.new}" if change.new else ""
            yield f"  ~ {change.name}  {gone}{won}"
        else:
            yield f"  ~ {change.name}   {change.part}: {change.old} → {change.new}"
    for option in found.added:
        yield f"  + {option.name}   {_takes(option)}"
    if found.uncertain:
        yield f"  ? not certain: {', '.join(found.uncertain)}"
    if found.beyond:
        yield f"  ? {found.beyond}: there may be more differences"


def _when(option: Option) -> str:
    life = life_of(option.name)
    edge = life and (life.refused or life.gone)
    return f" {edge}" if edge else ""


def _option_json(option: Option) -> dict[str, JsonValue]:
    return {
        "name": option.name,
        "names": list(option.names),
        "off": list(option.off),
        "takes": option.takes.value,
        "hint": option.hint,
        "values": list(option.values),
        "env": option.env,
        "standing": option.standing.value or "current",
        "default": option.default or None,
        "lists": option.lists,
        "instead": [*option.instead],
    }


def _explained_json(explained: Explanation, field: str) -> dict[str, JsonValue]:
    life = explained.life
    edges = {
        name: [edge.after, edge.by]
        for name in ("came", "deprecated", "refused", "gone")
        if life and (edge := getattr(life, name))
    }
    return {
        "type": "explanation",
        "build": explained.build,
        "name": explained.name,
        "known": explained.known.value,
        "option": _option_json(explained.option) if explained.option else None,
        "life": {name: list[JsonValue](edge) for name, edge in edges.items()},
        "instead": list(explained.instead),
        "near": explained.near,
        "field": field or None,
    }


def _diff_json(found: FlagDiff) -> dict[str, JsonValue]:
    return {
        "type": "flag_diff",
        "old": found.old,
        "new": found.new,
        "added": [_option_json(option) for option in found.added],
        "removed": [_option_json(option) for option in found.removed],
        "renamed": [{"old": r.old, "new": r.new} for r in found.renamed],
        "changed": [
            {"name": c.name, "part": c.part, "old": c.old, "new": c.new}
            for c in found.changed
        ],
        "deprecated": [option.name for option in found.deprecated],
        "uncertain": list(found.uncertain),
        "certain": not (found.uncertain or found.beyond),
    }


_SIGNS = {"error": "✖", "warning": "▲", "note": "·"}


@explain_command.command("trap", short_help="Explain a known issue of llama.cpp.")
@click.argument("trap", required=False, metavar="[ID]", shell_complete=suggest(traps))
@json_option
def explain_trap(trap: str | None, *, as_json: bool) -> None:
    """Explain a known issue of llama.cpp, or list them.

    `validate` and `plan` show those that a stack is in.

    \b
    Example:
      deployer explain trap
      deployer explain trap context-checkpoints
    """
    known = traps()
    if trap is not None and trap not in known:
        raise UsageError(
            f"there is no known issue `{shown(trap)}`",
            hint=did_you_mean(trap, known) or "`deployer explain trap` lists them",
        )
    if as_json:
        for one in [known[trap]] if trap is not None else known.values():
            json_result(_data(one))
    elif trap is not None:
        _explain(known[trap])
    else:
        _list_traps()


def _list_traps() -> None:
    for theme, group in themes().items():
        click.echo(theme)
        for trap in group:
            sign = _SIGNS[trap.severity.value]
            click.echo(f"  {sign} {trap.id:<26}  {trap.builds}")
    click.echo("✖ refused  ▲ warning  · note   `deployer explain trap ID` explains one")


def _explain(trap: Trap) -> None:
    click.echo(f"{trap.id}: {trap.severity} on {trap.builds}")
    by = [("known by", trap.evidence)] if trap.evidence else []
    for word, text in (
        *by,
        ("when", trap.when),
        ("happens", trap.what),
        ("write", trap.write),
        ("reference", trap.reference),
        ("ignore it", f"ignore: [{{trap: {trap.id}, reason: …}}]"),
    ):
        for line in wrapped(f"  {word:<10}  ", text):
            click.echo(line)


def _data(trap: Trap) -> dict[str, JsonValue]:
    return {
        "type": "trap",
        "id": trap.id,
        "severity": trap.severity.value,
        "since": trap.since or None,
        "until": trap.until if trap.until < NEWEST else None,
        "known_by": trap.evidence or None,
        "when": trap.when,
        "what": trap.what,
        "write": trap.write,
        "reference": trap.reference,
    }


@explain_command.command("gate", short_help="Explain a gate and its options.")
@click.argument("gate", required=False, metavar="[NAME]", shell_complete=suggest(GATES))
@json_option
def explain_gate(gate: str | None, *, as_json: bool) -> None:
    """Explain a gate and its options, or list the gates.

    \b
    Example:
      deployer explain gate
      deployer explain gate stream
    """
    from deployer.stack.fields.reference import entries  # noqa: PLC0415 - imports the model

    if gate is not None and gate not in GATES:
        raise UsageError(
            f"there is no gate `{shown(gate)}`",
            hint=did_you_mean(gate, GATES) or "`deployer explain gate` lists them",
        )
    every = [it for it in entries() if it.path.startswith("gates.")]
    for name in (gate,) if gate is not None else GATES:
        head = next(it for it in every if it.path == f"gates.{name}")
        below = f"{head.path}{head.listed}."
        options = [it for it in every if it.path.startswith(below)]
        if as_json:
            json_result(_gate_data(name, head, options))
        elif gate is None:
            for line in wrapped(f"  {name:<16} ", head.said):
                click.echo(line)
        else:
            for line in chain(wrapped("", f"{name}: {head.said}"), *map(_row, options)):
                click.echo(line)


def _row(option: "Entry") -> Iterator[str]:
    """One option of a gate, with its default."""
    unset = "required" if option.info.is_required() else f"unset: {option.unset}"
    text = option.said.rstrip(".")
    yield from wrapped(f"  {option.name:<16} ", f"{text} ({unset.replace('`', '')})")


def _gate_data(
    name: str, head: "Entry", options: "list[Entry]"
) -> dict[str, JsonValue]:
    return {
        "type": "gate",
        "name": name,
        "proves": head.said,
        "options": [
            {
                "name": it.name,
                "what": it.said,
                "required": it.info.is_required(),
                "unset": it.unset or None,
            }
            for it in options
        ],
    }


@explain_command.command("model", short_help="Explain a GGUF file by its header.")
@click.argument("named", metavar="FILE|URL|REPO[:QUANT]|STACK")
@click.option(
    "--sizes", is_flag=True, help="Read only up to the tokenizer: 4 KiB, one request."
)
@json_option
def explain_model(named: str, *, sizes: bool, as_json: bool) -> None:
    """Show what a model or projector is, from the header alone.

    A file of this machine, an address, a repository of the hub, or the weights of a
    stack.  Of a remote file of any size at most 16 MB are read.

    \b
    Example:
      deployer explain model models/gemma.gguf
      deployer explain model unsloth/gemma-3-270m-it-GGUF:Q4_K_M --json
    """
    from deployer.usecases.reading.inspect_model import look  # noqa: PLC0415 - only here

    found = look(named, settings_of(), sizes_only=sizes, say=unwatched)
    if as_json:
        for looked in found:
            json_result(_looked_json(looked))
        return
    for looked in found:
        for line in _looked_lines(looked):
            click.echo(printable(line))


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


_SIGN_OF_OUTCOME = {
    "apply": "✔",
    "applied": "✔",
    "upstream": "-",
    "not-applicable": "·",
    "conflict": "✖",
}


@explain_command.command("patch", short_help="Show what patches mean for builds.")
@click.argument("names", metavar="[NAME]…", nargs=-1)
@click.option(
    "--at",
    "tags",
    multiple=True,
    required=True,
    metavar="TAG",
    shell_complete=known_tags,
)
@click.option(
    "--source",
    type=click.Choice(["git", "pypi"]),
    default="git",
    show_default=True,
    help="Source of the trees.",
)
@json_option
def explain_patch(
    names: tuple[str, ...], tags: tuple[str, ...], source: "Source", *, as_json: bool
) -> None:
    """Try patches on the source of every TAG; nothing is changed.

    Without a NAME every patch of the project.  Exit 1 where one conflicts.

    \b
    Example:
      deployer explain patch --at b8672 --at b8746
    """
    from deployer.cli.progress_display import Show  # noqa: PLC0415 - only here
    from deployer.usecases.artefacts import patches_over_tags  # noqa: PLC0415 - as above

    folder = patches_folder(Path("stacks/stack.yaml"))
    with Show("deployer explain patch") as show:
        found = patches_over_tags(folder, names, tags, source, settings_of(), show)
    conflicts = 0
    for tag, verdicts in found.items():
        for verdict in verdicts:
            conflicts += verdict.outcome.value == "conflict"
            _print(tag, verdict, as_json=as_json)
    if conflicts:
        raise click.exceptions.Exit(1)


def _print(tag: str, verdict: "PatchVerdict", *, as_json: bool) -> None:
    outcome, patch = verdict.outcome, verdict.patch
    if as_json:
        json_result(
            {
                "type": "patch",
                "tag": tag,
                "patch": patch,
                "verdict": outcome.value,
                "evidence": verdict.evidence,
                "advice": verdict.advice,
            }
        )
        return
    sign = _SIGN_OF_OUTCOME[outcome.value]
    click.echo(f"{sign} {tag:<8} {patch:<24} {outcome.value:<15} {verdict.evidence}")
    if verdict.advice:
        click.echo(f"  {'':<33} {verdict.advice}")
    if verdict.conflict is not None:
        click.echo(verdict.conflict.text)
