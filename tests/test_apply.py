"""The apply loop: what is written when, and what is left when something fails."""

import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace

import pytest

from deployer.apply import World, apply
from deployer.core.events import Ended, Event, Say, Started, Talk
from deployer.core.graph import expand
from deployer.core.plan import Drift, make_plan
from deployer.core.resources import Graph, Kind, Node
from deployer.core.state import State, node_of
from deployer.core.steps import Stage, steps_of
from deployer.core.values import Flat
from deployer.errors import (
    CancelledError,
    DeployerError,
    EngineError,
    GateError,
    StalePlanError,
)
from deployer.testing import (
    CrashError,
    FakeEngine,
    FakeJudge,
    Fuse,
    MemoryStateStore,
    resolved,
    stack,
    unheard,
)
from tests.core.checking import KEEPS, LOCAL, MODAL, SNAPSHOT, but

SERVER = "demo/server"
WIDER = but(LOCAL, "4096", "8192")
OTHER_BUILD = but(LOCAL, "b9763", "b9999")
REPLACE = LOCAL + "rollout: {strategy: replace}\n"
WIDER_REPLACE = but(REPLACE, "4096", "8192")
GATED = LOCAL + "gates: {chat: {}}\n"
SCALED = but(MODAL, "min_containers: 0", "min_containers: 2")


class DiaryStore(MemoryStateStore):
    """A store that writes what it is given into the diary of the engine."""

    def __init__(self, diary: list[str]) -> None:
        super().__init__()
        self._diary = diary

    def write(self, state: State, *, expect: int) -> None:
        super().write(state, expect=expect)
        self._diary.append(f"  {summary(state)}")


def summary(state: State) -> str:
    """The parts of a state that change while an apply runs, on one line."""
    parts = [f"{it.begun} {it.record.kind}" for it in state.loose]
    parts += [f"made {record.kind}" for record in state.made.values()]
    if state.promoting is not None:
        parts.append(f"promoting {state.promoting.number}")
    if SERVER in state.live:
        parts.append(f"live {state.releases[-1].number}")
    return ", ".join(parts) or "nothing"


@dataclass
class Desk:
    """A world in which stacks are applied one after the other."""

    engine: FakeEngine = field(default_factory=FakeEngine)
    judge: FakeJudge = field(default_factory=FakeJudge)
    workers: int = 1
    say: Say = unheard

    def __post_init__(self) -> None:
        self.store = DiaryStore(self.engine.diary)

    @property
    def state(self) -> State:
        return self.store.read() or State("demo", "local", lineage="f00d")

    def apply(
        self,
        wanted: str | Graph,
        *,
        drift: tuple[Drift, ...] = (),
        state: State | None = None,
        cause: str = "apply",
        keep: int = 3,
    ) -> list[str]:
        """Plan and apply; returns the diary of this run."""
        self.engine.diary.clear()
        seen = state or self.state
        plan = make_plan(graph(wanted), seen, drift=drift)
        world = World(
            engine=self.engine,
            judge=self.judge,
            store=self.store,
            say=self.say,
            now=lambda: "2026-11-01T12:00:00+00:00",
            clock=lambda: 0.0,
            workers=self.workers,
        )
        apply(steps_of(plan), seen, world, cause=cause, keep=keep)
        return self.engine.diary

    def crash(self, wanted: str | Graph, *, at: int, after: bool = False) -> None:
        """Die before or after the n-th effect; only calls of the engine count here."""
        self.engine.fuse = Fuse(at, after=after)
        with pytest.raises(CrashError):
            self.apply(wanted)
        self.engine.fuse = Fuse()

    def fail(
        self, wanted: str, error: type[DeployerError], fails: Collection[str] = ()
    ) -> list[str]:
        """Apply into an error; returns the diary of this run."""
        self.engine.fails = fails
        with pytest.raises(error):
            self.apply(wanted)
        self.engine.fails = ()
        return self.engine.diary

    def settled(self, wanted: str | Graph) -> bool:
        """Whether exactly the wanted server runs, has the traffic, and is recorded."""
        node = graph(wanted)[SERVER]
        return (
            make_plan(graph(wanted), self.state).is_empty
            and set(self.engine.running) == {(SERVER, node.key)}
            and self.engine.traffic == {SERVER: node.key}
            and self.state.loose == ()
        )


