"""Everything that is recorded of stacks: states, runs, probes.  Nobody is asked.

The policy of the page allows its own style and script by their digests and nothing
else; every text of a stack is escaped, and written out where it cannot be seen.
"""

import base64
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, is_dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from functools import partial
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import Final, TypeVar, cast

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from deployer import __version__
from deployer.engines.place import costs_of
from deployer.errors import DeployerError, UsageError
from deployer.gates.harness.answers import show_time
from deployer.gates.harness.report import paired
from deployer.planning.events import Outcome, Verdict, sign, word
from deployer.planning.plan import Plan, make_plan
from deployer.planning.resources import Kind
from deployer.planning.state import Release, State, node_of
from deployer.show import charts
from deployer.show.charts import Axis, Bar, Frame, Mark, Series, Shape
from deployer.show.monitor import RESTORE, WARM
from deployer.show.overview import (
    RATE,
    TTFT,
    Cost,
    Overview,
    Run,
    Seen,
    Spread,
    is_measurable,
    spread,
    verdict_of,
)
from deployer.show.text import describe, price
from deployer.spelling import harmless, secrets_of, without_secrets
from deployer.stack.fields.values import JsonValue
from deployer.usecases.context.settings import Settings
from deployer.usecases.context.stack_files import name_in, stack_files, text_of
from deployer.usecases.plan import refuse_other_file
from deployer.usecases.runs import Ran, changes_in, remembered
from deployer.usecases.states import states_in
from deployer.usecases.watch import record_of
from deployer.usecases.watch import remembered as probes

T = TypeVar("T")

_AT_ONCE: Final = 16
_KNOWN: Final = 200
"""Entries of a log that are looked at."""


def overviews(paths: Sequence[Path], settings: Settings) -> Iterator[Overview]:
    """One for each stack file, and for each state that no file asks for any more.

    What cannot be read says why.  Raises UsageError where there is no stack at all.
    """
    files = stack_files(paths)
    gone = [it for path in paths if path.is_dir() for it in _gone(path, settings)]
    if not files and not gone:
        raise UsageError(
            f"no stack in {', '.join(f'`{path}`' for path in paths)}",
            hint="stack files end in `.yaml`; `deployer init` writes one",
        )
    secrets = secrets_of(settings.environment)
    # A store that cannot be reached takes its time, for each stack anew.
    with ThreadPoolExecutor(max_workers=_AT_ONCE) as pool:
        for found in (*pool.map(partial(_overview, settings), files), *gone):
            yield _cleaned(found, secrets) if secrets else found


def _overview(settings: Settings, file: Path) -> Overview:
    name = name_in(text_of(file))
    if name is None:
        why = "cannot be read" if not text_of(file) else "names no stack"
        hint = f"`deployer validate {file}` says more"
        return Overview(file.stem, str(file), error=f"`{file}` {why}", hint=hint)
    return _read(name, file, settings)


def _read(name: str, file: Path, settings: Settings, note: str = "") -> Overview:
    """Return what is recorded under a name; an error is part of it."""
    notes = (note,) if note else ()
    try:
        state = settings.states(file, name).read()
        probed = tuple(_seen(file, name))
        if state is None:
            notes = (*notes, "never applied from here")
            return Overview(name, str(file), probes=probed, notes=notes)
        if not note:
            refuse_other_file(state, file)
        return _told(state, file, settings, probed, notes)
    except DeployerError as error:
        return Overview(name, str(file), error=error.message, hint=error.hint)
    except OSError as error:
        why = f"`{error.filename}`: {error.strerror}"
        return Overview(name, str(file), error=why)


def _gone(folder: Path, settings: Settings) -> Iterator[Overview]:
    """States of a folder that none of its files asks for."""
    asked = {name_in(text_of(file)) for file in stack_files((folder,))}
    try:
        names = states_in(folder, settings)
    except (DeployerError, OSError):
        return  # each stack of the folder says why
    for name in names:
        if name not in asked:
            note = "no stack file asks for it any more"
            yield _read(name, folder / f"{name}.yaml", settings, note)


def _told(
    state: State,
    file: Path,
    settings: Settings,
    probed: tuple[Seen, ...],
    notes: tuple[str, ...],
) -> Overview:
    live = state.releases[-1].number if state.live and state.releases else None
    graph = {a: node_of(record) for a, record in state.live.items()}
    plan = make_plan(graph, state)
    known = remembered(settings.states(file, state.stack), _KNOWN)
    known = tuple(it for it in known if it.gates or it.release is not None)
    made_of = ((it.role, describe(it)) for it in plan.changes)
    unfinished = "an earlier run did not end; the next `deployer apply` settles it"
    loose = state.promoting is not None or state.loose
    return Overview(
        stack=state.stack,
        file=str(file),
        engine=state.engine,
        serial=state.serial,
        live=live,
        made_of=tuple((kind, what) for kind, what in made_of if what),
        runs=tuple(_runs(state, live, known)),
        probes=probed,
        cost=_cost(plan),
        notes=(*notes, unfinished) if loose else notes,
    )


