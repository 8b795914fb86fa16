"""The apply loop when something fails, dies or is cancelled: what is left."""

from collections.abc import Callable, Sequence

import pytest

from deployer.errors import (
    CancelledError,
    EngineError,
    GateError,
)
from deployer.planning.events import Ended, Event, Say, Started, Talk, Verdict
from deployer.planning.plan import Drift, make_plan
from deployer.planning.resources import Kind
from deployer.planning.state import Record, State
from deployer.planning.steps import Forget, Stage
from deployer.testing import FakeJudge, unheard
from tests.applying import (
    GATED,
    OTHER_BUILD,
    REPLACE,
    SCALED,
    SERVER,
    WIDER,
    WIDER_REPLACE,
    Desk,
    MeetingEngine,
    graph,
)
from tests.planning.checking import LOCAL, MODAL, but


@pytest.fixture(name="desk")
def _desk() -> Desk:
    return Desk()


def test_a_failed_gate_retires_the_candidate_and_leaves_live_alone(desk: Desk) -> None:
    desk.apply(GATED)
    desk.judge = FakeJudge(["chat"])
    wider = but(GATED, "4096", "8192")
    assert desk.fail(wider, GateError) == [
        "  staging server, live 1",
        "stage demo/server",
        "  staged server, live 1",
        "retire demo/server",
        "  live 1",
    ]
    assert desk.settled(GATED)
    assert desk.engine.outages == []


def test_a_failed_gate_is_named(desk: Desk) -> None:
    desk.judge = FakeJudge(["chat"])
    with pytest.raises(GateError, match="not promoted: failed `chat`") as caught:
        desk.apply(GATED)
    assert caught.value.hint.startswith("the candidate was retired")


def test_a_failed_gate_brings_back_what_was_stopped_to_make_room(desk: Desk) -> None:
    desk.apply(REPLACE)
    desk.judge = FakeJudge(["health"])
    diary = desk.fail(WIDER_REPLACE, GateError)
    assert diary[-4:] == [
        "retire demo/server",
        "  stopped server, live 1",
        "start demo/server",
        "  live 1",
    ]
    assert desk.settled(REPLACE)


class BrokenJudge(FakeJudge):
    """Ends in whatever it is given, as a defect of ours or Ctrl-C would."""

    def __init__(self, ends: BaseException) -> None:
        super().__init__()
        self._ends = ends

    def __call__(
        self, record: Record, gates: Sequence[str], *, candidate: bool
    ) -> tuple[Verdict, ...]:
        del record, gates, candidate
        raise self._ends


@pytest.mark.parametrize(
    "ends",
    [RuntimeError("a defect"), KeyboardInterrupt(), SystemExit(1), MemoryError()],
    ids=lambda ends: type(ends).__name__,
)
@pytest.mark.parametrize("wanted", [(LOCAL, WIDER), (REPLACE, WIDER_REPLACE)])
def test_whatever_ends_a_run_retires_the_candidate(
    desk: Desk, ends: BaseException, wanted: tuple[str, str]
) -> None:
    before, after = wanted
    desk.apply(before)
    desk.judge = BrokenJudge(ends)
    with pytest.raises(type(ends)):
        desk.apply(after)
    assert desk.settled(before)


def test_a_promotion_that_cannot_be_written_retires_the_candidate(desk: Desk) -> None:
    desk.apply(LOCAL)
    write = desk.store.write

    def refuse(state: State, *, expect: int) -> None:
        if state.promoting is not None:
            raise RuntimeError("a defect")
        write(state, expect=expect)

    desk.store.write = refuse  # type: ignore[method-assign]
    with pytest.raises(RuntimeError):
        desk.apply(WIDER)
    assert desk.settled(LOCAL)


@pytest.mark.parametrize("call", ["stage server", "stop server"])
def test_a_failed_call_brings_back_what_was_stopped(desk: Desk, call: str) -> None:
    desk.apply(REPLACE)
    desk.fail(WIDER_REPLACE, EngineError, [call])
    assert desk.settled(REPLACE)


