"""render: a stack as its engine would make it."""

import shlex
from pathlib import Path

import click

from deployer.cli.options import (
    engine_option,
    json_option,
    locked_option,
    stack_argument,
)
from deployer.cli.output import end, json_result
from deployer.engines.contract import Rendering
from deployer.show.client_configs import CLIENTS
from deployer.usecases.context.settings import Options, settings_of
from deployer.usecases.validate import rendered, write


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
@json_option
def render_command(
    stack: Path,
    engine: str | None,
    out: Path | None,
    client: str | None,
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
    `--client` names the API key by its variable.

    \b
    Example:
      deployer render stacks/prod.yaml --out rendered/
      deployer render stacks/prod.yaml --client codex
    """
    if client is not None:
        _print_client(stack, client, as_json=as_json)
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
