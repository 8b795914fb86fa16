"""Plots as SVG, readable on light and on dark pages alike.

The background is the page's own, and text and lines are of a grey with the same
contrast to white as to GitHub's dark page.  Text stays text.
"""

import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import assert_never

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.result import Bars, Lines, Plot

INK = "#7a7a7a"
OURS = "#2f81f7"
OTHERS = "#a3a8ae"
_COLOURS = ("#d29922", "#8957e5", "#3fb950", "#db6d28")
_WIDTH = 8.6
_BAR = 0.34


def draw(plot: Plot, file: Path) -> None:
    """Write a plot; the same values are the same bytes."""
    with styled():
        match plot:
            case Bars():
                figure = _bars(plot)
            case Lines():
                figure = _lines(plot)
            case _:
                assert_never(plot)
        figure.savefig(
            file, transparent=True, bbox_inches="tight", metadata={"Date": None}
        )


@contextmanager
def styled() -> Iterator[None]:
    """Draw what is drawn within in the style of these plots."""
    with mpl.rc_context():
        mpl.rc("svg", fonttype="none", hashsalt="deployer")
        mpl.rc("font", family="sans-serif", size=10.5)
        mpl.rc("text", color=INK)
        mpl.rc("axes", labelcolor=INK, edgecolor=INK)
        mpl.rc("xtick", color=INK)
        mpl.rc("ytick", color=INK)
        yield


def _bars(plot: Bars) -> Figure:
    figure = Figure(figsize=(_WIDTH, _BAR * len(plot.bars) + 1.1), layout="tight")
    axes = figure.subplots()
    medians = [statistics.median(bar.values) for bar in plot.bars]
    places = range(len(plot.bars))
    colours = [OURS if bar.ours else OTHERS for bar in plot.bars]
    axes.barh(places, medians, color=colours, height=0.68)
    all_values = [value for bar in plot.bars for value in bar.values]
    longest = max(*all_values, *plot.limits.values(), 0.0)
    for place, bar, median in zip(places, plot.bars, medians, strict=True):
        axes.plot(
            bar.values, [place] * len(bar.values), "o", ms=2.6, color=INK, alpha=0.8
        )
        end = max(bar.values)
        text = f"{median:.3g}"
        axes.annotate(
            text, (end, place), (6, 0), textcoords="offset points", va="center"
        )
    if plot.log:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.set_xlim(0.8, longest * 1.6)
    else:
        axes.set_xlim(0, longest * 1.12)
    for name, value in plot.limits.items():
        axes.axvline(value, color=INK, lw=1, ls="--")
        axes.annotate(
            name, (value, -0.62), (3, 0), textcoords="offset points", fontsize=9
        )
    axes.set_yticks(places, [bar.label for bar in plot.bars])
    axes.set_ylim(len(plot.bars) - 0.4, -0.8)  # the first one on top
    axes.set_xlabel(plot.unit)
    _bare(axes, plot.title)
    axes.tick_params(axis="y", length=0)
    return figure


def _lines(plot: Lines) -> Figure:
    figure = Figure(figsize=(_WIDTH, 3.6), layout="tight")
    axes = figure.subplots()
    others = iter(_COLOURS * len(plot.lines))
    for line in plot.lines:
        colour = OURS if line.ours else next(others)
        across, up = zip(*line.points, strict=True)
        axes.plot(across, up, "o-", color=colour, ms=4, lw=1.8)
        axes.annotate(
            line.label,
            line.points[-1],
            (7, 0),
            textcoords="offset points",
            color=colour,
            va="center",
        )
    if plot.log:
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_major_formatter("{x:g}")
    else:
        axes.set_ylim(bottom=0)
    axes.set_xlabel(plot.across)
    axes.set_ylabel(plot.up)
    axes.grid(visible=True, color=INK, alpha=0.2, lw=0.8)
    _bare(axes, plot.title)
    return figure


def _bare(axes: Axes, title: str) -> None:
    axes.set_title(title, loc="left", fontsize=12, fontweight="bold")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.patch.set_alpha(0)
