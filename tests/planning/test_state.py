"""The steps of a state, one by one: what each changes, and that it changes no more."""

from dataclasses import replace

import pytest

from deployer.planning.plan import Action, Cause, Drift, Reason, make_plan
from deployer.planning.state import IN_DOUBT, Begun, Loose, State, node_of, updated
from tests.applying import GATED, SERVER, WIDER, Desk, graph
from tests.planning.checking import LOCAL, MODAL, but


@pytest.fixture(name="state")
def _state() -> State:
    """Two releases, the second one live."""
    desk = Desk()
    desk.apply(LOCAL)
    desk.apply(WIDER)
    return desk.state


def test_a_release_is_found_by_its_number(state: State) -> None:
    assert state.release(1) == state.releases[0]
    assert state.release(2) == state.releases[1]
    assert state.release(3) is None
    assert replace(state, releases=()).release(1) is None


def test_what_is_noted_of_the_live_release_is_kept_with_it(state: State) -> None:
    """Else a rollback to it would bring the old fields back."""
    server = state.live[SERVER]
    renewed = replace(server, fields={**server.fields, "rollout.keep": 7})
    noted = state.noted(renewed)
    assert noted.live[SERVER] == renewed
    assert noted.releases[0] == state.releases[0]
    assert noted.releases[1] == replace(state.releases[1], records=noted.live)
    assert noted.serial == state.serial + 1


def test_a_promotion_ends_only_after_it_began(state: State) -> None:
    with pytest.raises(ValueError, match=r"^a promotion ends only after it began$"):
        state.promoted(keep=3)


def test_no_promotion_is_dropped_where_none_began(state: State) -> None:
    left = Loose(Begun.STAGED, state.live[SERVER])
    dropped = replace(state, loose=(left,)).dropped()
    assert (dropped.loose, dropped.promoting) == ((left,), None)


def test_what_is_forgotten_is_neither_live_nor_made(state: State) -> None:
    made = replace(state, made=state.live, promoting=state.releases[-1]).forgotten()
    assert (made.live, made.made, made.promoting) == ({}, {}, None)
    assert made.releases == state.releases


@pytest.mark.parametrize("begun", Begun)
def test_what_is_retired_is_live_no_more_once_that_began(
    state: State, begun: Begun
) -> None:
    server = state.live[SERVER]
    after = state.begin(begun, server)
    assert (SERVER in after.live) == (begun is not Begun.RETIRING)
    assert after.live.keys() | {SERVER} == state.live.keys()
    assert after.loose == (Loose(begun, server),)


def test_fields_that_are_being_updated_are_in_doubt(state: State) -> None:
    server = state.live[SERVER]
    after = state.updating(server, ["rollout.keep"])
    assert after.live[SERVER].fields == {**server.fields, "rollout.keep": IN_DOUBT}
    assert after.live == {**state.live, SERVER: after.live[SERVER]}
    assert after.releases == state.releases


def test_what_was_started_is_on_its_way_no_more(state: State) -> None:
    server, weights = state.live[SERVER], state.live["demo/weights"]
    left = Loose(Begun.STAGED, weights)
    loose = (Loose(Begun.STOPPED, server), left)
    after = replace(state, loose=loose).started(server)
    assert (after.loose, after.live) == ((left,), state.live)


def test_only_the_named_fields_of_a_record_are_updated(state: State) -> None:
    server = state.live[SERVER]
    fields = {"local.port": 9, "server.ctx_size": 1}
    done = updated(server, fields, ["server.ctx_size"])
    assert done.fields == {**server.fields, "server.ctx_size": 1}
    gone = updated(server, {}, ["server.ctx_size"])
    assert "server.ctx_size" not in gone.fields
    assert IN_DOUBT not in done.fields.values()


def test_a_node_of_a_record_is_what_was_recorded(state: State) -> None:
    server = state.live[SERVER]
    node = node_of(server)
    assert (node.address, node.kind, node.key) == (SERVER, server.kind, server.key)
    assert (node.fields, node.needs, node.spec) == (
        server.fields,
        server.needs,
        server.spec,
    )


def test_the_reason_of_a_start_holds_what_was_seen(state: State) -> None:
    drift = (Drift(SERVER, "pid 7 is gone"), Drift("other/server", "so is 8"))
    plan = make_plan(graph(WIDER), state, drift=drift)
    reasons = [reason for change in plan.changes for reason in change.reasons]
    start = Reason(Action.START, Cause.DRIFT, detail="pid 7 is gone")
    assert reasons == [start]


def test_what_is_replaced_says_what_each_field_alone_would_cost() -> None:
    desk = Desk()
    scaled = but(MODAL, "min_containers: 0", "min_containers: 1")
    desk.apply(MODAL)
    wanted = but(scaled, "4096", "8192") + "gates: {chat: {}}\nrollout: {keep: 5}\n"
    plan = make_plan(graph(wanted), desk.state)
    server = next(change for change in plan.changes if change.address == SERVER)
    calls = {reason.path: reason.calls_for for reason in server.reasons}
    assert calls["scaling.min_containers"] is Action.UPDATE
    assert calls["gates.chat"] is Action.VALIDATE
    assert calls["rollout.keep"] is Action.NOTE
    assert Action.REPLACE in calls.values()


def test_another_key_is_another_plan(state: State) -> None:
    plan = make_plan(graph(GATED), state)
    server = plan.changes[-1]
    assert server.after is not None
    other = replace(server, after=replace(server.after, key="k"))
    assert replace(plan, changes=(*plan.changes[:-1], other)).id != plan.id
    gone = replace(server, after=None)
    empty = replace(server, after=replace(server.after, key="", fields={}))
    ids = {
        replace(plan, changes=(*plan.changes[:-1], change)).id
        for change in (gone, empty, server)
    }
    assert len(ids) == 3
