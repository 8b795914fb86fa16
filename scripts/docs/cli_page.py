"""The reference of the command line: every command with its options and example."""

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Final

import click

from deployer.cli.main import SECTIONS, main

HEAD: Final = """\
# Command line

<!-- Written by `python -m scripts.docs.write`. -->

Every command of `deployer`, as `--help` shows it.
Commands that read or act take `--json`: [one JSON object](../plan-json.md), or a [stream of lines](../events.md) where `--help` says so.
Nothing asks a question without a terminal.
Where one stack is meant, a folder with a single one will do, and without a name the only one here is taken.

Every command takes these, before or behind its name:

| Option | Does |
|---|---|
| `--color auto\\|always\\|never` | colour the output; `NO_COLOR` and `FORCE_COLOR` say the same |
| `-q`, `--quiet` | print results and errors only |
| `-v`, `--verbose` | name every gate of a plan |
| `--debug` | show the traceback of an error; so does `DEPLOYER_DEBUG=1` |

These names of other tools work as well: `up` (apply), `preview` (plan), `down` (destroy), `refresh` (drift), `start`, `stop` and `restart` (server).

## Exit codes

| Code | Means |
|---|---|
| 0 | done, or nothing to do |
| 1 | error |
| 2 | changes are present (only with `--detailed-exitcode`) |
| 3 | wrong call, or a wrong stack |
| 4 | authentication |
| 5 | the lock is held by another run, or the stack is on hold |
| 6 | a gate failed, was inconclusive or not measured (the error names which), and nothing was promoted; or a probe of `watch` breached a limit |
| 7 | the saved plan is stale, or more would change than was approved |
| 8 | cancelled |
| 9 | out of time |
| 10 | a stack was never applied (only `drift --detailed-exitcode`) |
| 70 | a defect of deployer |
"""


def pages() -> Mapping[str, Callable[[], str]]:
    """Return the first page, and one for each command."""
    names = (name for names in SECTIONS.values() for name in names)
    commands = {f"reference/cli/{name}.md": partial(_page, name) for name in names}
    return {"reference/cli.md": _first, **commands}


def nav() -> Iterator[str]:
    """Yield the lines of the nav, in the groups of `deployer --help`."""
    for group, names in SECTIONS.items():
        yield f"          - {group}:"
        yield from (
            f"              - {name}: reference/cli/{name}.md" for name in names
        )


def calls() -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command with the words that call it; groups stand before what is in them."""
    context = click.Context(main)
    for name in main.list_commands(context):
        command = main.get_command(context, name)
        if command is None:
            continue
        yield (name,), command
        if isinstance(command, click.Group):
            yield from (((name, below), c) for below, c in command.commands.items())


def _first() -> str:
    lines = [HEAD.rstrip("\n")]
    for group, names in SECTIONS.items():
        lines += ("", f"## {group}", "", "| Command | Does |", "|---|---|")
        for name, (_, said) in names.items():
            lines.append(_row(f"[{name}](cli/{name}.md)", said))
    return "\n".join(lines) + "\n"


def _page(name: str) -> str:
    """Return the page of a command, and of those below it."""
    lines: list[str] = []
    for words, command in calls():
        if words[0] != name:
            continue
        lines += [f"{'#' * len(words)} deployer {' '.join(words)}", ""]
        if len(words) == 1:
            lines += ["<!-- Written by `python -m scripts.docs.write`. -->", ""]
        text, example = _parts(command)
        lines += [text, "", "```console", *example, "```"]
        lines += ["", "```text", _usage(words, command), "```", ""]
        if options := list(_options(command)):
            lines += ["| Option | Does |", "|---|---|", *options, ""]
    return "\n".join(lines)


def _parts(command: click.Command) -> tuple[str, list[str]]:
    """The sentences of a help text, and the lines of its example."""
    text = inspect.cleandoc(command.help or "")
    about, _, example = text.partition("\b\nExample:\n")
    lines = [line.strip() for line in example.strip().splitlines()]
    sentences = about.replace("\b\n", "").strip()
    return sentences, [f"$ {line}" for line in lines]


def _usage(words: tuple[str, ...], command: click.Command) -> str:
    context = click.Context(command, info_name=f"deployer {' '.join(words)}")
    pieces = command.collect_usage_pieces(context)
    return " ".join((f"deployer {' '.join(words)}", *pieces))


def _options(command: click.Command) -> Iterator[str]:
    """One row an option, without `--help`, which all have."""
    context = click.Context(command)
    for option in command.get_params(context):
        record = option.get_help_record(context)
        if record is None or option.param_type_name != "option":
            continue
        if "--help" in option.opts:
            continue
        names, text = (re.sub(r"\s+", " ", part).strip() for part in record)
        # A bar in code ends a cell on the site, and a backslash before it is shown.
        choices = names.replace("|", ", ")
        yield _row(f"`{choices}`", text)


def _row(names: str, text: str) -> str:
    cells = (names, text)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
