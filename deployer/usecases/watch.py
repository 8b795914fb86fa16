"""Day 2: metrics of a live stack, probes of it, and what monitors are told of it.

A round of `watch` rests, asks once, and asks again at once: the first answer is that
of a server that was idle (a restore, where it sleeps), the second that of a warm one.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path

from deployer.artefacts.json_files import FormError, decoded, parse
from deployer.engines.contract import CONTAINERS, write_files
from deployer.errors import EngineError
from deployer.planning.events import Outcome, Verdict
from deployer.show import monitor
from deployer.show.monitor import RESTORE, WARM, Monitored
from deployer.stack.fields.gate_options import CONFIDENCE, least_share
from deployer.stack.fields.gate_options import Restore as RestoreOptions
from deployer.stack.fields.values import Flat, JsonValue
from deployer.system.files import (
    as_the_user,
    guarded,
    read_regular,
    replace_file,
    users_mode,
)
from deployer.usecases.check import (
    Checking,
    check,
    parameters_of,
    release_fields,
    target_of,
    unheard,
)
from deployer.usecases.context.deployed import deployed
from deployer.usecases.context.settings import STATE_FOLDER, Settings, utc_now

KEPT = 500
"""Probes of a stack that are remembered."""
_RESTORES = 1
"""Restores that are judged together where the stack states no number."""


@dataclass(frozen=True, slots=True)
class Probe:
    """One request to a live server."""

    at: str
    path: str
    """`restore` for the first after idle, else `warm`."""
    ok: bool
    ttft_seconds: float | None
    limit_seconds: float
    because: str
    failures_total: int
    """Number of probes of this path in the record, this one included."""
    server_errors_total: int
    start: str = ""
    """Start of the server for it; empty where it was awake, or nobody tells."""
    restores: int = 0
    """Restores of production that its log tells of, those that failed included."""
    restored: int = 0

    @property
    def data(self) -> dict[str, JsonValue]:
        """As the record keeps it."""
        return asdict(self)

    @property
    def breach(self) -> bool:
        """True where it failed, or took longer than its limit."""
        slow = self.ttft_seconds is None or self.ttft_seconds > self.limit_seconds
        return not self.ok or slow


@dataclass(frozen=True, slots=True)
class Watching:
    """How a stack is watched."""

    rounds: int
    """0: without an end."""
    idle: float
    """Seconds of rest before each round."""
    rest: Callable[[float], None]


def monitored(stack_file: Path, settings: Settings) -> Monitored:
    """The live server of a stack, for monitors; raises UsageError where none is."""
    found = deployed(stack_file, settings)
    end = found.engine.endpoint(found.server, candidate=False)
    fields = release_fields(found.state.live)
    return Monitored(found.state.stack, end.url, end.api_key_env, fields)


def metrics(stack_file: Path, settings: Settings) -> dict[str, float]:
    """Return what the platform and the live server count.

    A server that sleeps is left asleep where the platform tells that it does.
    """
    found = deployed(stack_file, settings)
    counted = found.engine.usage(found.server)
    if counted is not None and counted.get(CONTAINERS) == 0:
        return dict(counted)
    end = found.answering()
    from deployer.gates.checks.performance import scrape  # noqa: PLC0415 - only here

    keys = settings.keys(stack_file.parent.absolute())
    return {**(counted or {}), **scrape(target_of(end, keys, {}))}


def watch(stack_file: Path, settings: Settings, watching: Watching) -> Iterator[Probe]:
    """Probe in rounds; each probe is recorded before it is told."""
    it = monitored(stack_file, settings)
    done = 0
    while not watching.rounds or done < watching.rounds:
        watching.rest(watching.idle)
        for path, limit in ((RESTORE, it.restore_limit), (WARM, it.warm_limit)):
            record = record_of(stack_file, it.stack)
            known = remembered(record)
            before = [probe for probe in known if probe.path == path]
            probe = _probed(stack_file, settings, path, limit, before)
            _write(record, (*known, probe)[-KEPT:])
            yield probe
        done += 1


def record_of(stack_file: Path, stack: str) -> Path:
    """Where the probes of a stack are remembered."""
    return stack_file.parent / STATE_FOLDER.parent / "watch" / f"{stack}.jsonl"


_ADDED: Mapping[str, JsonValue] = {"start": "", "restores": 0, "restored": 0}
"""Members that records of older versions lack."""


def remembered(record: Path) -> tuple[Probe, ...]:
    """The probes of a record, oldest first; lines that are no probe are left out."""
    found: list[Probe] = []
    text = read_regular(record).decode("utf-8", "replace") if record.exists() else ""
    for line in text.splitlines():
        with suppress(FormError):
            probe = parse(line)
            if isinstance(probe, dict):
                found.append(decoded(Probe, {**_ADDED, **probe}))
    return tuple(found)


def write_textfile(stack_file: Path, settings: Settings, file: Path) -> None:
    """Replace a file for the textfile collector, whole or not at all."""
    stack = deployed(stack_file, settings).state.stack
    text = textfile(stack, remembered(record_of(stack_file, stack)))
    with guarded(file.parent):  # node_exporter, another user, reads it
        replace_file(file, text.encode(), mode=users_mode())


def textfile(stack: str, probes: tuple[Probe, ...]) -> str:
    """The record as the textfile collector of node_exporter reads it."""
    lines: list[str] = []
    for name, kind in (
        (monitor.TTFT, "gauge"),
        (monitor.FAILURES, "counter"),
        (monitor.REFUSALS, "counter"),
    ):
        lines.append(f"# TYPE {name} {kind}")
        for path in (RESTORE, WARM):
            of = [probe for probe in probes if probe.path == path]
            value = _value(name, of)
            if value is not None:
                lines.append(f'{name}{{stack="{stack}",path="{path}"}} {value:g}')
    if probes:
        at = datetime.fromisoformat(probes[-1].at).timestamp()
        lines += [f"# TYPE {monitor.LAST} gauge"]
        lines += [f'{monitor.LAST}{{stack="{stack}"}} {at:.0f}']
    return "\n".join(lines) + "\n"


def _value(name: str, probes: list[Probe]) -> float | None:
    if not probes:
        return None
    if name == monitor.FAILURES:
        return probes[-1].failures_total
    if name == monitor.REFUSALS:
        return probes[-1].server_errors_total
    return probes[-1].ttft_seconds


def _asked(stack_file: Path, settings: Settings, limit: float) -> Verdict:
    """One streamed answer of what is live; none is waited for beyond the limit."""
    options: Flat = {"gates.stream.ttft": limit}
    checking = Checking(gates=("stream",), options=options, process=False)
    try:
        (verdict,) = check(stack_file, settings, checking, lambda _: None).verdicts
    except EngineError as error:
        return Verdict("stream", Outcome.FAIL, error.message)
    return verdict


def _probed(
    stack_file: Path,
    settings: Settings,
    path: str,
    limit: float,
    before: Sequence[Probe],
) -> Probe:
    """Ask once; the first after idle is a drill of production's own snapshot."""
    verdicts: list[Verdict] = []

    def ask() -> None:
        verdicts.append(_asked(stack_file, settings, limit))

    found, woken = deployed(stack_file, settings), None
    if path == RESTORE:
        woken = found.engine.woken(found.server, ask, unheard)
    else:
        ask()
    probe = _probe(verdicts[-1], path, limit, before[-1] if before else None)
    if woken is None:
        return probe
    really = int(woken.really and probe.ok)
    tried = woken.failed + woken.really
    return replace(
        probe,
        start=woken.detail,
        restores=tried if woken.captured else max(1, tried),
        restored=really,
    )


