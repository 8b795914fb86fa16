"""What is shown of a step while it runs."""

import time

import pytest

from deployer.cli.progress_display import Show
from deployer.planning.events import Ended, Started, Talk
from deployer.planning.steps import Forget


def test_without_a_terminal_a_silent_step_says_now_and_then_that_it_runs(
    capsys: pytest.CaptureFixture[str],
) -> None:
    show, step, begun = Show("deployer apply x"), Forget(), time.monotonic()
    show.tick(begun + 60)
    show(Started(step))
    for seconds in (3, 7, 8, 14):
        show.tick(begun + seconds)
    show(Talk("demo/server", "at work"))
    show(Ended(step, 15.0))
    show.tick(begun + 60)
    said = capsys.readouterr().err.splitlines()
    assert [line.rpartition(",")[0].strip() for line in said] == [
        "forget what was live"
    ] * 2


def test_what_is_shown_aside_leaves_stdout_to_the_result(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Show("deployer fit x", aside=True)(Talk("fit", "fetches"))
    assert capsys.readouterr() == ("", "    fit: fetches\n")
