"""fetch and store: artefacts by content."""

from pathlib import Path

import click

from deployer.app.artefacts import Stored, fetch, stored
from deployer.app.settings import settings_of
from deployer.cli.options import (
    engine_option,
    json_option,
    locked_option,
    stack_argument,
)
from deployer.cli.output import json_head, json_line, when
from deployer.cli.show import Show
from deployer.core.units import show_bytes


@click.command("fetch", short_help="Put llama-server and weights into the store.")
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


@click.group("store", short_help="The artefact store of this machine.")
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
    entries = stored(settings_of())
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
                }
            )
        return
    for entry in entries:
        click.echo(_line(entry))
    total = sum(entry.size for entry in entries)
    word = "artefact" if len(entries) == 1 else "artefacts"
    click.echo(f"{len(entries)} {word}, {show_bytes(total)}")


def _line(entry: Stored) -> str:
    mark = "" if entry.sound else "  damaged: the next use makes it again"
    size = show_bytes(entry.size) if entry.size else "referred"
    return (
        f"{entry.kind:<8} {entry.key[:12]}  {size:>9}  {when(entry.created)}"
        f"  {entry.what}{mark}"
    )
