"""What took over is not what was proven, where an engine makes it anew: a short look.

So it is on Modal, where the candidate is an app of its own.
"""

from collections.abc import Sequence

import pytest

from deployer.errors import GateError
from deployer.planning.events import Verdict
from deployer.planning.state import Record
from deployer.testing import FakeEngine, FakeJudge
from tests.applying import GATED, SERVER, Desk
from tests.planning.checking import but

WIDER = but(GATED, "4096", "8192")


class LiveJudge(FakeJudge):
    """Fails what it is told to, but for candidates."""

    def __call__(
        self, record: Record, gates: Sequence[str], *, candidate: bool
    ) -> tuple[Verdict, ...]:
        fails, self.fails = self.fails, () if candidate else self.fails
        try:
            return super().__call__(record, gates, candidate=candidate)
        finally:
            self.fails = fails


@pytest.fixture
def desk() -> Desk:
    return Desk(engine=FakeEngine(remakes=True), judge=LiveJudge())


def test_it_is_of_the_gates_that_take_no_time(desk: Desk) -> None:
    desk.apply(GATED)
    assert desk.judge.asked == [(SERVER, True), (SERVER, False)]
    assert desk.state.live[SERVER].outputs["live"]


def test_what_was_live_gets_the_traffic_back(desk: Desk) -> None:
    desk.apply(GATED)
    before = desk.state.live[SERVER]
    desk.judge.fails = ("chat",)
    with pytest.raises(GateError, match="not promoted: failed `chat`"):
        desk.apply(WIDER)
    assert desk.engine.traffic == {SERVER: before.key}
    assert [*desk.engine.running] == [(SERVER, before.key)]
    assert (desk.state.live[SERVER], desk.state.promoting) == (before, None)
    assert desk.state.loose == ()


def test_where_nothing_was_live_nothing_is_left(desk: Desk) -> None:
    desk.judge.fails = ("chat",)
    with pytest.raises(GateError):
        desk.apply(GATED)
    assert (desk.engine.running, desk.engine.traffic) == ({}, {})
    assert desk.state.live == {}


def test_a_stack_may_keep_what_does_not_pass(desk: Desk) -> None:
    desk.judge.fails = ("chat",)
    desk.apply(GATED + "rollout: {on_failure: keep}\n")
    assert desk.state.live