@dataclass(frozen=True, slots=True)
class Restores:
    """The last restores of production, judged as the gate `restore` judges."""

    good: int
    runs: int
    breach: bool

    @property
    def told(self) -> str:
        """Their number and its bound."""
        share = least_share(self.good, self.runs)
        return (
            f"{self.good} of the last {self.runs} restores of production succeeded,"
            f" at least {share:.0%} at {CONFIDENCE:.0%} confidence"
        )


def restores_of(stack_file: Path, settings: Settings) -> Restores | None:
    """The last `gates.restore.times` restores that are remembered; None without one.

    They are a breach where more failed than `gates.restore.success` allows.
    """
    found = deployed(stack_file, settings)
    probes = remembered(record_of(stack_file, found.state.stack))
    options = parameters_of("restore", found.server.fields)
    assert isinstance(options, RestoreOptions)  # noqa: S101 - the section of the gate
    good = runs = 0
    for probe in reversed(probes):
        if runs >= (options.times or _RESTORES):
            break
        good, runs = good + probe.restored, runs + probe.restores
    if not runs:
        return None
    return Restores(good, runs, breach=runs - good > (options.failures or 0))


def _probe(verdict: Verdict, path: str, limit: float, before: Probe | None) -> Probe:
    ttft = verdict.figures.get("ttft_seconds")
    ok = verdict.outcome is Outcome.PASS or ttft is not None
    refused = sum(e.status is not None and e.status >= 500 for e in verdict.evidence)
    return Probe(
        at=utc_now(),
        path=path,
        ok=ok,
        ttft_seconds=ttft,
        limit_seconds=limit,
        because=verdict.because,
        failures_total=(before.failures_total if before else 0) + (not ok),
        server_errors_total=(before.server_errors_total if before else 0) + refused,
    )


def _write(file: Path, probes: tuple[Probe, ...]) -> None:
    """Replace the record, whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(f"{json.dumps(probe.data)}\n" for probe in probes)
    with guarded(file.parent):
        replace_file(file, text.encode())


def render_monitor(stack_file: Path, settings: Settings, out: Path) -> tuple[Path, ...]:
    """Write what Prometheus and Grafana read; returns the files."""
    from deployer.stack.edits import yaml_text  # noqa: PLC0415 - only here

    it = monitored(stack_file, settings)
    texts = {
        f"{it.stack}.prometheus.yml": yaml_text(monitor.scrape_config(it)),
        f"{it.stack}.rules.yml": yaml_text(monitor.alert_rules(it)),
        f"{it.stack}.dashboard.json": json.dumps(monitor.dashboard(it), indent=2)
        + "\n",
    }
    with as_the_user():
        out.mkdir(parents=True, exist_ok=True)
        return write_files({name: it.encode() for name, it in texts.items()}, out)
