"""`snapshot.enabled: auto` decides by what was measured, once, and says why."""

import pytest

from deployer.planning.plan import make_plan
from deployer.planning.resources import Graph, Kind
from deployer.planning.state import Measured, decided
from deployer.show.text import plan_text
from deployer.testing import CrashError, FakeEngine, Fuse
from tests.applying import SERVER, Desk, graph
from tests.planning.checking import LOCAL, but

AUTO = LOCAL + "snapshot: {enabled: auto}\n"
TRUE = LOCAL + "snapshot: {enabled: true}\n"
WHY = "a restore takes 2.0 s, a plain start 1.0 s"
STARTS = "plain start 1.0 s · capture 3.0 s · restore 2.0 s"


@pytest.mark.parametrize(
    ("took", "line", "why"),
    [
        (
            (41.0, 95.0, 19.0),
            "plain start 41 s · capture 1 min 35 s · restore 19 s",
            "",
        ),
        (
            (10.0, 30.0, 8.5),
            "plain start 10 s · capture 30 s · restore 8.5 s",
            "a restore takes 8.5 s, a plain start 10 s",
        ),
        (
            (10.0, None, 8.0),
            "plain start 10 s · capture not measured · restore 8.0 s",
            "",
        ),
        (
            (10.0, 30.0, None),
            "plain start 10 s · capture 30 s · restore not measured",
            "no restore was measured",
        ),
        (
            (None, 30.0, 8.0),
            "plain start not measured · capture 30 s · restore 8.0 s",
            "no plain start was measured",
        ),
    ],
)
def test_what_is_not_measured_counts_for_nothing(
    took: tuple[float | None, float | None, float | None], line: str, why: str
) -> None:
    assert (Measured(*took).line, Measured(*took).why_not) == (line, why)


def asked(desk: Desk, text: str) -> Graph:
    """What a plan compares with the state."""
    return decided(graph(text), desk.state)


def test_a_snapshot_that_is_not_worth_it_is_not_used() -> None:
    desk = Desk(FakeEngine(slow=True))
    desk.apply(asked(desk, AUTO))
    (live,) = [r for r in desk.state.live.values() if r.kind is Kind.SERVER]
    assert Kind.SNAPSHOT not in live.needs
    assert set(desk.engine.running) == {(SERVER, live.key)}
    release = desk.state.live_release
    assert release is not None
    assert release.starts == f"{STARTS}; the snapshot is not used: {WHY}"
    plan = make_plan(asked(desk, AUTO), desk.state)
    assert plan.is_empty
    assert f"starts   {STARTS}; the snapshot is not used: {WHY}" in plan_text(plan, {})


def test_true_insists_and_auto_remembers() -> None:
    desk = Desk(FakeEngine(slow=True))
    desk.apply(asked(desk, AUTO))
    desk.apply(asked(desk, TRUE))
    assert Kind.SNAPSHOT in desk.state.live[SERVER].needs
    desk.engine.slow = False
    desk.apply(asked(desk, AUTO))
    assert Kind.SNAPSHOT not in desk.state.live[SERVER].needs, "measured before"
    assert make_plan(asked(desk, AUTO), desk.state).is_empty


def test_another_server_is_measured_again() -> None:
    desk = Desk(FakeEngine(slow=True))
    desk.apply(asked(desk, AUTO))
    desk.engine.slow = False
    wider = but(AUTO, "4096", "8192")
    plan = make_plan(asked(desk, wider), desk.state)
    assert "server.ctx_size   4096 → 8192" in plan_text(plan, {})
    assert "unset" not in plan_text(plan, {})
    desk.apply(asked(desk, wider))
    assert Kind.SNAPSHOT in desk.state.live[SERVER].needs


@pytest.mark.parametrize("after", [False, True])
def test_a_run_that_dies_anywhere_is_carried_on(*, after: bool) -> None:
    """Between the decision and the end of the run, too."""
    reached = 0
    for at in range(1, 40):
        desk = Desk(FakeEngine(slow=True))
        desk.engine.fuse = desk.store.fuse = Fuse(at, after=after)
        try:
            desk.apply(asked(desk, AUTO))
        except CrashError:
            reached += 1
        desk.engine.fuse = desk.store.fuse = Fuse()
        desk.apply(asked(desk, AUTO))
        assert desk.settled(asked(desk, AUTO)), at
        assert Kind.SNAPSHOT not in desk.state.live[SERVER].needs
    assert 10 < reached < 39, "every effect, and to the end"
