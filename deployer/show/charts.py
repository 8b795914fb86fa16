"""Charts as inline SVG, as pure text: a shape for each series, a title on every mark.

Colours are classes of the page that the chart stands in; nothing is told by colour
alone, and nothing needs a script.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from html import escape
from statistics import median
from typing import Final

from deployer.spelling import harmless

WIDTH, HEIGHT = 440, 200
LEFT, RIGHT, TOP, BOTTOM = 54, 10, 16, 26
_RADIUS: Final = 3.6
_MOST_NUMBERS: Final = 10
"""Bars that have room for their value, and for their name."""
_STEPS: Final = (1, 2, 2.5, 5, 10)
_FEW: Final = 0.55
"""Powers of ten of an axis below which it has ticks in between."""


class Shape(StrEnum):
    """How the marks of a series look."""

    CIRCLE = "circle"
    DIAMOND = "diamond"


@dataclass(frozen=True, slots=True)
class Mark:
    """One thing that was measured, or several of them together."""

    x: float
    y: float | None
    """None: nothing could be measured; a cross at the top."""
    title: str
    reach: tuple[float, float] | None = None
    """The smallest and the largest, where it stands for several."""


@dataclass(frozen=True, slots=True)
class Series:
    """Marks that belong together."""

    shade: str
    """Class of the page."""
    shape: Shape
    marks: tuple[Mark, ...]


@dataclass(frozen=True, slots=True)
class Axis:
    """Where a value stands between 0 and 1."""

    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]
    logarithmic: bool = False

    def at(self, value: float) -> float:
        """The share of the way; what is outside stands at the end."""
        low, high = self.low, self.high
        if self.logarithmic:
            value, low, high = (math.log10(max(v, low)) for v in (value, low, high))
        share = (value - low) / (high - low) if high > low else 0.5
        return min(1.0, max(0.0, share))


@dataclass(frozen=True, slots=True)
class Bar:
    """One column."""

    name: str
    value: float | None
    """None: not recorded; there is no column then."""
    shown: str
    title: str
    shade: str
    outlined: bool = False


@dataclass(frozen=True, slots=True)
class Frame:
    """The names of a chart."""

    id: str
    """Unique in its page."""
    title: str
    description: str
    """One sentence for those who do not see it."""


def marks_chart(
    frame: Frame,
    x: Axis,
    y: Axis,
    series: Sequence[Series],
    lines: Sequence[tuple[float, str]] = (),
) -> str:
    """Marks over time; ``lines`` are moments with a title."""
    parts = [*_scale(y), *_moments(x, lines), *_below(x)]
    for one in series:
        parts += _path(one, x, y)
        parts += [_mark(mark, one, x, y) for mark in one.marks]
    return _svg(frame, parts)


def bars_chart(frame: Frame, y: Axis, bars: Sequence[Bar]) -> str:
    """Columns beside each other, the oldest first."""
    step = _inside_width() / max(1, len(bars))
    every = math.ceil(len(bars) / _MOST_NUMBERS)
    parts = [*_scale(y)]
    for number, bar in enumerate(bars):
        middle = LEFT + step * (number + 0.5)
        named = (len(bars) - 1 - number) % every == 0
        parts += _column(bar, middle, min(34.0, step * 0.72), y)
        if named:
            parts.append(_text(middle, HEIGHT - 8, bar.name, "middle"))
        if len(bars) <= _MOST_NUMBERS and bar.value is not None:
            top = _down(y, bar.value) - 4
            parts.append(_text(middle, top, bar.shown, "middle", "number"))
    return _svg(frame, parts)


def linear(values: Sequence[float], show: Callable[[float], str]) -> Axis:
    """From nought to a round number above the largest value."""
    largest = max([*values, 0.0]) or 1.0
    rough = largest * 1.1 / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(s * power for s in _STEPS if s * power >= rough * 0.999)
    count = math.ceil(largest * 1.05 / step)
    ticks = tuple((n * step, show(n * step)) for n in range(count + 1))
    return Axis(0.0, count * step, ticks)


def logarithmic(values: Sequence[float], show: Callable[[float], str]) -> Axis:
    """For values that are far from each other; above nought only."""
    known = [value for value in values if value > 0] or [1.0]
    low = _round_below(min(known) * 0.95)
    high = max(_round_above(max(known) * 1.05), low * 2)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    few = math.log10(high / low) < 2 + _FEW
    steps = (1.0, 2.0, 5.0) if few else (1.0,)
    found = [s * 10.0**p for p in powers for s in steps]
    ticks = [value for value in found if low * 0.999 <= value <= high * 1.001]
    return Axis(low, high, tuple((t, show(t)) for t in ticks), logarithmic=True)


def thinned(
    marks: Sequence[Mark], most: int, show: Callable[[float], str]
) -> tuple[Mark, ...]:
    """At most so many marks: neighbours become one, with what they reach over."""
    if len(marks) <= most:
        return tuple(marks)
    size = math.ceil(len(marks) / most)
    groups = [marks[n : n + size] for n in range(0, len(marks), size)]
    return tuple(mark for group in groups for mark in _together(group, show))


def _together(group: Sequence[Mark], show: Callable[[float], str]) -> Iterator[Mark]:
    first, last = group[0].title, group[-1].title
    middle = (group[0].x + group[-1].x) / 2
    values = [mark.y for mark in group if mark.y is not None]
    if values:
        low, half, high = min(values), median(values), max(values)
        told = f"{len(values)}: {show(low)} to {show(high)}, half within {show(half)}"
        title = f"{told}; {first} to {last}"
        yield Mark(middle, half, title, (low, high))
    if failed := len(group) - len(values):
        title = f"{failed} of {len(group)} failed; {first} to {last}"
        yield Mark(middle, None, title)


def _scale(y: Axis) -> Iterator[str]:
    for value, label in y.ticks:
        down = _down(y, value)
        yield (
            f'<line class="grid" x1="{LEFT}" y1="{down:.1f}"'
            f' x2="{WIDTH - RIGHT}" y2="{down:.1f}"/>'
        )
        yield _text(LEFT - 7, down + 4, label, "end")


def _below(x: Axis) -> Iterator[str]:
    for number, (value, label) in enumerate(x.ticks):
        at = _across(x, value)
        edge = at > WIDTH - RIGHT - 30
        anchor = "end" if edge else "start" if not number and at < LEFT + 20 else ""
        yield _text(at, HEIGHT - 8, label, anchor or "middle")


def _moments(x: Axis, lines: Sequence[tuple[float, str]]) -> Iterator[str]:
    for value, title in lines:
        at = _across(x, value)
        yield (
            f'<path class="moment" d="M{at:.1f} {TOP}V{HEIGHT - BOTTOM}">'
            f"<title>{_safe(title)}</title></path>"
        )


def _path(series: Series, x: Axis, y: Axis) -> Iterator[str]:
    """The line through what was measured; it breaks where something failed."""
    drawn, pen = "", "M"
    for mark in series.marks:
        if mark.y is None:
            pen = "M"
            continue
        drawn += f"{pen}{_across(x, mark.x):.1f} {_down(y, mark.y):.1f}"
        pen = "L"
    if drawn:
        yield f'<path class="thread {series.shade}" d="{drawn}"/>'


def _mark(mark: Mark, series: Series, x: Axis, y: Axis) -> str:
    at, title = _across(x, mark.x), f"<title>{_safe(mark.title)}</title>"
    if mark.y is None:
        cross = f"M{at - 4:.1f} {TOP - 4}l8 8m0 -8l-8 8"
        return f'<path class="cross" d="{cross}">{title}</path>'
    down = _down(y, mark.y)
    reach = ""
    if mark.reach is not None:
        low, high = (_down(y, value) for value in mark.reach)
        reach = f'<path class="reach" d="M{at:.1f} {low:.1f}V{high:.1f}"/>'
    r = _RADIUS
    if series.shape is Shape.CIRCLE:
        drawn = f'<circle cx="{at:.1f}" cy="{down:.1f}" r="{r}"/>'
    else:
        way = f"M{at:.1f} {down - r - 1:.1f}l{r + 1} {r + 1}l-{r + 1} {r + 1}"
        drawn = f'<path d="{way}l-{r + 1} -{r + 1}z"/>'
    return f'<g class="mark {series.shade}">{title}{reach}{drawn}</g>'


def _column(bar: Bar, middle: float, width: float, y: Axis) -> Iterator[str]:
    if bar.value is None:
        yield _text(middle, HEIGHT - BOTTOM - 4, "·", "middle", "lacking", bar.title)
        return
    top, foot = _down(y, bar.value), HEIGHT - BOTTOM
    kind = "outlined" if bar.outlined else "filled"
    yield (
        f'<rect class="{kind} {bar.shade}" x="{middle - width / 2:.1f}" y="{top:.1f}"'
        f' width="{width:.1f}" height="{max(1.0, foot - top):.1f}" rx="2">'
        f"<title>{_safe(bar.title)}</title></rect>"
    )


def _text(
    x: float, y: float, text: str, anchor: str, kind: str = "tick", title: str = ""
) -> str:
    inner = f"<title>{_safe(title)}</title>" if title else ""
    return (
        f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">'
        f"{inner}{_safe(text)}</text>"
    )


def _svg(frame: Frame, parts: Sequence[str]) -> str:
    return (
        f'<svg class="chart" role="img" viewBox="0 0 {WIDTH} {HEIGHT}"'
        f' aria-labelledby="{frame.id}-t {frame.id}-d">'
        f'<title id="{frame.id}-t">{_safe(frame.title)}</title>'
        f'<desc id="{frame.id}-d">{_safe(frame.description)}</desc>'
        f"{''.join(parts)}</svg>"
    )


def _safe(text: str) -> str:
    return escape(harmless(text), quote=True)


def _across(x: Axis, value: float) -> float:
    return LEFT + _inside_width() * x.at(value)


def _down(y: Axis, value: float) -> float:
    return TOP + (HEIGHT - TOP - BOTTOM) * (1 - y.at(value))


def _inside_width() -> float:
    return WIDTH - LEFT - RIGHT


def _round_below(value: float) -> float:
    power = 10.0 ** math.floor(math.log10(value))
    return float(max(s * power for s in (1, 2, 5) if s * power <= value * 1.0001))


def _round_above(value: float) -> float:
    power = 10.0 ** math.floor(math.log10(value))
    return float(min(s * power for s in (1, 2, 5, 10) if s * power >= value * 0.9999))