def graph(wanted: str | Graph) -> Graph:
    if not isinstance(wanted, str):
        return wanted
    asked = stack(wanted)
    return expand(asked, resolved(asked), KEEPS)


@pytest.fixture(name="desk")
def _desk() -> Desk:
    return Desk()


def test_a_first_apply_writes_before_and_after_every_effect(desk: Desk) -> None:
    assert desk.apply(LOCAL) == [
        "  staging build",
        "stage demo/build",
        "  made build",
        "  staging weights, made build",
        "stage demo/weights",
        "  made build, made weights",
        "  staging server, made build, made weights",
        "stage demo/server",
        "  staged server, made build, made weights",
        "  staged server, made build, made weights, promoting 1",
        "promote demo/server",
        "  live 1",
    ]
    assert desk.settled(LOCAL)


def test_a_redeploy_checks_before_it_promotes_and_retires_last(desk: Desk) -> None:
    desk.apply(LOCAL)
    assert desk.apply(WIDER) == [
        "  staging server, live 1",
        "stage demo/server",
        "  staged server, live 1",
        "  staged server, promoting 2, live 1",
        "promote demo/server",
        "  retiring server, live 2",
        "  retiring server, live 2",
        "retire demo/server",
        "  live 2",
    ]
    assert desk.settled(WIDER)


def test_nothing_to_do_writes_nothing(desk: Desk) -> None:
    desk.apply(LOCAL)
    before = desk.state
    assert desk.apply(LOCAL) == []
    assert desk.state == before


def test_replace_stops_the_old_server_first(desk: Desk) -> None:
    desk.apply(REPLACE)
    assert desk.apply(WIDER_REPLACE) == [
        "  stopped server, live 1",
        "stop demo/server",
        "  stopped server, staging server, live 1",
        "stage demo/server",
        "  stopped server, staged server, live 1",
        "  stopped server, staged server, promoting 2, live 1",
        "promote demo/server",
        "  retiring server, live 2",
        "  retiring server, live 2",
        "retire demo/server",
        "  live 2",
    ]
    assert desk.settled(WIDER_REPLACE)


def test_an_update_is_in_doubt_while_it_happens(desk: Desk) -> None:
    desk.apply(MODAL)
    desk.apply(SCALED)
    written = [state.live[SERVER].fields for state in desk.store.history[-3:]]
    path = "scaling.min_containers"
    assert [fields[path] for fields in written] == [{"in doubt": True}, 2, 2]
    assert desk.engine.diary[0] == "  live 1"
    assert desk.engine.diary[1] == "update demo/server"
    assert desk.settled(SCALED)


def test_every_write_follows_the_one_before(desk: Desk) -> None:
    desk.apply(LOCAL)
    desk.apply(WIDER)
    serials = [state.serial for state in desk.store.history]
    assert serials == list(range(1, len(serials) + 1))


def test_destroy_takes_the_server_and_forgets(desk: Desk) -> None:
    desk.apply(LOCAL)
    assert desk.apply({}) == [
        "  retiring server",
        "retire demo/server",
        "  nothing",
        "  nothing",
    ]
    assert (desk.engine.running, desk.engine.traffic) == ({}, {})
    assert desk.state.live == {}


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
    with pytest.raises(GateError, match="held back by `chat`") as caught:
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


def test_what_does_not_run_is_started_as_it_was(desk: Desk) -> None:
    desk.apply(LOCAL)
    desk.engine.reboot()
    drift = (Drift(SERVER, "not running"),)
    assert desk.apply(LOCAL, drift=drift) == ["start demo/server", "  live 1"]
    assert desk.settled(LOCAL)


def test_a_stale_plan_is_refused_before_any_effect(desk: Desk) -> None:
    """Stop, start and resume come before the first write, so the write is too late."""
    desk.apply(REPLACE)
    stale = desk.state
    desk.apply(REPLACE + "gates: {chat: {}}\n")
    with pytest.raises(StalePlanError, match=r"planned at serial 8, .* now at 9"):
        desk.apply(WIDER_REPLACE, state=stale)
    assert desk.engine.diary == []


def test_a_state_of_another_lineage_is_refused(desk: Desk) -> None:
    desk.apply(LOCAL)
    with pytest.raises(StalePlanError):
        desk.apply(WIDER, state=replace(desk.state, lineage="beef"))


