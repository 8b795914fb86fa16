"""server start, stop, restart, scale and run, logs, watch: day to day."""

import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from deployer.cli.options import duration, message_option, stack_argument, stream_option
from deployer.cli.output import is_asked, json_head, json_line
from deployer.cli.runs import showing
from deployer.cli.terminal import styled
from deployer.errors import GateError, UsageError
from deployer.planning.costs import SCALING
from deployer.planning.events import Talk
from deployer.spelling import harmless
from deployer.stack.fields.values import show_seconds
from deployer.usecases.context.settings import settings_of
from deployer.usecases.releases import (
    Keeping,
    keep_up,
    logs,
    restart,
    restore,
    scale,
    scale_back,
    start,
    stop,
)

if TYPE_CHECKING:
    from deployer.usecases.watch import Probe, Restores

_TICK = 1.0
"""Longest time in seconds until Ctrl-C is noticed."""


@click.group("server")
def server_command() -> None:
    """Start, stop, restart, scale and keep up the live server.

    \b
    Example:
      deployer server restart stacks/demo.yaml
    """


@server_command.command("start")
@stack_argument
@message_option
@stream_option
def server_start(stack: Path, *, as_json: bool) -> None:
    """Start the live release where it does not run.

    \b
    Example:
      deployer server start stacks/demo.yaml
    """
    with showing(f"deployer server start {stack}", as_json=as_json) as show:
        url = start(stack, settings_of(), show).url
        show.result("started", f"running at {url}", url=url)


@server_command.command("stop")
@stack_argument
@message_option
@stream_option
def server_stop(stack: Path, *, as_json: bool) -> None:
    """Stop the server; the release stays, and `start` starts it again.

    \b
    Example:
      deployer server stop stacks/demo.yaml
    """
    with showing(f"deployer server stop {stack}", as_json=as_json) as show:
        found = stop(stack, settings_of(), show)
        text = f"stopped; `deployer server start {found.file}` starts it again"
        show.result("stopped", text, stack=found.state.stack)


@server_command.command("restart", short_help="Stop the server and start it again.")
@stack_argument
@click.option(
    "--from-snapshot", is_flag=True, help="Restore it from its snapshot instead."
)
@message_option
@stream_option
def server_restart(stack: Path, *, from_snapshot: bool, as_json: bool) -> None:
    """Stop the live server and start it again, as it was; nothing answers in between.

    On Modal fresh containers take over, with the secrets of today, and every request
    is answered.

    With `--from-snapshot` it finishes what it answers, ends, and is restored; where
    the snapshot cannot be used, the live server is not touched.

    \b
    Example:
      deployer server restart stacks/demo.yaml
      deployer server restart stacks/demo.yaml --from-snapshot
    """
    with showing(f"deployer server restart {stack}", as_json=as_json) as show:
        if from_snapshot:
            found = restore(stack, settings_of(), show)
            took, why = show_seconds(found.seconds), found.detail
            text = f"running again after {took}, and not restored: {why}"
            text = f"restored in {took}" if found.really else text
            about = {"restored": found.really, "seconds": found.seconds}
            show.result("restarted", text, **about, detail=found.detail)
            return
        endpoint, answered = restart(stack, settings_of(), show)
        url, how = endpoint.url, "; no request failed" if answered else ""
        show.result("restarted", f"running at {url}{how}", restored=False, url=url)


def _numbers(
    context: click.Context, argument: click.Parameter, words: tuple[str, ...]
) -> dict[str, int]:
    """Read `min=1 max=3`; raises UsageError for other words."""
    del context, argument
    found: dict[str, int] = {}
    for word in words:
        name, _, number = word.partition("=")
        if name not in SCALING or not number.isdecimal():
            raise UsageError(
                f"`{harmless(word)}` is no number of containers",
                hint=f"write `min=1`; known are {', '.join(SCALING)}",
            )
        found[name] = int(number)
    return found


@server_command.command("scale", short_help="Change how many containers there are.")
@stack_argument
@click.argument("numbers", nargs=-1, required=True, callback=_numbers)
@click.option(
    "--for",
    "lasts",
    callback=duration,
    default="0s",
    metavar="DURATION",
    help="Put it back after so long; 0: it stays until the next apply.",
)
@stream_option
def server_scale(
    stack: Path, numbers: dict[str, int], lasts: float, *, as_json: bool
) -> None:
    """Change how many containers a live server on Modal has, without a deployment.

    NUMBERS are `min=1`, `max=3` and `buffer=1`.  The next plan names the change, and
    `apply` puts back what the stack states.  With `--for` the command stays and puts it
    back itself; Ctrl-C does so at once.

    \b
    Example:
      deployer server scale stacks/prod.yaml min=1 --for 2h
    """
    settings = settings_of()
    text = ", ".join(f"{name}={number}" for name, number in numbers.items())
    with showing(f"deployer server scale {stack} {text}", as_json=as_json) as show:
        before = scale(stack, settings, show, numbers)
        if lasts:
            show(Talk(str(stack), f"{text} for {show_seconds(lasts)}; Ctrl-C ends it"))
            end = time.monotonic() + lasts
            while time.monotonic() < end and not show.is_cancelled():
                time.sleep(min(_TICK, max(0.0, end - time.monotonic())))
            back = scale_back(stack, settings, show.last, numbers, before)
            text = "scaled as before" if back else "scaled otherwise meanwhile: left so"
        show.result("scaled", text, stack=str(stack), **numbers)


