"""init, adopt, and what editors and shells call: schema, lsp, completion."""

import os
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from deployer import install_command
from deployer.cli.options import json_option, known_tags, suggest, yes_option
from deployer.cli.output import json_result, wrapped
from deployer.diagnostics import diagnostic_data
from deployer.engines.registry import templates
from deployer.errors import DeployerError, UsageError
from deployer.planning.events import Talk
from deployer.show.text import printable
from deployer.stack.fields.values import JsonValue
from deployer.stack.project_root import ALLOW_OUTSIDE, root_of, trust
from deployer.system.files import as_the_user
from deployer.usecases.adopt import (
    Adoption,
    Wanted,
    adopt,
    sources,
    start_project,
    write_adopted,
)
from deployer.usecases.context.settings import Settings, settings_of

if TYPE_CHECKING:
    from deployer.engines.local.supervise.find import Started


def _file(
    _context: click.Context, _option: click.Parameter, named: str | None
) -> Path | None:
    return None if named is None else Path(named).expanduser()


@click.command("init", short_help="Write a stack file to start from.")
@click.argument("path", default="", callback=_file, metavar="[PATH]")
@click.option(
    "--template",
    metavar="NAME",
    default="",
    shell_complete=suggest(templates),
    help=f"Stack to start from: {', '.join(templates())}.",
)
@click.option("--model", callback=_file, metavar="FILE", help="A GGUF file you have.")
@click.option(
    "--from-hub", "repo", default="", metavar="REPO[:QUANT]", help="A model of the hub."
)
@yes_option
@json_option
def init_command(
    path: Path,
    template: str,
    model: Path | None,
    repo: str,
    *,
    yes: bool,
    as_json: bool,
) -> None:
    """Write a stack file to start from, with .env.example and .gitignore lines.

    Without options a small demo model; at a terminal it asks.  Files outside of the
    project are read once you trust their folders for this project, as it asks.
    `deployer adopt` starts from a llama-server, or from what starts one.

    \b
    Example:
      deployer init --model ~/m.gguf
      deployer init --from-hub unsloth/gemma-3-270m-it-GGUF:Q4_K_M
      deployer init stacks/prod.yaml --template modal
    """
    if model is not None and repo:
        raise UsageError("give `--model` or `--from-hub`, one of the two")
    wanted = Wanted(path, template, model, repo)
    if not (template or model or repo or yes or as_json) and _is_terminal():
        wanted = _asked(wanted)
    if wanted.path == Path():
        wanted = replace(wanted, path=_default_path(wanted))
    written = []
    with as_the_user():
        for file in start_project(wanted):
            written.append(str(file))
            if not as_json:
                click.echo(f"wrote {file}")
    trusted = _trust(wanted.path, wanted.outside, yes=yes)
    if as_json:
        json_result({"type": "init", "files": [*written], "trusted": [*trusted]})
    else:
        _print_next(wanted.path)


def _print_next(path: Path) -> None:
    """Print what to type from here on, the key first where there is none."""
    env = path.with_name(".env")
    click.echo("\nnext:")
    if not os.environ.get("LLAMA_API_KEY") and not env.exists():
        key = f"LLAMA_API_KEY=$(openssl rand -hex 16) > {shlex.quote(str(env))}"
        click.echo(f"  (umask 077; echo {key})")
    for command in ("plan", "apply"):
        click.echo(f"  deployer {command} {shlex.quote(str(path))}")


def _is_terminal() -> bool:
    return sys.stdin.isatty() and sys.stdout.isatty()


def _default_path(wanted: Wanted) -> Path:
    """Return `stacks/NAME.yaml`, by what it serves."""
    of_hub = wanted.repo.partition(":")[0].rpartition("/")[2]
    name = wanted.model.stem if wanted.model else of_hub or wanted.template or "demo"
    kept = "".join(c if c.isalnum() else "-" for c in name.lower()).strip("-")
    return Path("stacks") / f"{kept[:40].strip('-') or 'demo'}.yaml"


