"""status, history, report: what was deployed, and how it is."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import click

from deployer.artefacts.json_files import encoded
from deployer.cli.for_each_stack import each, subjects_of
from deployer.cli.options import (
    json_option,
    releases,
    stack_argument,
    stacks_argument,
)
from deployer.cli.output import json_result, when
from deployer.engines.contract import Observation
from deployer.errors import DeployerError, NeverAppliedError, UsageError
from deployer.planning.resources import Kind
from deployer.planning.state import Release
from deployer.show.data import plan_data
from deployer.show.overview import overview_data
from deployer.show.text import because, describe, show
from deployer.spelling import harmless
from deployer.stack.fields.values import JsonValue
from deployer.system.files import guarded, replace_file, users_mode
from deployer.usecases.context.settings import settings_of
from deployer.usecases.context.stack_files import Subject
from deployer.usecases.releases import (
    Status,
    compare,
    past_of,
    release_of,
    status,
)
from deployer.usecases.runs import Ran, report_of


@click.command("status", short_help="Show what is live and its condition.")
@stacks_argument
@click.option("--metrics", is_flag=True, help="Also show what is counted of it.")
@json_option
def status_command(paths: tuple[Path, ...], *, metrics: bool, as_json: bool) -> None:
    """Show what is live, how its server is, and what an earlier run left.

    Of several stacks a line each.  Exit 1 when a live server does not run, or does not
    answer that it is healthy; `condition` in the JSON says which.

    \b
    Example:
      deployer status
      deployer status stacks/demo.yaml --metrics
    """
    subjects = subjects_of(paths)
    well = True

    def look(subject: Subject) -> None:
        nonlocal well
        file = subject.file
        try:
            found = status(file, settings_of())
        except NeverAppliedError as error:
            _never_applied(error, file, alone=len(subjects) == 1, as_json=as_json)
            return
        well &= found.is_well
        counted = _counted(file) if metrics and found.is_well and found.server else {}
        if as_json:
            data = {**_status_data(found), "file": str(file)}
            json_result({**data, "samples": {**counted}} if metrics else data)
            return
        _show(file, found) if len(subjects) == 1 else _show_short(found)
        _show_metrics(counted)

    if len(subjects) > 1:
        each(subjects, look, as_json=as_json)
    else:
        look(subjects[0])
    if not well:
        raise click.exceptions.Exit(1)


def _never_applied(
    error: NeverAppliedError, file: Path, *, alone: bool, as_json: bool
) -> None:
    """Among several a stack like others; alone an error."""
    if alone:
        raise error
    if as_json:
        json_result({"type": "status", "file": str(file), "release": None})
    else:
        click.echo(f"· {error.message}")


def _show_metrics(counted: Mapping[str, float]) -> None:
    """Each figure in words, and by its name for Prometheus."""
    order = {name: number for number, name in enumerate(WORDS)}
    for name in sorted(counted, key=lambda it: (order.get(it, len(order)), it)):
        click.echo(f"    {WORDS.get(name, ''):<26} {counted[name]:>14,.6g}  {name}")


def _counted(file: Path) -> Mapping[str, float]:
    from deployer.usecases.watch import metrics  # noqa: PLC0415 - only here

    return metrics(file, settings_of())


WORDS = {
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
    "platform:containers": "containers now",
    "platform:requests": "requests, last hour",
    "platform:requests_failed": "failed of them",
    "platform:request_seconds_p50": "seconds of half of them",
    "platform:request_seconds_p99": "seconds of 99 % of them",
    "platform:starts": "starts, last hour",
    "platform:starts_failed": "failed of them",
    "platform:start_seconds_p50": "seconds of half of them",
    "platform:start_seconds_p99": "seconds of 99 % of them",
    "platform:memory_gib_p50": "GiB of memory, half of it",
    "platform:memory_gib_p99": "GiB of memory, 99 % of it",
    "platform:gpu_percent_p50": "% of the GPU, half of it",
    "platform:gpu_percent_p99": "% of the GPU, 99 % of it",
}
"""The figures that people want first, in their words."""
ORDER = {name: number for number, name in enumerate(WORDS)}


def _show(stack: Path, found: Status) -> None:
    state = found.state
    click.echo(f"{state.stack} on {state.engine} · state serial {state.serial}")
    if found.server is None or found.endpoint is None:
        click.echo("  nothing is live")
    else:
        release = found.release
        known = "not in the state"
        if release is not None:
            known = f"{release.number} since {when(release.at)}"
        click.echo(f"  release  {known}")
        sign = "✔" if found.server.healthy else "?" if found.host else "✖"
        click.echo(f"  server   {sign} {found.server.detail}")
        if not found.is_well and "condition" in found.server.facts:
            click.echo(f"           `deployer server start {stack}` starts it again")
        _restarts(found.server.facts.get("restarts"))
        click.echo(f"  url      {found.endpoint.url}")
        for change in found.made_of:
            if change.kind is not Kind.SERVER:
                what = describe(change) or "without warm-up requests"
                click.echo(f"  {change.role:<8} {what}")
        if release is not None and release.starts:
            click.echo(f"  starts   {release.starts}")
        if release is not None:
            _gates(release)
    target = found.release.rolled_back_to if found.release is not None else None
    if target is not None:
        click.echo(f"  ! rolled back to release {target}: `deployer plan {stack}` says")
        click.echo("    whether the stack still asks for what was rolled back")
    for drift in found.drift:
        click.echo(f"  ! drift  {drift.address}: {drift.detail}")
    _unfinished(found)
    if state.hold is not None:
        told = harmless(f"{state.hold.by}: {state.hold.why}")
        click.echo(f"  ! on hold since {when(state.hold.at)}, by {told}")
    if found.failed is not None:
        ran = found.failed
        said = harmless(f"{ran.outcome}: {ran.error}")
        click.echo(f"  ! the last {ran.cause} ({when(ran.at)}) {said}")
        click.echo(f"    `deployer history {stack}` has it all")


def _restarts(known: JsonValue) -> None:
    """How often the server was started again though nobody stopped it."""
    match known:
        case {"count": int(count), "last": [*_, {"at": str(at), "why": str(why)}]}:
            click.echo(harmless(f"  restarts {count}, the last {when(at)}: {why}"))
        case _:
            pass


def _show_short(found: Status) -> None:
    """One line of a stack among several."""
    sign, said = "·", "nothing is live"
    if found.server is not None and found.endpoint is not None:
        sign = "✔" if found.server.healthy else "?" if found.host else "✖"
        number = "?" if found.release is None else found.release.number
        said = f"release {number}  {found.endpoint.url}  {found.server.detail}"
    click.echo(f"{sign} {found.state.stack:<16} {found.state.engine:<6} {said}")


def _gates(release: Release) -> None:
    passed = [g["gate"] for g in release.gates if g.get("outcome") == "pass"]
    of = f"{len(passed)} of {len(release.gates)}"
    click.echo(f"  gates    {of} passed before promotion")


def _unfinished(found: Status) -> None:
    state = found.state
    if state.promoting is not None:
        click.echo(f"  ! promoting release {state.promoting.number} did not end")
    for loose in state.loose:
        record = loose.record
        seen = found.left.get(record.key)
        now = f": {seen.detail}" if seen else ""
        click.echo(
            f"  ! {record.address} {record.key[:8]} was left {loose.begun.value}{now}"
        )
    if state.promoting is not None or state.loose:
        click.echo("    the next `deployer apply` settles it")


def _status_data(found: Status) -> dict[str, JsonValue]:
    server = found.server
    return {
        "type": "status",
        "stack": found.state.stack,
        "engine": found.state.engine,
        "serial": found.state.serial,
        "release": None if found.release is None else found.release.number,
        "starts": (found.release.starts or None) if found.release else None,
        "url": None if found.endpoint is None else found.endpoint.url,
        "server": None
        if server is None
        else {
            "running": server.running,
            "healthy": server.healthy,
            "condition": server.facts.get("condition") or _condition(server),
            "detail": server.detail,
            "facts": dict(server.facts),
        },
        "host": found.host or None,
        "hold": None if found.state.hold is None else encoded(found.state.hold),
        "failed": None if found.failed is None else encoded(found.failed),
        "drift": [
            {"address": drift.address, "detail": drift.detail} for drift in found.drift
        ],
        "unfinished": [
            {"address": it.record.address, "begun": it.begun.value}
            for it in found.state.loose
        ],
    }


def _condition(server: Observation) -> str:
    """Where the engine does not say more."""
    if not server.running:
        return "dead"
    return "healthy" if server.healthy else "unhealthy"


@click.command("history", short_help="List what was done to a stack, by whom and why.")
@stack_argument
@click.option(
    "--diff",
    "pair",
    type=int,
    nargs=2,
    metavar="BEFORE AFTER",
    shell_complete=releases,
    help="Show what one release changed against another.",
)
@click.option(
    "--show",
    "number",
    type=int,
    metavar="RELEASE",
    shell_complete=releases,
    help="Show a retained release as it was: fields, facts, gates.",
)
@click.option(
    "--last",
    type=click.IntRange(min=1),
    default=50,
    show_default=True,
    metavar="COUNT",
    help="List so many entries.",
)
@json_option
def history_command(
    stack: Path,
    pair: tuple[int, int] | None,
    number: int | None,
    last: int,
    *,
    as_json: bool,
) -> None:
    """List releases, blocked and failed runs, drift and stops, newest first.

    Each with who did it, from which commit and run, why (`--message`) and what
    changed; retained releases with speed, report, and version on Modal.

    \b
    Example:
      deployer history stacks/prod.yaml
      deployer history stacks/prod.yaml --diff 3 5
      deployer history stacks/prod.yaml --show 5
    """
    if pair is not None:
        _compare(stack, *pair, as_json=as_json)
        return
    settings = settings_of()
    past = past_of(stack, settings, last)
    if number is not None:
        _show_release(release_of(past.state, number), as_json=as_json)
        return
    listed = [*_listed(past.state.releases, past.known)]
    live = past.state.live_release
    for release, ran in listed[:last]:
        report = report_of(settings.home, past.state, release.number if release else 0)
        if as_json:
            data = _entry_data(release, ran, report, live=release is live is not None)
            json_result({**data, "version": _version(release, past.versions)})
        else:
            version = _version(release, past.versions) or ""
            version = f"{version:<5}" if past.versions else ""
            _tell(release, ran, report, version, live=release is live is not None)
    if not listed and not as_json:
        click.echo("no release yet")


def _listed(
    kept: Sequence[Release], known: Sequence[Ran]
) -> Iterator[tuple[Release | None, Ran | None]]:
    """Yield every entry, newest first: retained releases, and what the log has."""
    by_number = {release.number: release for release in kept}
    found: list[tuple[str, Release | None, Ran | None]] = [
        (ran.at, by_number.pop(ran.release or 0, None), ran) for ran in reversed(known)
    ]
    found += [(it.at, it, None) for it in by_number.values()]
    for _, release, ran in sorted(found, key=lambda it: it[0], reverse=True):
        yield release, ran


def _show_release(release: Release, *, as_json: bool) -> None:
    """Print a release as it was."""
    fields: dict[str, JsonValue] = {
        path: value
        for record in release.records.values()
        for path, value in sorted(record.fields.items())
    }
    gates: list[JsonValue] = [dict(gate) for gate in release.gates]
    if as_json:
        head: dict[str, JsonValue] = {"type": "release", "number": release.number}
        head |= {"at": release.at, "cause": release.cause, "starts": release.starts}
        json_result({**head, "fields": fields, "gates": gates})
        return
    click.echo(f"release {release.number}  {when(release.at)}  {release.cause}")
    for path, value in fields.items():
        click.echo(harmless(f"  {path:<32} {show(value)}"))
    for gate in release.gates:
        said = f"{gate.get('gate')}: {gate.get('outcome')}: {gate.get('because')}"
        click.echo(harmless(f"  gate {said}"))


def _entry_data(
    release: Release | None, ran: Ran | None, report: Path | None, *, live: bool
) -> dict[str, JsonValue]:
    """An entry of the history, for programs."""
    data: dict[str, JsonValue] = {"type": "run", "release": None}
    if release is not None:
        data = _release_data(release, report, live=live)
    if ran is None:
        return data
    told = {**encoded(ran), "outcome": ran.outcome}
    return {**told, **data} if release is not None else {**data, **told}


def _release_data(
    release: Release, report: Path | None, *, live: bool
) -> dict[str, JsonValue]:
    return {
        "type": "release",
        "number": release.number,
        "at": release.at,
        "cause": release.cause,
        "live": live,
        "keys": {r.role: r.key for r in release.records.values()},
        "gates": [dict(gate) for gate in release.gates],
        "starts": release.starts or None,
        "report": None if report is None else str(report),
    }


def _tell(
    release: Release | None,
    ran: Ran | None,
    report: Path | None,
    version: str,
    *,
    live: bool,
) -> None:
    number, at, cause, gates, outcome = _head(release, ran)
    passed = sum(gate.get("outcome") == "pass" for gate in gates)
    counted = f"{passed}/{len(gates)} gates" if gates else outcome
    head = f"{'●' if live else ' '} {number:>4}  {when(at)}"
    click.echo(f"{head}  {counted:<12} {version}{harmless(cause)}")
    for line in _about(ran):
        click.echo(f"        {harmless(' '.join(line.split()))}")
    if release is None:
        return
    for line in _speed(release):
        click.echo(f"        speed   {line}")
    if release.starts:
        click.echo(f"        starts  {release.starts}")
    if report is not None:
        click.echo(f"        report  {report}")


def _head(
    release: Release | None, ran: Ran | None
) -> tuple[str, str, str, Sequence[Mapping[str, JsonValue]], str]:
    """Return number, time, cause, verdicts and outcome of an entry."""
    if release is not None:
        return (
            f"{release.number}",
            release.at,
            release.cause,
            release.gates,
            "0/0 gates",
        )
    if ran is None:
        return "-", "", "", (), ""
    number = "-" if ran.release is None else f"{ran.release}"
    return number, ran.at, ran.cause, ran.gates if not ran.error else (), ran.outcome


_CHANGES = 6
"""Changes of an entry that are listed."""


def _about(ran: Ran | None) -> Iterator[str]:
    """Yield who did it, from what, why and what, a line each."""
    if ran is None:
        return
    origin = ran.origin
    who = origin.actor or f"{origin.user}@{origin.host}"
    number = origin.pull_request
    parts = (
        who,
        f"commit {origin.commit[:12]}" if origin.commit else "",
        f"pull request {number}" if number else "",
        f"plan {ran.plan}" if ran.plan else "",
        origin.run,
    )
    yield f"by {' · '.join(filter(None, parts))}"
    if ran.why:
        yield f"why: {ran.why}"
    if ran.error:
        yield f"failed: {ran.error}"
    for line in ran.changes[:_CHANGES]:
        yield f"change: {line}"
    if len(ran.changes) > _CHANGES:
        yield f"{len(ran.changes) - _CHANGES} more changes: `--json` has them"


def _speed(release: Release) -> Iterator[str]:
    """Return the figures of the gate `speed`: one stream, all slots."""
    found = next((g["figures"] for g in release.gates if g["gate"] == "speed"), None)
    if not isinstance(found, dict):
        return
    from deployer.gates.harness.report import show_figure  # noqa: PLC0415 - only with gates

    figures = {n: float(v) for n, v in found.items() if isinstance(v, int | float)}
    slots = figures.pop("parallel_streams", 1.0)
    for prefix, head in (("", ""), ("parallel_", f"{slots:g} streams at once: ")):
        names = [n for n in figures if n.startswith("parallel_") == bool(prefix)]
        shown = [show_figure(n.removeprefix(prefix), figures[n]) for n in names]
        if shown:
            yield f"{head}{', '.join(f'{name} {value}' for name, value in shown)}"


def _version(release: Release | None, versions: Mapping[str, str]) -> str | None:
    """Return the engine's name for the deployment of a release."""
    for record in release.records.values() if release is not None else ():
        for prefix, version in versions.items():
            if record.kind is Kind.SERVER and record.key.startswith(prefix):
                return version
    return None


