"""fetch and store: artefacts by content."""

from pathlib import Path

import click

from deployer.cli.options import (
    engine_option,
    json_option,
    locked_option,
    stack_argument,
    yes_option,
)
from deployer.cli.output import json_head, json_line, when
from deployer.cli.progress_display import Show
from deployer.engines.contract import RemoteStore
from deployer.engines.place import remote_store
from deployer.engines.registry import ENGINES, UNRECORDED
from deployer.errors import StoreError
from deployer.llama.build.trees import Source
from deployer.llama.patches import Outcome, PatchVerdict
from deployer.stack.fields.values import show_bytes
from deployer.usecases.artefacts import (
    Garbage,
    Stored,
    build,
    collect,
    fetch,
    garbage,
    patches_over_tags,
    stored,
    unused_elsewhere,
    verified,
)
from deployer.usecases.context.gc_roots import forget as forget_states
from deployer.usecases.context.settings import (
    Options,
    Settings,
    patches_folder,
    settings_of,
)


@click.command("fetch", short_help="Fetch llama-server and weights into the store.")
@stack_argument
@engine_option
@locked_option
def fetch_command(stack: Path, engine: str | None, *, locked: bool) -> None:
    """Put the llama-server and the weights of a stack into the store.

    Deploys nothing; an `apply` afterwards finds them there.

    \b
    Example:
      deployer fetch stacks/demo.yaml
    """
    with Show(f"deployer fetch {stack}") as show:
        done = fetch(stack, settings_of(), engine, show, locked=locked)
    for kind, path in done.items():
        click.echo(f"{kind:<8} {path}")


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
        json_head()
        for entry in entries:
            json_line(
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
def store_verify() -> None:
    """Read every byte of every artefact, and compare with its manifest.

    \b
    Example:
      deployer store verify
    """
    wrong = 0
    for name, problems in verified(settings_of()).items():
        click.echo(f"{'✖' if problems else '✔'} {name}")
        for problem in problems:
            click.echo(f"    {problem}")
        wrong += bool(problems)
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
def store_gc(
    engine: str, environment: str | None, forget: tuple[str, ...], *, yes: bool
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
            click.echo(f"forgotten: the state in `{gone}`")
    if (
        elsewhere := remote_store(engine, settings.environment, environment)
    ) is not None:
        _gc_elsewhere(settings, elsewhere, yes=yes)
        return
    found = garbage(settings)
    for entry in found.entries:
        click.echo(_line(entry))
    for run in found.runs:
        click.echo(f"logs     {run}")
    if yes:
        click.echo(f"removed {_counted(collect(settings, found))}")
    else:
        click.echo(f"{_counted(found)} would be removed: add `--yes`")


def _counted(found: Garbage) -> str:
    size = show_bytes(sum(entry.size for entry in found.entries))
    artefacts = "artefact" if len(found.entries) == 1 else "artefacts"
    folders = "run folder" if len(found.runs) == 1 else "run folders"
    return f"{len(found.entries)} {artefacts}, {size}, {len(found.runs)} {folders}"


def _gc_elsewhere(settings: Settings, store: RemoteStore, *, yes: bool) -> None:
    left = unused_elsewhere(settings, store)
    for it in left:
        click.echo(f"{it.path}  {show_bytes(it.size)}")
    total = show_bytes(sum(it.size for it in left))
    if yes:
        store.remove(left)
        click.echo(f"removed {len(left)}, {total}")
    else:
        click.echo(f"{len(left)} would be removed, {total}: add `--yes`")


def _line(entry: Stored) -> str:
    mark = "" if entry.sound else "  damaged: the next use makes it again"
    mark += f"  used by {', '.join(entry.used_by)}" if entry.used_by else ""
    size = show_bytes(entry.size) if entry.size else "referred"
    return (
        f"{entry.kind:<8} {entry.key[:12]}  {size:>9}  {when(entry.created)}"
        f"  {entry.what}{mark}"
    )


_SIGNS = {
    Outcome.APPLY: "✔",
    Outcome.APPLIED: "✔",
    Outcome.UPSTREAM: "-",
    Outcome.NOT_APPLICABLE: "·",
    Outcome.CONFLICT: "✖",
}


@click.command("build", short_help="Build or fetch the llama-server of a stack.")
@stack_argument
@engine_option
@locked_option
@click.option("--force", is_flag=True, help="Build again what is in the store.")
def build_command(
    stack: Path, engine: str | None, *, locked: bool, force: bool
) -> None:
    """Put the llama-server of a stack into the store: built, fetched or copied.

    The same source, patches and options are built once; what compilers made is kept,
    so that another patch recompiles only what it touches.

    \b
    Example:
      deployer build stacks/prod.yaml
    """
    options = Options(engine=engine, locked=locked)
    with Show(f"deployer build {stack}") as show:
        done = build(stack, settings_of(), options, show, force=force)
    click.echo(f"{done.path}\n  {done.version}")


@click.group("patches")
def patches_command() -> None:
    """Check patches to llama.cpp against builds.

    \b
    Example:
      deployer patches check --tag b8672
    """


@patches_command.command("check")
@click.option("--tag", "tags", multiple=True, required=True, metavar="TAG")
@click.option("--patch", "names", multiple=True, metavar="NAME", help="Only this one.")
@click.option(
    "--source",
    type=click.Choice(["git", "pypi"]),
    default="git",
    show_default=True,
    help="Source of the trees.",
)
@json_option
def patches_check(
    tags: tuple[str, ...], names: tuple[str, ...], source: Source, *, as_json: bool
) -> None:
    """Try every patch on the source of every TAG; nothing is changed.

    \b
    Example:
      deployer patches check --tag b8672 --tag b8746
    """
    folder = patches_folder(Path("stacks/stack.yaml"))
    with Show("deployer patches check") as show:
        found = patches_over_tags(folder, names, tags, source, settings_of(), show)
    if as_json:
        json_head()
    conflicts = 0
    for tag, verdicts in found.items():
        for verdict in verdicts:
            conflicts += verdict.outcome is Outcome.CONFLICT
            _print(tag, verdict, as_json=as_json)
    if conflicts:
        raise click.exceptions.Exit(1)


def _print(tag: str, verdict: PatchVerdict, *, as_json: bool) -> None:
    outcome, patch = verdict.outcome, verdict.patch
    if as_json:
        json_line(
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
    sign = _SIGNS[outcome]
    click.echo(f"{sign} {tag:<8} {patch:<24} {outcome.value:<15} {verdict.evidence}")
    if verdict.advice:
        click.echo(f"  {'':<33} {verdict.advice}")
    if verdict.conflict is not None:
        click.echo(verdict.conflict.text)