@server_command.command("run", short_help="Start the live server, and keep it up.")
@stack_argument
@click.option(
    "--fall-back-after",
    "most_crashes",
    type=click.IntRange(min=0),
    default=5,
    show_default=True,
    metavar="CRASHES",
    help="Crashes in a row after which the release before takes over; 0: never.",
)
@stream_option
def server_run(stack: Path, most_crashes: int, *, as_json: bool) -> None:
    """Start the live release, and start it again whenever it crashes or hangs.

    Stays in the foreground, as a container or a unit of systemd wants it.  Ctrl-C or
    SIGTERM stops the server and ends the command with exit code 0.  What
    another `apply`, `server stop` or `rollback` does meanwhile is followed.  Only
    promoted releases are started; one that crashes again and again falls back once to
    the release before.

    \b
    Example:
      deployer server run stacks/demo.yaml
    """
    with showing(f"deployer server run {stack}", as_json=as_json) as show:
        keeping = Keeping(show, show.is_cancelled, show.last, most_crashes)
        text = keep_up(stack, settings_of(), keeping)
        show.result("stopped", text, stack=str(stack))


@click.command("logs")
@stack_argument
@click.option("-f", "--follow", is_flag=True, help="Follow the log.")
@click.option(
    "-n",
    "--lines",
    type=click.IntRange(min=0),
    default=50,
    show_default=True,
    help="Number of last lines to print.",
)
@stream_option
def logs_command(stack: Path, lines: int, *, follow: bool, as_json: bool) -> None:
    """Print the log of the live server.

    \b
    Example:
      deployer logs stacks/demo.yaml -f
    """
    if as_json:
        json_head()
    try:
        for line in logs(stack, settings_of(), lines=lines, follow=follow):
            if as_json:
                json_line({"type": "log", "text": line})
            else:
                click.echo(harmless(line), styled(sys.stdout))
    except KeyboardInterrupt:
        return


@click.command("watch", short_help="Probe a live stack, warm and after idle.")
@stack_argument
@click.option(
    "--idle",
    callback=duration,
    default="60s",
    show_default=True,
    help="Idle time before each round; longer than the scaledown window.",
)
@click.option(
    "--rounds",
    type=click.IntRange(min=0),
    default=1,
    show_default=True,
    help="Number of rounds; 0: until stopped.",
)
@click.option(
    "--textfile",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write the record for node_exporter's textfile collector.",
)
@stream_option
def watch_command(
    stack: Path, idle: float, rounds: int, textfile: Path | None, *, as_json: bool
) -> None:
    """Ask once after idle and once more at once, and compare with the stack's limits.

    The limits are `gates.restore.within` after idle and `gates.stream.ttft` when
    warm.  Restores that the engine reports count as drills of the live snapshot, and
    are judged by `gates.restore.times` and `success`.  The last probes are remembered
    beside the state.  Exit 6 on a breach.

    \b
    Example:
      deployer watch stacks/prod.yaml --idle 10m --rounds 1
    """
    from deployer.usecases import watch  # noqa: PLC0415 - only here

    settings = settings_of()
    breaches = 0
    if as_json:
        json_head()
    asked = watch.Watching(rounds, idle, _rest)
    for probe in watch.watch(stack, settings, asked):
        breaches += probe.breach
        _tell(probe, as_json=as_json)
        if textfile is not None:
            watch.write_textfile(stack, settings, textfile)
    restores = watch.restores_of(stack, settings)
    if restores is not None:
        _tell_restores(restores, as_json=as_json)
        breaches += restores.breach
    if breaches:
        raise GateError(
            f"{breaches} of the probes failed, or took longer than the stack allows",
            hint=f"`deployer logs {stack}` and `deployer check {stack}` say more",
        )


def _rest(seconds: float) -> None:
    """Wait until the server was idle for so long, and say so."""
    if seconds and not is_asked("quiet"):
        click.echo(f"waiting {show_seconds(seconds)} without a request", err=True)
    time.sleep(seconds)


def _tell(probe: "Probe", *, as_json: bool) -> None:
    if as_json:
        json_line({"type": "probe", "breach": probe.breach, **probe.data})
        return
    sign = "✖" if probe.breach else "✔"
    took = "-" if probe.ttft_seconds is None else show_seconds(probe.ttft_seconds)
    limit = show_seconds(probe.limit_seconds)
    start = f" · {probe.start}" if probe.start else ""
    click.echo(f"{sign} {probe.path:<8} {took:>8} of {limit:<6} {probe.because}{start}")


def _tell_restores(restores: "Restores", *, as_json: bool) -> None:
    if as_json:
        json_line({"type": "restores", **asdict(restores)})
        return
    click.echo(f"{'✖' if restores.breach else '✔'} {restores.told}")
