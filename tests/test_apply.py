"""The apply loop when all goes well: what is written, and done, in which order."""

from dataclasses import replace

import pytest

from deployer.errors import (
    GateError,
    StalePlanError,
    UsageError,
)
from deployer.planning.events import Ended, Event, Started
from deployer.planning.plan import Drift, make_plan
from deployer.planning.state import State, node_of
from deployer.planning.steps import steps_of
from deployer.testing import FakeJudge
from deployer.usecases.apply import earlier
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
from tests.planning.checking import LOCAL, MODAL, SNAPSHOT


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


def test_a_replaced_server_says_how_long_nothing_answered() -> None:
    said: list[str] = []
    desk = Desk(say=lambda event: said.append(str(event)))
    desk.apply(REPLACE)
    assert not any("nothing answered" in line for line in said)
    desk.apply(WIDER_REPLACE)
    assert any("downtime: " in line for line in said)


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


@pytest.mark.parametrize(
    ("causes", "target"),
    [
        (["apply", "apply"], 1),
        (["apply", "apply", "rollback to 1"], None),
        (["apply", "apply", "apply", "rollback to 2"], 1),
        (["apply", "apply", "rollback to 1", "apply"], 3),
        (["apply", "apply", "rollback to 1", "apply", "rollback to 3"], None),
        (["apply", "rollback to what"], 1),
        (["apply", "rollback to 2"], 1),
    ],
)
def test_a_rollback_never_brings_back_what_was_rolled_back(
    desk: Desk, causes: list[str], target: int | None
) -> None:
    for number, cause in enumerate(causes):
        text = LOCAL.replace("ctx_size: 4096", f"ctx_size: {4096 + number}")
        desk.apply(text, cause=cause, keep=9)
    if target is not None:
        assert earlier(desk.state, None).number == target
        return
    with pytest.raises(UsageError, match="no earlier release"):
        earlier(desk.state, None)


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


def test_build_and_weights_are_made_at_the_same_time() -> None:
    desk = Desk(engine=MeetingEngine(), workers=2)
    desk.apply(LOCAL)
    assert desk.settled(LOCAL)


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
