"""fetch and store: artefacts by content."""

from collections.abc import Iterator
from pathlib import Path

import click

from deployer.cli.options import (
    engine_option,
    json_option,
    locked_option,
    stack_argument,
    stream_option,
    yes_option,
)
from deployer.cli.output import end, json_result, when
from deployer.cli.runs import showing
from deployer.engines.contract import RemoteStore
from deployer.engines.place import remote_store
from deployer.engines.registry import ENGINES, UNRECORDED
from deployer.errors import StoreError
from deployer.planning.resources import Kind
from deployer.stack.fields.values import JsonValue, show_bytes
from deployer.usecases.artefacts import (
    Garbage,
    Stored,
    collect,
    fetch,
    garbage,
    stored,
    unused_elsewhere,
    verified,
)
from deployer.usecases.context.gc_roots import forget as forget_states
from deployer.usecases.context.settings import Options, Settings, settings_of


@click.command("fetch", short_help="Fetch or build llama-server, fetch weights.")
@stack_argument
@engine_option
@locked_option
@click.option("--only", type=click.Choice(["build", "weights"]), help="One of the two.")
@click.option("--force", is_flag=True, help="Build again what is in the store.")
@stream_option
def fetch_command(
    stack: Path,
    engine: str | None,
    *,
    locked: bool,
    only: str | None,
    force: bool,
    as_json: bool,
) -> None:
    """Put the llama-server and the weights of a stack into the store.

    The same source, patches and options are built once; what compilers made is kept,
    so that another patch recompiles only what it touches.  Deploys nothing; an
    `apply` afterwards finds them there.

    \b
    Example:
      deployer fetch stacks/demo.yaml
      deployer fetch stacks/demo.yaml --only build --force
    """
    options = Options(engine=engine, locked=locked)
    wanted = tuple(it for it in (Kind.BUILD, Kind.WEIGHTS) if only in (None, it))
    with showing(f"deployer fetch {stack}", as_json=as_json) as show:
        done = fetch(stack, settings_of(), options, show, wanted, force=force)
        for role, made in done.items():
            path, version = str(made.get("path")), made.get("version")
            text = f"{role:<8} {path}" + (f"\n{'':<8} {version}" if version else "")
            show.result("fetched", text, role=role, path=path, version=version)


@click.group("store", short_help="List, verify and clean the artefact store.")
def store_command() -> None:
    """The content-addressed artefact store of this machine.

    \b
    Example:
      deployer store ls
    """


@store_command.command("ls")
@json_option
def store_ls(*, as_json: bool) -> None:
    """List builds and weights with size and age.

    \b
    Example:
      deployer store ls
    """
    entries, unreachable = stored(settings_of())
    if as_json:
        for entry in entries:
            json_result(
                {
                    "type": "artefact",
                    "kind": entry.kind,
                    "key": entry.key,
                    "size": entry.size,
                    "created": entry.created,
                    "what": entry.what,
                    "sound": entry.sound,
                    "used_by": list(entry.used_by),
                }
            )
        return
    for entry in entries:
        click.echo(_line(entry))
    total = sum(entry.size for entry in entries)
    word = "artefact" if len(entries) == 1 else "artefacts"
    click.echo(f"{len(entries)} {word}, {show_bytes(total)}")
    for it in unreachable:
        where = f"`{it.stack}` in `{it.place}`" if it.stack else f"`{it.place}`"
        click.echo(f"warning: what {where} needs is unknown: {it.why}", err=True)


@store_command.command("verify")
@json_option
def store_verify(*, as_json: bool) -> None:
    """Read every byte of every artefact, and compare with its manifest.

    \b
    Example:
      deployer store verify
    """
    wrong = 0
    for name, problems in verified(settings_of()).items():
        wrong += bool(problems)
        if as_json:
            about: list[JsonValue] = [*problems]
            json_result({"type": "verified", "name": name, "problems": about})
            continue
        click.echo(f"{'✖' if problems else '✔'} {name}")
        for problem in problems:
            click.echo(f"    {problem}")
    if wrong:
        raise StoreError(
            f"{wrong} of the artefacts are damaged",
            hint="the next `deployer apply` or `deployer fetch` makes them again",
        )


