"""doctor: what is wrong, why, and what to do about it."""

import sys
import time
from collections.abc import Sequence
from pathlib import Path

import click

from deployer.cli.options import json_option, yes_option
from deployer.cli.output import (
    is_terminal,
    json_head,
    json_line,
    wrapped,
)
from deployer.errors import UsageError
from deployer.stack.fields.values import JsonValue
from deployer.system.regular_files import read_regular
from deployer.usecases.context.settings import settings_of
from deployer.usecases.context.stack_files import stack_files
from deployer.usecases.doctor.examine import Asked, Log, examine
from deployer.usecases.doctor.finding import Finding, Grade

_SIGNS = {Grade.FINE: "✔", Grade.NOTE: "·", Grade.WARNING: "▲", Grade.ERROR: "✖"}
_AREA = 8


_LARGEST_LOG = 256 << 20
"""Bytes that are read of a log."""


@click.command("doctor", short_help="Say what is wrong, why, and what to do.")
@click.argument("path", type=click.Path(path_type=Path), required=False)
@click.option("--logs", metavar="FILE", help="Read this log; `-` is stdin.")
@click.option("--url", metavar="URL", help="Ask this server instead of the live one.")
@click.option("--fix", "fixes", is_flag=True, help="Do what is safe, after asking.")
@yes_option
@click.option("--runbook", is_flag=True, help="Print docs/runbook.md.")
@json_option
def doctor_command(
    path: Path | None,
    logs: str | None,
    url: str | None,
    *,
    fixes: bool,
    yes: bool,
    runbook: bool,
    as_json: bool,
) -> None:
    """Look at a stack, this machine, its server and its log for known trouble.

    Each finding has a cause and a fix.  Exits 1 if something is an error.

    \b
    Example:
      deployer doctor stacks/prod.yaml
      deployer doctor --logs server.log
      deployer doctor stacks/prod.yaml --fix
    """
    if runbook:
        _print_runbook()
        return
    asked = _asked(path, url, logs)
    found = tuple(examine(asked, settings_of(), now=time.time()))
    if as_json:
        json_head()
        for finding in found:
            json_line(_data(finding))
    else:
        _show(found)
    if fixes and _fix(found, yes=yes, as_json=as_json):
        found = tuple(examine(asked, settings_of(), now=time.time()))
        if not as_json:
            click.echo("\nlooked at again:")
            _show([f for f in found if f.grade is not Grade.FINE])
    if any(finding.grade is Grade.ERROR for finding in found):
        raise click.exceptions.Exit(1)


def _print_runbook() -> None:
    from deployer.llama.known.runbook import markdown  # noqa: PLC0415 - only here

    click.echo(markdown(), nl=False)


def _asked(path: Path | None, url: str | None, logs: str | None) -> Asked:
    """What is to be looked at; a folder stands for the stacks in it."""
    files = () if path is None else stack_files((path,))
    if path is not None and not files:
        hint = "stack files end in `.yaml`"
        raise UsageError(f"no stack file in `{path}`", hint=hint)
    return Asked(files, url, None if logs is None else _log(logs))


def _log(name: str) -> Log:
    if name == "-":
        return Log("stdin", tuple(sys.stdin.read().splitlines()))
    content = read_regular(Path(name), _LARGEST_LOG)
    return Log(name, tuple(content.decode("utf-8", errors="replace").splitlines()))


def _show(found: Sequence[Finding]) -> None:
    for finding in found:
        head = f"  {_SIGNS[finding.grade]} {finding.area:<{_AREA}}"
        name = f" [{finding.id}]" if finding.id else ""
        for line in wrapped(head, f"{finding.what}{name}"):
            click.echo(line)
        if finding.fix:
            for line in wrapped(f"{'':{_AREA + 4}}fix: ", finding.fix):
                click.echo(line)
    counts = [
        f"{count} {grade.value}{'s' if count > 1 else ''}"
        for grade in (Grade.ERROR, Grade.WARNING, Grade.NOTE)
        if (count := sum(f.grade is grade for f in found))
    ]
    click.echo(", ".join(counts) or "nothing is wrong")


def _fix(found: Sequence[Finding], *, yes: bool, as_json: bool) -> bool:
    """Show what would be done, ask, and do it; whether something was done."""
    remedies = [finding.remedy for finding in found if finding.remedy is not None]
    if not remedies:
        click.echo("nothing that could safely be fixed", err=as_json)
        return False
    click.echo("\nwould do:", err=as_json)
    for remedy in remedies:
        click.echo(f"  - {remedy.says}", err=as_json)
    if not yes:
        if not is_terminal():
            raise UsageError("nobody can be asked here", hint="add `--yes` to do it")
        click.confirm("Do it?", abort=True)
    for remedy in remedies:
        remedy.do()
        click.echo(f"  ✔ {remedy.says}", err=as_json)
    return True


def _data(finding: Finding) -> dict[str, JsonValue]:
    return {
        "type": "finding",
        "area": finding.area,
        "grade": finding.grade.value,
        "id": finding.id or None,
        "what": finding.what,
        "fix": finding.fix,
        "remedy": finding.remedy.says if finding.remedy is not None else None,
    }