def test_a_candidate_that_cannot_be_retired_is_left_to_the_next_run(
    desk: Desk,
) -> None:
    """And what was stopped to make room comes back all the same."""
    desk.apply(REPLACE)
    desk.judge = FakeJudge(["health"])
    desk.fail(WIDER_REPLACE, GateError, ["retire server"])
    assert desk.engine.observe(desk.state.live[SERVER]).running
    assert [it.begun for it in desk.state.loose] == ["staged"]
    desk.judge = FakeJudge()
    desk.apply(REPLACE)
    assert desk.settled(REPLACE)


def test_a_crash_after_the_stop_is_repaired_by_the_next_run(desk: Desk) -> None:
    desk.apply(REPLACE)
    desk.crash(WIDER_REPLACE, at=1, after=True)
    assert desk.engine.running == {}
    assert desk.apply(REPLACE) == ["start demo/server", "  live 1"]
    assert desk.settled(REPLACE)


def test_a_failed_build_leaves_what_is_live(desk: Desk) -> None:
    desk.apply(LOCAL)
    desk.fail(OTHER_BUILD, EngineError, ["stage build"])
    assert desk.engine.observe(desk.state.live[SERVER]).running
    desk.apply(OTHER_BUILD)
    assert desk.settled(OTHER_BUILD)


def test_a_failed_promotion_is_resumed(desk: Desk) -> None:
    """Whether the traffic moved is not known, so the candidate must not be retired."""
    desk.apply(LOCAL)
    desk.fail(WIDER, EngineError, ["promote server"])
    assert len(desk.engine.running) == 2
    assert desk.apply(WIDER) == [
        "start demo/server",
        "promote demo/server",
        "  retiring server, live 2",
        "  retiring server, live 2",
        "retire demo/server",
        "  live 2",
    ]


def test_a_promotion_is_resumed_after_a_reboot(desk: Desk) -> None:
    desk.apply(LOCAL)
    desk.crash(WIDER, at=2, after=True)
    desk.engine.reboot()
    desk.apply(WIDER)
    assert desk.settled(WIDER)


def test_a_release_that_cannot_be_started_again_is_dropped(desk: Desk) -> None:
    """It would be resumed, and fail, in every later run."""
    desk.apply(LOCAL)
    desk.crash(WIDER, at=2)
    desk.engine.reboot()
    desk.engine.fails = {"start server"}
    with pytest.raises(EngineError, match="release 2 could not be started again"):
        desk.apply(WIDER)
    assert desk.state.promoting is None
    assert desk.state.loose == ()
    desk.engine.fails = set()
    desk.apply(LOCAL, drift=(Drift(SERVER, "gone"),))
    assert desk.settled(LOCAL)


def test_a_live_server_has_the_traffic_again_after_a_dropped_release(
    desk: Desk,
) -> None:
    """The hand-over was done, a reboot came, and the new one starts no more."""
    desk.apply(LOCAL)
    desk.crash(WIDER, at=2, after=True)
    desk.engine.reboot()
    desk.fail(WIDER, EngineError, fails={"start server"})
    desk.apply(LOCAL, drift=(Drift(SERVER, "gone"),))
    assert desk.settled(LOCAL)


def test_a_release_that_answers_is_never_dropped(desk: Desk) -> None:
    """A hand-over that died half way may have given it the traffic already."""
    desk.crash(LOCAL, at=4, after=True)
    assert desk.engine.traffic
    desk.fail(LOCAL, EngineError, fails={"start server"})
    assert desk.engine.outages == []
    desk.apply(LOCAL)
    assert desk.settled(LOCAL)


def test_a_promotion_is_resumed_before_the_stack_of_today(desk: Desk) -> None:
    desk.apply(LOCAL)
    desk.crash(WIDER, at=2)
    desk.apply(OTHER_BUILD)
    assert desk.settled(OTHER_BUILD)
    assert [release.number for release in desk.state.releases] == [1, 2, 3]