def _runs(state: State, live: int | None, known: Sequence[Ran]) -> Iterator[Run]:
    """Newest first: releases of the state, and what the record knows beside them."""
    recorded = {ran.release: ran for ran in known}
    found = [
        *_releases(state, live, recorded),
        *(_ran(ran) for ran in known if _is_beside(state, ran)),
    ]
    yield from sorted(found, key=lambda run: (run.at, run.number or 0), reverse=True)


def _is_beside(state: State, ran: Ran) -> bool:
    return ran.release is None or state.release(ran.release) is None


def _releases(
    state: State, live: int | None, recorded: Mapping[int | None, Ran]
) -> Iterator[Run]:
    before: Release | None = None
    for release in state.releases:
        ran = recorded.get(release.number)
        changes = None if ran is None else ran.changes
        if ran is None and before is not None:
            changes = _between(state, before, release)
        yield Run(
            at=release.at,
            cause=release.cause,
            number=release.number,
            live=release.number == live,
            kept=True,
            held_back=False,
            changes=changes,
            used=() if ran is None else ran.used,
            verdicts=_verdicts(release.gates),
            starts=release.starts,
        )
        before = release


def _between(state: State, before: Release, after: Release) -> tuple[str, ...] | None:
    """Return what two releases differ in; None where one between them is not kept."""
    if after.number != before.number + 1:
        return None
    seen = State(state.stack, state.engine, state.lineage, live=before.records)
    graph = {a: node_of(record) for a, record in after.records.items()}
    return tuple(changes_in(make_plan(graph, seen)))


def _ran(ran: Ran) -> Run:
    return Run(
        at=ran.at,
        cause=ran.cause,
        number=ran.release,
        live=False,
        kept=False,
        held_back=ran.held_back,
        changes=ran.changes,
        used=ran.used,
        verdicts=_verdicts(ran.gates),
    )


def _verdicts(gates: Sequence[Mapping[str, JsonValue]]) -> tuple[Verdict, ...]:
    return tuple(one for gate in gates if (one := verdict_of(gate)) is not None)


def _seen(file: Path, name: str) -> Iterator[Seen]:
    """The probes of a record that are whole: anybody may have written in it."""
    for probe in probes(record_of(file, name)):
        ttft, limit = probe.ttft_seconds, probe.limit_seconds
        if is_measurable(limit) and (ttft is None or is_measurable(ttft)):
            yield Seen(probe.at, probe.path, probe.ok, ttft, limit, probe.because)


def _cost(plan: Plan) -> Cost | None:
    """None where nothing is billed by the hour, as far as the price table knows."""
    if plan.change(Kind.SERVER) is None:
        return None
    try:
        found = costs_of(plan)
    except (KeyError, ValueError):
        return None  # a GPU that this version knows no price of
    if found is None:
        return None
    return Cost(found.awake, found.always, found.prices.as_of)


def _cleaned(value: T, secrets: tuple[str, ...]) -> T:
    """The value without secrets in any of its texts."""
    found: object = value
    match value:
        case StrEnum():
            return value
        case str():
            found = without_secrets(value, secrets)
        case tuple():
            found = tuple(_cleaned(it, secrets) for it in value)
        case dict():
            found = {key: _cleaned(it, secrets) for key, it in value.items()}
        case _ if is_dataclass(value) and not isinstance(value, type):
            parts = ((it.name, getattr(value, it.name)) for it in fields(value))
            found = replace(value, **{n: _cleaned(it, secrets) for n, it in parts})
        case _:
            pass
    return cast("T", found)


_MOST_MARKS: Final = 30
"""Marks of a series that can be told apart."""
_MOST_LINES: Final = 20
_FAR: Final = 8.0
"""Times the smallest value from which a linear axis hides the small ones."""
_PATHS: Final = (
    (WARM, "warm", Shape.CIRCLE),
    (RESTORE, "first after idle", Shape.DIAMOND),
)
_STEPS: Final = (10, 30, 60, 300, 900, 3600, 3 * 3600, 12 * 3600)
_DAY: Final = 86400
_TICKS: Final = 5


def spreads(probes: Sequence[Seen]) -> list[tuple[str, str, Spread]]:
    """Path, its name for people, and what was measured on it."""
    found = [(p, name, [it for it in probes if it.path == p]) for p, name, _ in _PATHS]
    return [(path, name, spread(of)) for path, name, of in found if of]


