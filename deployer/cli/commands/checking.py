"""check: gates against a running server."""

import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, Unpack

import click

from deployer import __version__, version_line
from deployer.cli.options import all_stacks, json_option, suggest, the_stack, yes_option
from deployer.cli.output import (
    json_result,
    refuse_without_terminal,
    width,
    wrapped,
)
from deployer.cli.progress_display import Show
from deployer.diagnostics import Diagnostic, Severity
from deployer.errors import DeployerError, GateError, UsageError
from deployer.gates import GATES
from deployer.gates.harness.runner import GateEvent, Waiting
from deployer.planning.events import AtWork, all_let_pass, blocking, summary
from deployer.spelling import harmless
from deployer.stack.fields.values import JsonValue
from deployer.system.files import read_regular
from deployer.usecases.check import Checked, Checking, check, check_url
from deployer.usecases.context.settings import settings_of
from deployer.usecases.context.stack_files import stack_files
from deployer.usecases.doctor import Asked, Fixable, Log, examine

if TYPE_CHECKING:
    from deployer.usecases.upgrade import Looked


class _Asked(TypedDict):
    """The options that are handed on as they are."""

    gates: tuple[str, ...]
    jobs: int | None
    repeat: int
    fail_fast: bool
    model: str | None


@click.command("check", short_help="Run gates against a running server.")
@click.argument("stack", type=click.Path(path_type=Path), required=False)
@click.option(
    "--gate",
    "gates",
    multiple=True,
    metavar="NAME",
    shell_complete=suggest(GATES),
    help="Only this gate.",
)
@click.option("--url", metavar="URL", help="Check any llama-server instead of a stack.")
@click.option(
    "--api-key-env",
    metavar="NAME",
    help="With --url: environment variable that contains the key.",
)
@click.option("--model", metavar="NAME", help="With --url: this model of a router.")
@click.option(
    "--repeat",
    type=click.IntRange(min=1),
    default=1,
    metavar="N",
    help="Run each gate N times; the worst outcome counts.",
)
@click.option("--fail-fast", is_flag=True, help="Stop after the first gate that fails.")
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    metavar="N",
    help="Gates to run at once, at most one per slot of the server.",
)
@click.option(
    "--report",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="FOLDER",
    help="Write report.html, report.json and junit.xml there.",
)
@json_option
def check_command(
    stack: Path | None,
    url: str | None,
    api_key_env: str | None,
    *,
    report: Path | None,
    as_json: bool,
    **checking: Unpack[_Asked],
) -> None:
    """Run gates against what is live, or against any llama-server.

    \b
    Example:
      deployer check stacks/demo.yaml --gate chat --repeat 5
      deployer check --url http://127.0.0.1:8080 --report out
    """
    if stack is None and url is None:
        stack = the_stack()
    elif stack is not None and url is not None:
        raise UsageError(
            "give a stack or `--url`, one of the two",
            hint="deployer check stacks/demo.yaml",
        )
    settings = settings_of()
    named = f"--url {url}" if stack is None else f"{stack}"
    with Show(f"deployer check {named}") as show:
        tell = partial(_tell, show)
        if url is not None:
            done = check_url(url, api_key_env, settings, Checking(**checking), tell)
        else:
            done = check(Path(stack or ""), settings, Checking(**checking), tell)
    _print(done, as_json=as_json)
    if report is not None:
        _write(done, report)
    if not all_let_pass(done.verdicts):
        raise _not_passed(done, keyless=url is not None and api_key_env is None)


def _not_passed(done: Checked, *, keyless: bool) -> GateError:
    """Return the error of a server that does not pass."""
    held = [verdict for verdict in done.verdicts if verdict.blocks]
    if not any(verdict.applicable for verdict in held):
        lacking = "; ".join(f"`{v.gate}`: {v.because}" for v in held)
        return GateError(
            f"not applicable to {done.url}: {harmless(lacking)}",
            hint="leave the gate out, or write `advisory: true` in the stack",
        )
    return GateError(
        f"{done.url} does not pass: {blocking(held)}",
        hint="if it asks for a key, `--api-key-env NAME` says where that is"
        if keyless
        else "the table above says what each gate saw",
    )


def _tell(show: Show, event: GateEvent | Waiting) -> None:
    """Say what is at work; the table at the end says the rest."""
    if isinstance(event, Waiting):
        show(AtWork(event.gates, event.seconds))


def _write(done: Checked, folder: Path) -> None:
    from deployer.gates.harness.report import write_report  # noqa: PLC0415 - on demand

    page = write_report(done.verdicts, folder, title=f"check of {done.url}")
    click.echo(f"Report: {page}", err=True)


def _print(done: Checked, *, as_json: bool) -> None:
    if as_json:
        for verdict in done.verdicts:
            json_result({"type": "verdict", **summary(verdict)})
        return
    from deployer.gates.harness.report import table  # noqa: PLC0415 - only for people

    click.echo(table(done.verdicts, width=width()))


_SIGNS = {
    Severity.FINE: "✔",
    Severity.NOTE: "·",
    Severity.WARNING: "▲",
    Severity.ERROR: "✖",
}
_AREA = 8


_LARGEST_LOG = 256 << 20
"""Bytes that are read of a log."""