def test_a_destroy_does_not_resume_a_promotion(desk: Desk) -> None:
    desk.apply(LOCAL)
    desk.crash(WIDER, at=2, after=True)
    assert "promote demo/server" not in desk.apply({})
    assert desk.engine.running == {}
    assert make_plan({}, desk.state).is_empty


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("then", [MODAL, SCALED, but(MODAL, "min_containers: 0, ", "")])
def test_an_update_that_died_is_repaired_whatever_the_stack_says_next(
    desk: Desk, then: str, *, after: bool
) -> None:
    desk.apply(MODAL)
    desk.crash(SCALED, at=1, after=after)
    desk.apply(then)
    assert desk.settled(then)
    fields = graph(then)[SERVER].fields
    running = next(iter(desk.engine.running.values()))
    path = "scaling.min_containers"
    assert running.get(path) == fields.get(path)


def test_a_release_keeps_no_doubt(desk: Desk) -> None:
    """A rollback must not hand a field in doubt to an engine."""
    desk.apply(MODAL)
    desk.crash(SCALED, at=1)
    desk.apply(but(SCALED, "4096", "8192"))
    first = desk.state.releases[0].records[SERVER]
    assert first.fields == graph(MODAL)[SERVER].fields


def cancels_at(wanted: Callable[[Event], bool]) -> Say:
    """A listener that cancels at the first event of a kind, and at all that follow."""
    cancelled = False

    def say(event: Event) -> None:
        nonlocal cancelled
        cancelled = cancelled or wanted(event)
        if cancelled:
            raise CancelledError("stopped on request")

    return say


@pytest.mark.parametrize(
    "moment",
    [
        pytest.param(lambda e: e == Talk(SERVER, "stop"), id="before the stop"),
        pytest.param(
            lambda e: isinstance(e, Started) and isinstance(e.step, Stage),
            id="between stop and stage",
        ),
        pytest.param(lambda e: e == Talk(SERVER, "stage"), id="inside stage"),
        pytest.param(
            lambda e: isinstance(e, Ended) and isinstance(e.step, Stage),
            id="between stage and check",
        ),
    ],
)
def test_a_run_that_is_cancelled_cleans_up(
    desk: Desk, moment: Callable[[Event], bool]
) -> None:
    """The candidate goes and the old server comes back, in the same run."""
    desk.apply(REPLACE)
    desk.say = cancels_at(moment)
    desk.fail(WIDER_REPLACE, CancelledError)
    assert desk.settled(REPLACE)


def test_a_run_that_is_cancelled_in_a_promotion_is_resumed(desk: Desk) -> None:
    desk.apply(LOCAL)
    desk.say = cancels_at(lambda e: e == Talk(SERVER, "promote"))
    desk.fail(WIDER, CancelledError)
    desk.say = unheard
    desk.apply(WIDER)
    assert desk.settled(WIDER)


def test_a_destroy_finds_a_candidate_that_was_brought_up_again(desk: Desk) -> None:
    desk.crash(LOCAL, at=4)
    desk.say = cancels_at(lambda e: isinstance(e, Started) and e.step == Forget())
    desk.fail({}, CancelledError)
    desk.say = unheard
    desk.crash(LOCAL, at=1, after=True)
    assert desk.engine.running != {}
    desk.apply({})
    assert desk.engine.running == {}
    assert make_plan({}, desk.state).is_empty


def test_traffic_is_taken_from_what_a_destroy_left_halfway(desk: Desk) -> None:
    """The promotion that it cut short is resumed, from a server that is retiring."""
    desk.apply(LOCAL)
    desk.crash(WIDER, at=2)
    desk.crash({}, at=2)
    desk.apply(WIDER)
    assert desk.settled(WIDER)


def test_a_failed_build_does_not_lose_the_weights_beside_it() -> None:
    desk = Desk(engine=MeetingEngine(), workers=2)
    desk.fail(LOCAL, EngineError, ["stage build"])
    assert list(desk.state.made) == ["demo/weights"]
    assert [it.record.kind for it in desk.state.loose] == [Kind.BUILD]


def test_a_dropped_release_gives_the_traffic_back(desk: Desk) -> None:
    """It may have had it already when the run before died."""
    desk.apply(LOCAL)
    before = dict(desk.engine.traffic)
    desk.crash(WIDER, at=2, after=True)
    ((address, key),) = desk.engine.traffic.items()
    assert {address: key} != before
    del desk.engine.running[address, key]  # it died, so it cannot be left as it is
    desk.fail(WIDER, EngineError, ["start server"])
    assert desk.engine.traffic == before