def over_time(anchor: str, overview: Overview) -> str:
    """Time to the first token, as `watch` measured it; empty where it never did."""
    probes = [(at, it) for it in overview.probes if (at := _epoch(it.at)) is not None]
    if not probes:
        return ""
    times = [at for at, _ in probes]
    values = [it.ttft_seconds for _, it in probes if it.ttft_seconds is not None]
    x = _time_axis(min(times), max(times))
    far = values and max(values) > _FAR * max(min(values), 1e-9)
    y = (charts.logarithmic if far else charts.linear)(values, show_time)
    series = [
        Series(path, shape, _marks([(at, it) for at, it in probes if it.path == path]))
        for path, _, shape in _PATHS
    ]
    releases = [
        (at, f"{run.name}, {run.cause}, {_minute(run.at)}")
        for run in overview.runs
        if run.number is not None
        and (at := _epoch(run.at)) is not None
        and x.low <= at <= x.high
    ]
    said = f"{len(probes)} probes from {_minute(probes[0][1].at)} UTC on"
    frame = Frame(anchor, "Time to the first token over time", said)
    few = releases if len(releases) <= _MOST_LINES else ()
    return charts.marks_chart(frame, x, y, series, few)


def per_release(anchor: str, runs: Sequence[Run], figure: str, most: int) -> str:
    """Return what gates measured of each release; empty where nothing was.

    ``runs`` are the newest first; the chart begins with the oldest of the last.
    """
    shown = [*reversed(runs[:most])]
    values = [value for run in shown if (value := run.figure(figure)) is not None]
    if not values:
        return ""
    show = show_time if figure == TTFT else _plain
    title = "Time to the first token" if figure == TTFT else "Tokens a second"
    said = f"{len(values)} of the last {len(shown)} runs were measured"
    frame = Frame(anchor, f"{title}, by release", said)
    bars = [_bar(run, run.figure(figure), show) for run in shown]
    return charts.bars_chart(frame, charts.linear(values, show), bars)


def _bar(run: Run, value: float | None, show: Callable[[float], str]) -> Bar:
    told = "not recorded" if value is None else show(value)
    shade = "fail" if run.held_back else "live" if run.live else "plain"
    return Bar(
        name="✖" if run.number is None else str(run.number),
        value=value,
        shown=told,
        title=f"{run.name}: {told} ({run.cause}, {_minute(run.at)} UTC)",
        shade=shade,
        outlined=run.held_back,
    )


def _marks(probes: Sequence[tuple[float, Seen]]) -> tuple[Mark, ...]:
    found = [Mark(at, it.ttft_seconds if it.ok else None, "") for at, it in probes]
    if len(found) > _MOST_MARKS:
        dated = [
            Mark(mark.x, mark.y, _minute(it.at))
            for mark, (_, it) in zip(found, probes, strict=True)
        ]
        return charts.thinned(dated, _MOST_MARKS, show_time)
    return tuple(
        Mark(at, m.y, _said(it)) for m, (at, it) in zip(found, probes, strict=True)
    )


def _said(probe: Seen) -> str:
    if probe.ttft_seconds is None or not probe.ok:
        return f"{probe.at[:19].replace('T', ' ')} UTC: {probe.because}"
    took, limit = show_time(probe.ttft_seconds), show_time(probe.limit_seconds)
    return f"{probe.at[:19].replace('T', ' ')} UTC: {took} of {limit}"