def _asked(wanted: Wanted) -> Wanted:
    """Ask what to start from."""
    there = templates()
    for name, template in there.items():
        click.echo(f"  {name:<6} {template.purpose}")
    kind = click.Choice([*there])
    name = click.prompt("Start from", type=kind, default="demo", show_choices=False)
    if not there[name].of_files:
        return replace(wanted, template=name)
    model = click.prompt("GGUF file, or owner/name:QUANT of the hub")
    return replace(
        wanted,
        model=Path(model).expanduser() if Path(model).expanduser().exists() else None,
        repo="" if Path(model).expanduser().exists() else model,
    )


def _trust(path: Path, folders: tuple[Path, ...], *, yes: bool) -> tuple[str, ...]:
    """Ask once whether stacks of this project may read files outside of it."""
    settings = settings_of()
    allowed = settings.allowed(path)
    folders = tuple(
        it for it in folders if not any(it.is_relative_to(a) for a in allowed)
    )
    if not folders:
        return ()
    names = tuple(map(str, folders))
    shown = " and ".join(f"`{name}`" for name in names)
    project = root_of(path)
    question = f"May the stacks of {project} read {shown}, outside of the project?"
    if not yes and not (_is_terminal() and click.confirm(question, default=True)):
        hint = f"export {ALLOW_OUTSIDE}={shlex.quote(os.pathsep.join(names))}"
        click.echo(f"not trusted: {shown}; to allow it: `{hint}`", err=True)
        return ()
    trust(settings.home, project, folders)
    click.echo(f"trusted for {project}: {shown}", err=True)
    return names


@click.command("adopt", short_help="Write stacks from what starts llama-server now.")
@click.argument("source", nargs=-1, metavar="[FILE | -- llama-server …]")
@click.option(
    "--out",
    "into",
    default="stacks",
    show_default=True,
    type=click.Path(path_type=Path),
    help="Folder of the stacks, or the file of a single one.",
)
@click.option(
    "--build",
    "tag",
    default="",
    metavar="TAG",
    shell_complete=known_tags,
    help="The build of llama.cpp, where nothing says it.",
)
@click.option(
    "--server",
    callback=_file,
    metavar="FILE",
    help="The llama-server to run, as it is.",
)
@click.option("--pid", type=int, metavar="N", help="Take over this process.")
@click.option("--url", default="", help="Take over the process that listens here.")
@yes_option
@json_option
def adopt_command(  # noqa: PLR0913 - one parameter an option
    source: tuple[str, ...],
    into: Path,
    tag: str,
    server: Path | None,
    pid: int | None,
    url: str,
    *,
    yes: bool,
    as_json: bool,
) -> None:
    """Write stacks from a command line, a file that starts llama-server, or a process.

    FILE is a script, a compose file, a Kubernetes manifest, a llama-swap configuration,
    presets (`--models-preset`), a systemd unit, a Modelfile of Ollama, or the listing
    `/models` of a router.  Comments say where each value came from.  What a stack
    cannot say is named with the reason; keys become references and are never written.
    A process becomes release 1 of its stack, and serves on.

    \b
    Example:
      deployer adopt compose.yaml
      deployer adopt -- llama-server -m ~/m.gguf -c 8192 -ngl 99
      deployer adopt --pid 4711 --out stacks/chat.yaml
    """
    from deployer.usecases.states import running  # noqa: PLC0415 - imports the model

    if sum(map(bool, (source, pid is not None, url))) != 1:
        raise UsageError(
            "give one thing to adopt: a file, `-- llama-server …`, `--pid` or `--url`"
        )
    settings, found = settings_of(), None
    if source:
        launches, program = sources(source, settings)
    else:
        launch, found = running(pid, url)
        launches, program = (launch,), found.program
    for made in adopt(launches, into, settings, tag=tag, server=server or program):
        _adopt(made, found, settings, yes=yes, as_json=as_json)


