"""flags: what a build of llama.cpp knows of options, and what two builds differ in."""

import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import click

from deployer.cli.options import (
    json_option,
    stack_argument,
)
from deployer.cli.output import json_head, json_line, wrapped
from deployer.diagnostics import diagnostic_lines
from deployer.engines.place import costs_of
from deployer.errors import UsageError
from deployer.llama.catalogue import Catalogue, Life, Option, catalogue, life_of
from deployer.llama.explain import Explanation, FlagDiff, Known, diff, explain
from deployer.llama.known.traps import NEWEST, Trap, markdown, themes, traps
from deployer.planning.progress import unwatched
from deployer.show.text import plan_text
from deployer.spelling import did_you_mean, nearest, one_of, shown
from deployer.stack.fields.values import JsonValue
from deployer.usecases.context.settings import Options, settings_of
from deployer.usecases.plan import plan
from deployer.usecases.upgrade import Upgrade, Wanted, upgrade, write

if TYPE_CHECKING:
    from deployer.usecases.artefacts import Described

_BUILD = re.compile(r"b?([0-9]{1,6})")
_WIDTH = 42
"""Columns for names and value; longer ones push the rest of their line."""


@click.command("flags")
@click.argument("tag", required=False)
@click.argument("name", required=False)
@click.option("--diff", "compare", is_flag=True, help="Compare two builds: OLD NEW.")
@click.option(
    "--from",
    "origin",
    metavar="PATH|BINARY|TAG",
    help="Read a tree, start a binary with --help, or fetch the source of a tag.",
)
@json_option
def flags_command(
    tag: str | None,
    name: str | None,
    *,
    compare: bool,
    origin: str | None,
    as_json: bool,
) -> None:
    """List the options of llama-server at a build, or explain one.

    TAG is a build of llama.cpp (`b10434`), NAME an option, with or without dashes.
    Nothing is fetched or started without `--from`: the catalogue is shipped with
    deployer.

    \b
    Example:
      deployer flags b10434
      deployer flags b10878 no-mmap
      deployer flags --diff b9763 b11434
      deployer flags --from ../llama.cpp moe-cache-mib
    """
    if origin is not None:
        if compare or name is not None:
            raise UsageError("`--from` takes no TAG and no `--diff`, only NAME")
        lines = _of_origin(origin, tag, as_json=as_json)
    elif tag is None:
        raise UsageError("no build is given", hint="write `deployer flags b11434`")
    else:
        lines = _of_table(tag, name, compare=compare, as_json=as_json)
    if as_json:
        json_head()
    for line in lines:
        if isinstance(line, str):
            click.echo(line)
        else:
            json_line(line)


_Lines: TypeAlias = Iterator[str] | Iterator[dict[str, JsonValue]]


def _of_table(tag: str, name: str | None, *, compare: bool, as_json: bool) -> _Lines:
    """The shipped table: a build, an option, or two builds."""
    build = _build(tag)
    if compare:
        if name is None:
            raise UsageError(
                "`--diff` compares two builds, got one",
                hint="write `deployer flags --diff b9763 b11434`",
            )
        found = diff(build, _build(name))
        return iter([_diff_json(found)]) if as_json else _diff_lines(found)
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
        hint=f"write it as `b10434`, or `deployer flags --from {tag[:60]}` to read its"
        " source",
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


@click.command("traps", short_help="List the known issues, or explain one.")
@click.argument("trap", required=False, metavar="[ID]")
@click.option("--markdown", "as_page", is_flag=True, help="Print them as Markdown.")
@json_option
def traps_command(trap: str | None, *, as_page: bool, as_json: bool) -> None:
    """List the known issues of llama.cpp, or explain one.

    `validate` and `plan` show those that a stack is in.

    \b
    Example:
      deployer traps
      deployer traps context-checkpoints
    """
    known = traps()
    if trap is not None and trap not in known:
        raise UsageError(
            f"there is no trap `{shown(trap)}`",
            hint=did_you_mean(trap, known) or "`deployer traps` lists them",
        )
    wanted = [known[trap]] if trap is not None else [*known.values()]
    if as_page:
        click.echo(markdown(), nl=False)
    elif as_json:
        json_head()
        for one in wanted:
            json_line(_data(one))
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
    click.echo("✖ refused  ▲ warning  · note   `deployer traps ID` explains one")


def _explain(trap: Trap) -> None:
    click.echo(f"{trap.id}: {trap.severity} on {trap.builds}")
    for word, text in (
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
        "when": trap.when,
        "what": trap.what,
        "write": trap.write,
        "reference": trap.reference,
    }


@click.command("upgrade", short_help="Show what another build means for a stack.")
@stack_argument
@click.option("--to", required=True, metavar="TAG", help="The build, or `latest`.")
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
    settings = settings_of()
    found = upgrade(stack, settings, Wanted(to, with_tree=tree), unwatched)
    if writes:
        write(found)
    if as_json:
        json_head()
        json_line(_data_of_upgrade(found, written=writes))
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
        click.echo("")
        planned = plan(stack, settings, Options())
        costs = costs_of(planned.plan)
        click.echo(plan_text(planned.plan, planned.places, costs=costs), nl=False)
        for line in diagnostic_lines(planned.prepared.notices):
            click.echo(line)


_MOST_LINES = 40
"""Lines of one topic; hundreds of pull requests lie between two builds."""


def _lines(found: Upgrade) -> Iterator[str]:
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


def _data_of_upgrade(found: Upgrade, *, written: bool) -> dict[str, JsonValue]:
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
