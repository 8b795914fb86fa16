"""start, stop, restore, logs: day to day."""

import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from deployer.cli.options import duration, json_option, stack_argument
from deployer.cli.output import json_head, json_line
from deployer.cli.progress_display import Show
from deployer.errors import GateError
from deployer.spelling import harmless
from deployer.stack.fields.values import show_seconds
from deployer.usecases.context.settings import settings_of
from deployer.usecases.releases import logs, restore, start, stop

if TYPE_CHECKING:
    from deployer.usecases.watch import Probe, Restores


@click.command("start")
@stack_argument
def start_command(stack: Path) -> None:
    """Start the live release where it does not run.

    \b
    Example:
      deployer start stacks/demo.yaml
    """
    with Show(f"deployer start {stack}") as show:
        endpoint = start(stack, settings_of(), show)
    click.echo(f"running at {endpoint.url}")


@click.command("restore", short_help="Restore the server from its snapshot.")
@stack_argument
def restore_command(stack: Path) -> None:
    """Restore the live server from its snapshot now.

    It finishes what it answers, ends, and is restored; nothing answers in between.
    Where the snapshot cannot be used, the live server is not touched.

    \b
    Example:
      deployer restore stacks/demo.yaml
    """
    with Show(f"deployer restore {stack}") as show:
        found = restore(stack, settings_of(), show)
    took = show_seconds(found.seconds)
    if not found.really:
        click.echo(f"running again after {took}, and not restored: {found.detail}")
        return
    click.echo(f"restored in {took}")


@click.command("stop", short_help="Stop the server; `start` starts it again.")
@stack_argument
def stop_command(stack: Path) -> None:
    """Stop the server; the release stays, and `start` starts it again.

    \b
    Example:
      deployer stop stacks/demo.yaml
    """
    with Show(f"deployer stop {stack}") as show:
        found = stop(stack, settings_of(), show)
    click.echo(f"stopped; `deployer start {found.file}` starts it again")


@click.command("restart", short_help="Stop the server and start it again.")
@stack_argument
def restart_command(stack: Path) -> None:
    """Stop the live server and start it again, as it was; nothing answers in between.

    \b
    Example:
      deployer restart stacks/demo.yaml
    """
    with Show(f"deployer restart {stack}") as show:
        stop(stack, settings_of(), show)
        endpoint = start(stack, settings_of(), show)
    click.echo(f"running at {endpoint.url}")


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
def logs_command(stack: Path, lines: int, *, follow: bool) -> None:
    """Print the log of the live server.

    \b
    Example:
      deployer logs stacks/demo.yaml -f
    """
    try:
        for line in logs(stack, settings_of(), lines=lines, follow=follow):
            click.echo(harmless(line))
    except KeyboardInterrupt:
        return


_WORDS = {
    "llamacpp:requests_processing": "active requests",
    "llamacpp:requests_deferred": "queued requests",
    "llamacpp:prompt_tokens_total": "prompt tokens read",
    "llamacpp:prompt_tokens_cached_total": "prompt tokens reused",
    "llamacpp:tokens_predicted_total": "tokens generated",
    "llamacpp:prompt_tokens_seconds": "prompt tokens a second",
    "llamacpp:predicted_tokens_seconds": "tokens a second",
    "llamacpp:n_busy_slots_per_decode": "busy slots a step",
    "llamacpp:n_tokens_max": "largest context used",
    "llamacpp:n_tokens_max_total": "largest context used",
    "llamacpp:prompt_seconds_total": "seconds of reading prompts",
    "llamacpp:tokens_predicted_seconds_total": "seconds of generating",
    "llamacpp:n_decode_total": "steps of the model",
}
"""Return the figures that people want first, in their words."""


@click.command("metrics")
@stack_argument
@json_option
def metrics_command(stack: Path, *, as_json: bool) -> None:
    """Show the metrics of the live server.

    \b
    Example:
      deployer metrics stacks/demo.yaml
    """
    from deployer.usecases.watch import metrics  # noqa: PLC0415 - only here

    found = metrics(stack, settings_of())
    if as_json:
        json_head()
        json_line({"type": "metrics", "samples": {**found}})
        return
    for name in [*(n for n in _WORDS if n in found), *sorted(found.keys() - _WORDS)]:
        click.echo(f"{_WORDS.get(name, name):<40} {found[name]:>14,.6g}")


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
@json_option
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
    asked = watch.Watching(rounds, idle, time.sleep)
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


@click.group("monitor")
def monitor_command() -> None:
    """Write rules and a dashboard for Prometheus and Grafana.

    \b
    Example:
      deployer monitor render stacks/prod.yaml --out monitoring
    """


@monitor_command.command("render")
@stack_argument
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("monitoring"),
    show_default=True,
    help="Folder to write to.",
)
def monitor_render(stack: Path, out: Path) -> None:
    """Write scrape and alert rules and a dashboard, with the limits of the stack.

    The API key is a file that Prometheus reads; a server that scales to zero is not
    scraped, since a scrape would wake it.

    \b
    Example:
      deployer monitor render stacks/prod.yaml --out monitoring
    """
    from deployer.usecases.watch import render_monitor  # noqa: PLC0415 - only here

    for written in render_monitor(stack, settings_of(), out):
        click.echo(f"wrote {written}")