def _compare(stack: Path, before: int, after: int, *, as_json: bool) -> None:
    """Print what one release changed against another."""
    found = compare(stack, settings_of(), before, after)
    if as_json:
        changes = plan_data(found.plan, {})["changes"]
        json_result(
            {"type": "diff", "before": before, "after": after, "changes": changes}
        )
        return
    for release in (found.before, found.after):
        click.echo(f"release {release.number}  {when(release.at)}  {release.cause}")
    click.echo()
    for change in found.plan.changes:
        for reason in change.reasons:
            click.echo(f"  {change.role:<9}{because(reason)}")
    if found.plan.is_empty:
        click.echo("  no difference")


_STACKS = Path("stacks")


@click.command("report", short_help="Report on stacks, releases, gates and latency.")
@click.argument(
    "paths",
    type=click.Path(path_type=Path, exists=True),
    nargs=-1,
    metavar="[PATH]…",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("deployer-report.html"),
    show_default=True,
    metavar="FILE",
    help="Where to write the page.",
)
@click.option("--open", "look", is_flag=True, help="Show it in the browser.")
@json_option
def report_command(
    paths: tuple[Path, ...], out: Path, *, look: bool, as_json: bool
) -> None:
    """Write one page of stacks, their releases, gates, latency and cost.

    It shows recorded states, runs and probes of `watch`, and asks no server.  Default
    PATH: the folder `stacks`.  With --json no page is written.  A stack that cannot be
    read is named on the page, and the command exits 1 once that is written.

    \b
    Example:
      deployer report stacks --out report.html --open
    """
    from deployer.usecases.report import overviews  # noqa: PLC0415 - only here

    settings = settings_of()
    named = paths or (_STACKS if _STACKS.is_dir() else Path(),)
    found = tuple(overviews(named, settings))
    broken = [it for it in found if it.error]
    if as_json:
        for one in found:
            json_result({"type": "stack", **overview_data(one)})
    else:
        from deployer.usecases.context.settings import utc_now  # noqa: PLC0415 - as above
        from deployer.usecases.report import page  # noqa: PLC0415 - slow to import

        _write(out, page(found, utc_now()))
        click.echo(f"wrote {out}: {len(found)} stack{'s' * (len(found) != 1)}")
    for one in broken:
        click.echo(harmless(f"{one.file}: error: {one.error}"), err=True)
    if look and not as_json:
        click.launch(str(out))
    if broken:
        raise click.exceptions.Exit(DeployerError.exit_code)


def _write(out: Path, text: str) -> None:
    """Replace the page, whole or not at all; raises UsageError where that fails."""
    try:
        with guarded(out.parent):
            replace_file(out, text.encode(), mode=users_mode())
    except OSError as error:
        raise UsageError(f"cannot write `{out}`: {error.strerror}") from error