def _adopt(
    made: Adoption,
    found: "Started | None",
    settings: Settings,
    *,
    yes: bool,
    as_json: bool,
) -> None:
    """Write a stack, take over the process that it was made from, and report."""
    from deployer.usecases.states import (  # noqa: PLC0415 - only here
        adopt_process,
        refuse_unlike,
    )

    if found is not None:
        refuse_unlike(made, found)
    with as_the_user():
        files = [str(file) for file in write_adopted(made)]
    trusted = _trust(made.path, made.outside, yes=yes)
    if not as_json:
        _print_adopted(made, files)
    stack = shlex.quote(str(made.path))
    if found is not None:
        try:
            adopt_process(made, found, settings, _say)
        except DeployerError:
            made.path.unlink(missing_ok=True)  # nothing has changed
            raise
        if not as_json:
            check = f"`deployer check {stack}` asks it"
            click.echo(f"pid {found.pid} is release 1, which no gate saw: {check}")
    if as_json:
        taken = found is not None
        json_result(_adopted_data(made, files, trusted, taken=taken))
    else:
        click.echo(f"next: deployer plan {stack}")


def _say(event: object) -> None:
    """Say what a run does on stderr, where stdout has the result."""
    if isinstance(event, Talk):
        click.echo(printable(f"{event.about}: {event.text}"), err=True)


def _print_adopted(made: Adoption, files: list[str]) -> None:
    for file in files:
        click.echo(f"wrote {file}")
    count = f"{made.carried} of {made.options} options"
    click.echo(f"  {'carried':<9}{count}, written for {made.tag}")
    for left in made.left:
        origin = f", {left.origin}" if left.origin else ""
        _print_row("left out", f"{printable(left.what)}{origin}: {left.reason}")
    for note in made.notes:
        _print_row("note", note)
    for problem in made.problems:
        hint = f" ({problem.hint})" if problem.hint else ""
        _print_row("to do", f"`{problem.path}`: {problem.what}{hint}")


def _print_row(word: str, text: str) -> None:
    for line in wrapped(f"  {word:<9}", printable(text)):
        click.echo(line)


def _adopted_data(
    made: Adoption, files: list[str], trusted: tuple[str, ...], *, taken: bool
) -> dict[str, JsonValue]:
    return {
        "type": "adopted",
        "stack": str(made.path),
        "files": [*files],
        "trusted": [*trusted],
        "tag": made.tag,
        "taken_over": taken,
        "options": made.options,
        "carried": made.carried,
        "left": [dict(it._asdict()) for it in made.left],
        "notes": [*made.notes],
        "problems": [diagnostic_data(it) for it in made.problems],
    }


@click.command("schema", short_help="Print a JSON schema: of stacks, or of events.")
@click.argument("of", type=click.Choice(["stack", "events"]), default="stack")
def schema_command(of: str) -> None:
    """Print a JSON schema: of stack files, for editors, or of `apply --json`.

    \b
    Example:
      deployer schema > schema/stack.schema.json
      deployer schema events
    """
    from deployer.show.data import schema_text  # noqa: PLC0415 - imports the model
    from deployer.stack.fields.reference import published_schema  # noqa: PLC0415 - as above

    text = published_schema() if of == "stack" else schema_text()
    click.echo(text, nl=False)


@click.command("lsp", short_help="Answer an editor, by the Language Server Protocol.")
def lsp_command() -> None:
    """Answer an editor on stdin and stdout: problems, hover and completion of stacks.

    It speaks the Language Server Protocol and ends when the editor does.  Needs
    the extra `editor`.

    \b
    Example:
      deployer lsp
    """
    try:
        from deployer.cli.language_server import serve  # noqa: PLC0415 - slow, and only here
    except ModuleNotFoundError as error:
        raise UsageError(
            f"the package `{error.name}` is not installed",
            hint=f"run `{install_command('editor')}`",
        ) from None
    serve()


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion_command(shell: str) -> None:
    """Print the completion script of a shell.

    \b
    Example:
      deployer completion bash >> ~/.bashrc
    """
    from click.shell_completion import (  # noqa: PLC0415 - rare
        ShellComplete,
        get_completion_class,
    )

    from deployer.cli.main import main  # noqa: PLC0415 - main imports this module

    found = get_completion_class(shell)
    if found is None:
        raise UsageError(f"no completion for `{shell}`")
    script = found(main, {}, "deployer", "_DEPLOYER_COMPLETE")
    # Not its own `source`: that of bash looks for a `bash` on PATH, and starts it.
    click.echo(ShellComplete.source(script))
