"""The reference of the command line: every command with its options and example."""

import inspect
import re
from collections.abc import Iterator
from typing import Final

import click

from deployer.cli.main import main

HEAD: Final = """\
# Command line

<!-- Written by `python -m scripts.docs.write`. -->

Every command of `deployer`, as `--help` shows it.
Commands that read take `--json`; nothing asks a question without a terminal.
`deployer --debug COMMAND …` shows the traceback of an error, and so does `DEPLOYER_DEBUG=1`.

## Exit codes

| Code | Means |
|---|---|
| 0 | done, or nothing to do |
| 1 | error |
| 2 | changes are present (only with `--detailed-exitcode`) |
| 3 | wrong call, or a wrong stack |
| 4 | authentication |
| 5 | the lock is held by another run |
| 6 | a gate failed, and nothing was promoted; or a probe of `watch` breached a limit |
| 7 | the saved plan is stale |
| 8 | cancelled |
| 9 | out of time |
| 70 | a defect of deployer |
"""


def page() -> str:
    """The whole page, as it is committed."""
    return "\n".join((HEAD.rstrip("\n"), *_commands())) + "\n"


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


def _commands() -> Iterator[str]:
    for words, command in calls():
        yield from ("", f"{'#' * (len(words) + 1)} deployer {' '.join(words)}", "")
        text, example = _parts(command)
        yield text
        yield from ("", "```text", _usage(words, command), "```")
        if options := list(_options(command)):
            yield from ("", "| Option | Does |", "|---|---|", *options)
        yield from ("", "```console", *example, "```")


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
        yield _row(names, text)


def _row(names: str, text: str) -> str:
    cells = (f"`{names}`", text)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