@store_command.command("gc")
@click.option(
    "--engine",
    type=click.Choice(tuple(ENGINES)),
    default=UNRECORDED,
    show_default=True,
    help="Whose store.",
)
@click.option("--environment", metavar="NAME", help="With modal: the environment.")
@click.option(
    "--forget",
    multiple=True,
    metavar="PLACE",
    help="First forget unreadable states at or below this folder or URL.",
)
@yes_option
@json_option
def store_gc(
    engine: str,
    environment: str | None,
    forget: tuple[str, ...],
    *,
    yes: bool,
    as_json: bool,
) -> None:
    """Remove what no live and no retained release needs; without --yes only list it.

    Files that a running process has open stay.  While a state that was seen here cannot
    be read or is missing, its needs are unknown: nothing is removed, and the exit code
    is 1.  For a project that is gone for good, use --forget.

    Run folders and logs of servers that no release needs, what compilers left for the
    next build, and finished downloads go with it.
    On Modal, that is folders of the Volume that no state of this machine names and no
    deployed app was made from.

    \b
    Example:
      deployer store gc --yes
      deployer store gc --forget ~/old-project --yes
      deployer store gc --engine modal --environment dev
    """
    settings = settings_of()
    for place in forget:
        for gone in forget_states(settings, place):
            click.echo(f"forgotten: the state in `{gone}`", err=as_json)
    if (
        elsewhere := remote_store(engine, settings.environment, environment)
    ) is not None:
        _gc_elsewhere(settings, elsewhere, yes=yes, as_json=as_json)
        return
    _gc_here(settings, yes=yes, as_json=as_json)


def _gc_here(settings: Settings, *, yes: bool, as_json: bool) -> None:
    found = garbage(settings)
    for line in () if as_json else (*map(_line, found.entries), *_logs(found)):
        click.echo(line)
    removed = collect(settings, found) if yes else found
    about: list[JsonValue] = [f"{it.kind} {it.key}" for it in removed.entries]
    end(
        f"removed {_counted(removed)}"
        if yes
        else f"{_counted(found)} would be removed: add `--yes`",
        as_json=as_json,
        kind="garbage",
        removed=yes,
        artefacts=about,
        runs=[*map(str, removed.runs)],
    )


def _logs(found: Garbage) -> Iterator[str]:
    return (f"logs     {run}" for run in found.runs)


def _counted(found: Garbage) -> str:
    size = show_bytes(sum(entry.size for entry in found.entries))
    artefacts = "artefact" if len(found.entries) == 1 else "artefacts"
    folders = "run folder" if len(found.runs) == 1 else "run folders"
    return f"{len(found.entries)} {artefacts}, {size}, {len(found.runs)} {folders}"


def _gc_elsewhere(
    settings: Settings, store: RemoteStore, *, yes: bool, as_json: bool
) -> None:
    left = unused_elsewhere(settings, store)
    for it in () if as_json else left:
        click.echo(f"{it.path}  {show_bytes(it.size)}")
    total = show_bytes(sum(it.size for it in left))
    if yes:
        store.remove(left)
    end(
        f"removed {len(left)}, {total}"
        if yes
        else f"{len(left)} would be removed, {total}: add `--yes`",
        as_json=as_json,
        kind="garbage",
        removed=yes,
        paths=[str(it.path) for it in left],
    )


def _line(entry: Stored) -> str:
    mark = "" if entry.sound else "  damaged: the next use makes it again"
    mark += f"  used by {', '.join(entry.used_by)}" if entry.used_by else ""
    size = show_bytes(entry.size) if entry.size else "referred"
    return (
        f"{entry.kind:<8} {entry.key[:12]}  {size:>9}  {when(entry.created)}"
        f"  {entry.what}{mark}"
    )