def test_a_failed_validation_changes_nothing(desk: Desk) -> None:
    desk.apply(LOCAL)
    before = desk.state
    desk.judge = FakeJudge(["chat"])
    assert desk.fail(GATED, GateError) == []
    assert desk.state == before
    assert not make_plan(graph(GATED), desk.state).is_empty


def test_a_validation_looks_at_what_is_live(desk: Desk) -> None:
    desk.apply(LOCAL)
    desk.judge = FakeJudge()
    desk.apply(GATED)
    assert desk.judge.asked == [(SERVER, False)]
    assert desk.settled(GATED)


def test_a_failed_validation_is_not_forgotten_after_an_update(desk: Desk) -> None:
    """The update is done, and recorded; the gates that failed are not."""
    desk.apply(MODAL)
    desk.judge = FakeJudge(["chat"])
    both = SCALED + "gates: {chat: {}}\n"
    desk.fail(both, GateError)
    plan = make_plan(graph(both), desk.state)
    paths = [reason.path for change in plan.changes for reason in change.reasons]
    assert paths == ["gates.chat"]


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


def test_a_rollback_promotes_the_recorded_release(desk: Desk) -> None:
    desk.apply(LOCAL)
    desk.apply(OTHER_BUILD)
    release = desk.state.releases[0]
    target = {a: node_of(record) for a, record in release.records.items()}
    desk.apply(target, cause="rollback to 1")
    assert desk.settled(LOCAL)
    assert [(r.number, r.cause) for r in desk.state.releases] == [
        (1, "apply"),
        (2, "apply"),
        (3, "rollback to 1"),
    ]


def test_only_so_many_releases_are_kept(desk: Desk) -> None:
    for text in (LOCAL, WIDER, OTHER_BUILD):
        desk.apply(text, keep=2)
    assert [release.number for release in desk.state.releases] == [2, 3]
    assert desk.state.released == 3


def test_a_release_remembers_its_gates(desk: Desk) -> None:
    desk.apply(GATED)
    gates = desk.state.releases[0].gates
    assert [(g["gate"], g["outcome"]) for g in gates] == [
        ("health", "pass"),
        ("chat", "pass"),
    ]


def test_a_snapshot_is_made_from_what_was_made_before_it(desk: Desk) -> None:
    calls = [line for line in desk.apply(SNAPSHOT) if not line.startswith(" ")]
    assert calls == [
        "stage demo/build",
        "stage demo/weights",
        "stage demo/snapshot",
        "stage demo/server",
        "promote demo/server",
    ]


class MeetingEngine(FakeEngine):
    """An engine that makes nothing until two artefacts are being made."""

    def __init__(self) -> None:
        super().__init__()
        self.meeting = threading.Barrier(2)

    def stage(self, node: Node, needs: Mapping[str, Flat], say: Say) -> Flat:
        if node.kind in (Kind.BUILD, Kind.WEIGHTS):
            self.meeting.wait(timeout=30)
        return super().stage(node, needs, say)


def test_build_and_weights_are_made_at_the_same_time() -> None:
    desk = Desk(engine=MeetingEngine(), workers=2)
    desk.apply(LOCAL)
    assert desk.settled(LOCAL)


def test_a_failed_build_does_not_lose_the_weights_beside_it() -> None:
    desk = Desk(engine=MeetingEngine(), workers=2)
    desk.fail(LOCAL, EngineError, ["stage build"])
    assert list(desk.state.made) == ["demo/weights"]
    assert [it.record.kind for it in desk.state.loose] == [Kind.BUILD]


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


def test_traffic_is_taken_from_what_a_destroy_left_halfway(desk: Desk) -> None:
    """The promotion that it cut short is resumed, from a server that is retiring."""
    desk.apply(LOCAL)
    desk.crash(WIDER, at=2)
    desk.crash({}, at=2)
    desk.apply(WIDER)
    assert desk.settled(WIDER)


def test_every_step_is_announced_and_ended() -> None:
    said: list[Event] = []
    desk = Desk(say=said.append)
    desk.apply(LOCAL)
    begun = [event.step for event in said if isinstance(event, Started)]
    ended = [event.step for event in said if isinstance(event, Ended)]
    assert (
        begun
        == ended
        == list(steps_of(make_plan(graph(LOCAL), State("demo", "local", "f00d"))))
    )
