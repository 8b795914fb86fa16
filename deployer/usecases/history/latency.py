"""Latency as charts: what `watch` saw over time, and what gates measured."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from itertools import pairwise
from typing import Final

from deployer.gates.harness.answers import show_time
from deployer.show import charts
from deployer.show.charts import Axis, Bar, Frame, Mark, Series, Shape
from deployer.show.monitor import RESTORE, WARM
from deployer.show.overview import TTFT, Overview, Run, Seen, Spread, spread

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


def _minute(at: str) -> str:
    """A time as people read it, from one as the state keeps it."""
    return at[:16].replace("T", " ")


def _plain(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