def _time_axis(low: float, high: float) -> Axis:
    """Ticks at round times; a day and more in days."""
    if high - low < 1:
        low, high = low - 30, high + 30
    span = high - low
    fine = next((s for s in _STEPS if span / s <= _TICKS), None)
    days = -(-span // (_DAY * _TICKS))
    step = float(fine or days * _DAY)
    first = -(-low // step) * step
    count = int((high - first) // step) + 1
    form = "%H:%M:%S" if step < 60 else "%H:%M" if step < _DAY else "%d %b"
    ticks = [first + n * step for n in range(count)]
    return Axis(low, high, tuple(zip(ticks, _dated(ticks, form), strict=True)))


def _dated(ticks: Sequence[float], form: str) -> list[str]:
    """The day stands where a new one begins."""
    moments = [datetime.fromtimestamp(tick, tz=UTC) for tick in ticks]
    texts = [f"{moment:{form}}" for moment in moments]
    if form.startswith("%H"):
        for number, (before, after) in enumerate(pairwise(moments), start=1):
            if before.date() != after.date():
                texts[number] = f"{after:%d %b}"
    return texts


def _epoch(at: str) -> float | None:
    """Seconds; None for what is no time."""
    try:
        moment = datetime.fromisoformat(at)
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _plain(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


SHOWN: Final = 20
"""Runs of a stack that are told in full; older ones are a line each."""
_NEW: Final = " not there yet"


def page(overviews: Sequence[Overview], at: str) -> str:
    """The whole page; ``at`` is the time, UTC and ISO 8601."""
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_visible,
    )
    environment.filters |= {
        "minute": _minute,
        "seconds": lambda value: None if value is None else show_time(value),
        "rate": lambda value: None if value is None else f"{value:,.1f}",
        "sign": sign,
        "word": word,
        "shade": _shade,
        "hourly": _hourly,
        "literals": _literals,
    }
    here = files("deployer").joinpath("templates")
    style = "".join(
        here.joinpath(name).read_text("utf-8") for name in ("page.css", "report.css")
    )
    script = here.joinpath("report.js").read_text("utf-8")
    source = here.joinpath("report.html.j2").read_text("utf-8")
    return environment.from_string(source).render(
        at=at,
        version=__version__,
        style=Markup(style),  # noqa: S704 - a file of ours
        script=Markup(script),  # noqa: S704 - a file of ours
        policy=_policy(style, script),
        counts=_counts(overviews),
        stacks=[_stack(f"s{n}", one) for n, one in enumerate(overviews, start=1)],
    )


def _stack(anchor: str, overview: Overview) -> dict[str, object]:
    """A stack with what the template would have to work out."""
    told = [run for run in overview.runs if run.number is not None or run.held_back]
    charts = [
        per_release(f"{anchor}-ttft", told, TTFT, SHOWN),
        per_release(f"{anchor}-rate", told, RATE, SHOWN),
    ]
    latency = over_time(f"{anchor}-watch", overview)
    return {
        "anchor": anchor,
        "it": overview,
        "live": overview.live_run,
        "latency": latency and Markup(latency),  # noqa: S704 - escapes all it holds
        "charts": [Markup(one) for one in charts if one],  # noqa: S704 - as above
        "spreads": spreads(overview.probes),
        "latest": {path: known.last for path, _, known in spreads(overview.probes)},
        "runs": [_run(run, overview.gates) for run in overview.runs[:SHOWN]],
        "older": [_run(run, ()) for run in overview.runs[SHOWN:]],
        "billed": any(run.used for run in overview.runs),
    }


def _run(run: Run, gates: Sequence[str]) -> dict[str, object]:
    by_gate = {one.gate: one for one in run.verdicts}
    return {
        "it": run,
        "cells": [by_gate.get(gate) for gate in gates],
        "changes": _changes(run.changes),
        "amiss": [one for one in run.verdicts if _is_amiss(one, run)],
        "ttft": run.figure(TTFT),
        "rate": run.figure(RATE),
    }


def _is_amiss(verdict: Verdict, run: Run) -> bool:
    """Return what held a run back; of what is live also what did not pass."""
    failed = verdict.outcome is not Outcome.PASS
    return verdict.blocks or (run.live and failed)


def _changes(changes: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """Return what changed; of a first release that everything is new."""
    if changes and all(change.endswith(_NEW) for change in changes):
        new = ", ".join(change.removesuffix(_NEW) for change in changes)
        return (f"everything is new: {new}",)
    return changes


def _counts(overviews: Sequence[Overview]) -> list[tuple[str, int]]:
    runs = [run for one in overviews for run in one.runs]
    return [
        ("stacks", len(overviews)),
        ("live", sum(one.live is not None for one in overviews)),
        ("releases recorded", sum(run.number is not None for run in runs)),
        ("not promoted: blocked by gates", sum(run.held_back for run in runs)),
        ("not readable", sum(bool(one.error) for one in overviews)),
    ]


def _policy(style: str, script: str) -> str:
    return (
        f"default-src 'none'; style-src '{_digest(style)}';"
        f" script-src '{_digest(script)}'; base-uri 'none'; form-action 'none'"
    )


def _digest(text: str) -> str:
    """As a policy names what it allows."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _visible(value: object) -> object:
    """Texts of stacks without what would not be seen; nothing where nothing is."""
    if value is None:
        return ""
    return harmless(value) if type(value) is str else value


def _literals(text: str) -> Markup:
    """Return what stands in backticks, as code."""
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if number % 2 else part
        for number, part in enumerate(paired(harmless(text)))
    )


def _minute(at: str) -> str:
    """A time as people read it, from one as the state keeps it."""
    return at[:16].replace("T", " ")


def _shade(verdict: Verdict) -> str:
    return verdict.outcome.value if verdict.applicable else "inapplicable"


def _hourly(cost: Cost) -> str:
    times = f"{cost.always} times " if cost.always > 1 else ""
    when = "always" if cost.always else "while awake"
    return f"{times}{price(cost.awake_hour)}/h {when}"
