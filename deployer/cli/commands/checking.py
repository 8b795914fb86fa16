"""check: gates against a running server."""

from functools import partial
from pathlib import Path
from typing import TypedDict, Unpack

import click

from deployer.cli.options import json_option
from deployer.cli.output import json_head, json_line, width
from deployer.cli.progress_display import Show
from deployer.errors import GateError, UsageError
from deployer.gates.harness.runner import GateEvent, Waiting
from deployer.planning.events import AtWork
from deployer.planning.verdict import all_let_pass, summary
from deployer.usecases.check import Checked, Checking, check, check_url
from deployer.usecases.context.settings import settings_of


class _Asked(TypedDict):
    """The options that are handed on as they are."""

    gates: tuple[str, ...]
    jobs: int | None
    repeat: int
    fail_fast: bool


@click.command("check", short_help="Run gates against a running server.")
@click.argument("stack", type=click.Path(path_type=Path), required=False)
@click.option("--gate", "gates", multiple=True, metavar="NAME", help="Only this gate.")
@click.option("--url", metavar="URL", help="Check any llama-server instead of a stack.")
@click.option(
    "--api-key-env", metavar="NAME", help="With --url: variable that holds the key."
)
@click.option(
    "--repeat",
    type=click.IntRange(min=1),
    default=1,
    metavar="N",
    help="Run each gate N times; the worst outcome counts.",
)
@click.option("--fail-fast", is_flag=True, help="Begin no gate after one that fails.")
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    metavar="N",
    help="How many gates run at once; never more than the server has slots.",
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
    if (stack is None) == (url is None):
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
        held = ", ".join(f"`{v.gate}`" for v in done.verdicts if v.holds_back)
        raise GateError(
            f"{done.url} does not pass {held}",
            hint="if it asks for a key, `--api-key-env NAME` says where that is"
            if url is not None and api_key_env is None
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
        json_head()
        for verdict in done.verdicts:
            json_line({"type": "verdict", **summary(verdict)})
        return
    from deployer.gates.harness.report import table  # noqa: PLC0415 - only for people

    click.echo(table(done.verdicts, width=width()))
