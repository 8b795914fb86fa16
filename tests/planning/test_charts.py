"""Charts: where marks stand, what they say, and what becomes of many."""

import re
from xml.etree import ElementTree as ET

from deployer.show.charts import (
    HEIGHT,
    LEFT,
    RIGHT,
    WIDTH,
    Axis,
    Bar,
    Frame,
    Mark,
    Series,
    Shape,
    bars_chart,
    linear,
    logarithmic,
    marks_chart,
    thinned,
)

FRAME = Frame("c", "A title", "What it shows")
TIME = Axis(0, 10, ((0, "00:00"), (10, "00:10")))


def show(value: float) -> str:
    return f"{value:g}"


def test_a_linear_axis_begins_at_nought_and_ends_above_the_largest() -> None:
    axis = linear([3, 41], show)
    assert [label for _, label in axis.ticks] == ["0", "20", "40", "60"]
    assert (axis.at(0), axis.at(30), axis.at(1000)) == (0, 0.5, 1)


def test_a_logarithmic_axis_has_round_ends() -> None:
    axis = logarithmic([0.03, 4], show)
    assert (axis.low, axis.high) == (0.02, 5)
    assert axis.ticks[0] == (0.02, "0.02")
    assert axis.at(0) == 0


def test_axes_of_nothing_and_of_equal_values_are_axes() -> None:
    for make in (linear, logarithmic):
        for values in ([], [0.0], [5.0, 5.0]):
            axis = make(values, show)
            assert axis.low < axis.high
            assert axis.ticks


def test_marks_stand_inside_and_say_what_they_are() -> None:
    marks = (Mark(0, 1, "first"), Mark(5, None, "none <b>"), Mark(10, 2, "last"))
    svg = ET.fromstring(  # noqa: S314 - ours
        marks_chart(
            FRAME, TIME, linear([2], show), [Series("warm", Shape.CIRCLE, marks)]
        )
    )
    assert svg.attrib["aria-labelledby"] == "c-t c-d"
    titles = [it.text for it in svg.iter("title")]
    assert titles == ["A title", "first", "none <b>", "last"]
    places = [float(it.attrib["cx"]) for it in svg.iter("circle")]
    assert places == [LEFT, WIDTH - RIGHT]


def test_a_line_breaks_where_nothing_was_measured() -> None:
    marks = (Mark(0, 1, ""), Mark(3, 1, ""), Mark(5, None, ""), Mark(10, 2, ""))
    svg = marks_chart(
        FRAME, TIME, linear([2], show), [Series("warm", Shape.DIAMOND, marks)]
    )
    (line,) = re.findall(r'class="thread warm" d="([^"]+)"', svg)
    assert (line.count("M"), line.count("L")) == (2, 1)


def test_a_bar_that_was_not_recorded_is_no_bar() -> None:
    bars = [
        Bar("1", 4, "4 ms", "release 1: 4 ms", "plain"),
        Bar("2", None, "not recorded", "release 2: not recorded", "plain"),
    ]
    svg = ET.fromstring(bars_chart(FRAME, linear([4], show), bars))  # noqa: S314
    (bar,) = svg.iter("rect")
    assert float(bar.attrib["y"]) + float(bar.attrib["height"]) <= HEIGHT
    assert "release 2: not recorded" in [it.text for it in svg.iter("title")]


def test_of_many_bars_the_newest_is_always_named() -> None:
    bars = [Bar(str(n), n, show(n), "", "plain") for n in range(1, 34)]
    svg = bars_chart(FRAME, linear([33], show), bars)
    names = re.findall(r'y="192.0" text-anchor="middle">(\d+)<', svg)
    assert names[-1] == "33"
    assert len(names) <= 10


def test_many_marks_become_few_and_lose_no_extreme_and_no_failure() -> None:
    marks = [Mark(n, None if n == 50 else 1 + n % 7, f"t{n}") for n in range(100)]
    few = thinned(marks, 10, show)
    assert len(few) == 11
    reaches = [mark.reach for mark in few if mark.reach]
    assert (min(low for low, _ in reaches), max(h for _, h in reaches)) == (1, 7)
    (failed,) = (mark for mark in few if mark.y is None)
    assert failed.title == "1 of 10 failed; t50 to t59"
    assert thinned(marks, 100, show) == tuple(marks)