@click.command("doctor", short_help="Report what is wrong, why, and what to do.")
@click.argument("path", type=click.Path(path_type=Path), required=False)
@click.option("--logs", metavar="FILE", help="Read this log; `-` is stdin.")
@click.option("--url", metavar="URL", help="Ask this server instead of the live one.")
@click.option("--fix", "fixes", is_flag=True, help="Apply safe fixes, after asking.")
@yes_option
@click.option(
    "--self",
    "itself",
    is_flag=True,
    help="Check deployer: a newer version, dependencies, forms of states.",
)
@json_option
def doctor_command(
    path: Path | None,
    logs: str | None,
    url: str | None,
    *,
    fixes: bool,
    yes: bool,
    itself: bool,
    as_json: bool,
) -> None:
    """Check a stack, this machine, its server and its log for known issues.

    Each finding has a cause and a fix.  Exits 1 if something is an error.  Without
    PATH the stacks of this folder are checked.

    With `--self`, ask the package index for a newer version as pip is configured,
    check that installed dependencies are within their bounds, and that this version
    reads the states and lock files of the stacks at PATH (default: the folder
    `stacks`).  Exits 1 for what is wrong or unknown; a newer version is no fault.

    \b
    Example:
      deployer doctor stacks/prod.yaml
      deployer doctor --logs server.log
      deployer doctor stacks/prod.yaml --fix
      deployer doctor --self
    """
    if itself:
        _look_at_itself(path, as_json=as_json)
        return
    asked = _asked(path, url, logs)
    found = tuple(examine(asked, settings_of(), now=time.time()))
    _print_findings(found, as_json=as_json)
    if fixes and _fix(found, yes=yes, as_json=as_json):
        found = tuple(examine(asked, settings_of(), now=time.time()))
        if not as_json:
            click.echo("\nlooked at again:")
            _show([f for f in found if f.severity is not Severity.FINE])
    if any(finding.severity is Severity.ERROR for finding in found):
        raise click.exceptions.Exit(1)


def _look_at_itself(path: Path | None, *, as_json: bool) -> None:
    """Look at deployer itself; exits 1 where something is wrong or unknown."""
    from deployer.usecases.upgrade import look  # noqa: PLC0415 - only here

    if not as_json:
        click.echo(version_line())
    stacks = Path("stacks") if path is None else path
    looked = look((stacks,) if stacks.exists() else (), settings_of())
    if as_json:
        json_result(_version_data(looked))
    else:
        _tell_versions(looked)
    if not all(map(_is_fine, looked.findings)):
        raise click.exceptions.Exit(DeployerError.exit_code)


def _is_fine(finding: Diagnostic) -> bool:
    return finding.severity is Severity.FINE


def _tell_versions(looked: "Looked") -> None:
    for finding in looked.findings:
        newer = finding.path == "newest" and looked.newer
        sign = "✖" if not _is_fine(finding) else "↑" if newer else "✔"
        for line in wrapped(f"  {sign} {finding.path:<13} ", finding.what):
            click.echo(harmless(line))
        if finding.hint:
            click.echo(harmless(f"    hint: {finding.hint}"))


def _version_data(looked: "Looked") -> dict[str, JsonValue]:
    return {
        "type": "deployer",
        "version": __version__,
        "python": sys.version.split()[0],
        "newest": looked.newest,
        "newer": looked.newer,
        "findings": [
            {
                "about": it.path,
                "text": it.what,
                "hint": it.hint,
                "fine": _is_fine(it),
            }
            for it in looked.findings
        ],
    }


def _asked(path: Path | None, url: str | None, logs: str | None) -> Asked:
    """Return the stacks to look at; a folder stands for the stacks in it."""
    if path is None and url is None and logs is None:
        with suppress(UsageError):  # without stacks, the machine alone is looked at
            return Asked(stack_files(all_stacks()), None, None)
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


def _print_findings(found: Sequence[Diagnostic], *, as_json: bool) -> None:
    if not as_json:
        _show(found)
        return
    for finding in found:
        json_result(_data(finding))


def _show(found: Sequence[Diagnostic]) -> None:
    for finding in found:
        head = f"  {_SIGNS[finding.severity]} {finding.path:<{_AREA}}"
        name = f" [{finding.code}]" if finding.code else ""
        for line in wrapped(head, f"{finding.what}{name}"):
            click.echo(line)
        if finding.hint:
            for line in wrapped(f"{'':{_AREA + 4}}fix: ", finding.hint):
                click.echo(line)
    counts = [
        f"{count} {grade.value}{'s' if count > 1 else ''}"
        for grade in (Severity.ERROR, Severity.WARNING, Severity.NOTE)
        if (count := sum(f.severity is grade for f in found))
    ]
    click.echo(", ".join(counts) or "nothing is wrong")


def _fix(found: Sequence[Diagnostic], *, yes: bool, as_json: bool) -> bool:
    """Show what would be done, ask, and do it; whether something was done."""
    remedies = [it.remedy for it in found if isinstance(it, Fixable) and it.remedy]
    if not remedies:
        click.echo("nothing can be fixed safely", err=as_json)
        return False
    click.echo("\nwould do:", err=as_json)
    for remedy in remedies:
        click.echo(f"  - {remedy.says}", err=as_json)
    if not yes:
        refuse_without_terminal("add `--yes` to fix it")
        click.confirm("Do it?", abort=True)
    for remedy in remedies:
        remedy.do()
        click.echo(f"  ✔ {remedy.says}", err=as_json)
    return True


def _data(finding: Diagnostic) -> dict[str, JsonValue]:
    remedy = finding.remedy if isinstance(finding, Fixable) else None
    return {
        "type": "finding",
        "area": finding.path,
        "grade": finding.severity.value,
        "id": finding.code or None,
        "what": finding.what,
        "fix": finding.hint,
        "remedy": remedy.says if remedy is not None else None,
    }
