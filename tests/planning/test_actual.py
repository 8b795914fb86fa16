"""Servers that run and that the state does not name: adopted, replaced or retired."""

from dataclasses import replace

import pytest

from deployer.planning.plan import RunningServer, reconcile
from deployer.planning.resources import Graph, Kind
from deployer.planning.state import Begun, Loose, Record, Release, State, record_of
from tests.applying import graph
from tests.planning.checking import LOCAL, but, deployed

SERVER = "demo/server"
PORTED = LOCAL + "local: {port: 8080}\n"
WANTED = graph(PORTED)
EMPTY = State("demo", "local", lineage="f00d", serial=3)
LIVE = deployed(PORTED)
MINE = LIVE.live[SERVER]


def other(key: str) -> Record:
    """A server of the stack that nobody asks for."""
    return replace(record_of(WANTED[SERVER], {}), key=key)


def running(
    record: Record, *, pid: int = 7, port: int = 8080, serves: bool = True
) -> RunningServer:
    return RunningServer(record, pid, started=float(pid), port=port, serves=serves)


def check(
    state: State, *servers: RunningServer, wanted: Graph = WANTED, says: list[str]
) -> State:
    """Compare each server as drift, in words; the serial stays."""
    found, drift = reconcile(state, servers, wanted)
    assert found.serial == state.serial
    assert [f"{it.address}: {it.detail}" for it in drift] == says
    return found


def test_what_is_live_in_the_state_is_no_drift() -> None:
    assert check(LIVE, running(MINE), says=[]) == LIVE
    assert check(LIVE, running(MINE, serves=False), says=[]) == LIVE


def test_what_the_stack_asks_for_is_adopted_and_left_to_the_plan() -> None:
    known = replace(EMPTY, loose=(Loose(Begun.STAGED, MINE),))
    text = f"{SERVER} {MINE.key[:8]}: runs here on port 8080"
    clients = "pid 7, and clients reach it; it is adopted"
    found = check(EMPTY, running(MINE), says=[f"{text}, not in the state: {clients}"])
    assert found == EMPTY
    found = check(
        known, running(MINE), says=[f"{text}, staged in the state: {clients}"]
    )
    assert found == EMPTY


def test_the_one_that_clients_reach_counts_as_live_until_it_is_replaced() -> None:
    stray = other("stray-server")
    says = [
        (
            f"{SERVER} stray-se: runs here on port 8080, not in the state: pid 7, and"
            " clients reach it; it is replaced"
        )
    ]
    found = check(EMPTY, running(stray), says=says)
    assert found == replace(EMPTY, live={SERVER: stray})


def test_one_that_no_client_reaches_is_retired() -> None:
    stray = other("stray-server")
    says = [
        (
            f"{SERVER} stray-se: runs here on port 9, not in the state: pid 7;"
            " it is retired"
        )
    ]
    found = check(LIVE, running(stray, port=9, serves=False), says=says)
    assert found == replace(LIVE, loose=(Loose(Begun.RETIRING, stray),))


def test_each_of_several_is_looked_at() -> None:
    stray = other("stray")
    found, drift = reconcile(
        LIVE, (running(MINE), running(stray, serves=False)), WANTED
    )
    assert [it.address for it in drift] == [f"{SERVER} stray"]
    assert found.loose == (Loose(Begun.RETIRING, stray),)


def test_what_is_loose_in_the_state_and_reached_by_nobody_is_left_to_the_plan() -> None:
    state = replace(LIVE, loose=(Loose(Begun.STAGED, other("stray")),))
    assert check(state, running(other("stray"), serves=False), says=[]) == state


def test_what_was_loose_is_live_where_clients_reach_it() -> None:
    stray, bystander = other("stray"), other("bystander")
    loose = (
        Loose(Begun.RETIRING, stray),
        Loose(Begun.STAGED, bystander),
        Loose(Begun.STOPPED, MINE),
    )
    found = check(
        replace(EMPTY, loose=loose),
        running(stray),
        says=[
            (
                f"{SERVER} stray: runs here on port 8080, retiring in the state: pid 7,"
                " and clients reach it; it is replaced"
            )
        ],
    )
    # It took over from the one that was stopped to make room.
    assert found.live == {SERVER: stray}
    assert found.loose == (Loose(Begun.STAGED, bystander),)


def test_without_a_stack_the_one_that_clients_reach_is_taken_as_live() -> None:
    stray = other("stray")
    says = [
        (
            f"{SERVER} stray: runs here on port 8080, not in the state: pid 7, and"
            " clients reach it; it is taken as live"
        )
    ]
    found = check(EMPTY, running(stray), wanted={}, says=says)
    assert found.live == {SERVER: stray}


def retired(key: str, *, pid: int, reached: bool) -> str:
    clients = ", and clients reach it" if reached else ""
    return (
        f"{SERVER} {key}: runs here on port 8080, not in the state: pid {pid}{clients};"
        " it is retired"
    )


def test_of_several_that_clients_reach_the_known_one_then_the_port_then_the_age() -> (
    None
):
    old, new = running(other("old"), pid=1), running(other("new"), pid=2)
    far = running(other("far"), pid=3, port=9)
    # The state knows the one that is live.
    found, drift = reconcile(LIVE, (new, running(MINE, pid=9)), WANTED)
    assert [it.detail.rpartition(" ")[2] for it in drift] == ["retired"]
    assert found.live == LIVE.live
    # The port of the stack counts before the age, and the youngest of those counts.
    found, drift = reconcile(EMPTY, (old, far, new), WANTED)
    assert found.live == {SERVER: new.record}
    assert [it.detail.rpartition(" ")[2] for it in drift] == [
        "retired",
        "retired",
        "replaced",
    ]
    assert found.loose == (
        Loose(Begun.RETIRING, old.record),
        Loose(Begun.RETIRING, far.record),
    )
    # Without a stack there is no port to prefer.
    found, _ = reconcile(EMPTY, (old, far, new), {})
    assert found.live == {SERVER: far.record}


def test_the_live_one_that_runs_beside_it_goes() -> None:
    before, stray = other("before"), other("stray")
    state = replace(LIVE, live={**LIVE.live, SERVER: before})
    servers = (running(stray, pid=8), running(before, pid=7, serves=False))
    found, drift = reconcile(state, servers, WANTED)
    assert found.live == {**LIVE.live, SERVER: stray}
    assert found.loose == (Loose(Begun.RETIRING, before),)
    assert len(drift) == 1
    # What does not run any more needs no end.
    found, _ = reconcile(state, servers[:1], WANTED)
    assert found.loose == ()


def test_the_live_one_that_the_stack_asks_for_stays_for_the_plan() -> None:
    stray = other("stray")
    servers = (running(stray, pid=8), running(MINE, pid=7, serves=False))
    found, _ = reconcile(LIVE, servers, WANTED)
    assert found.live == {**LIVE.live, SERVER: stray}
    assert found.loose == ()
    found, _ = reconcile(LIVE, servers, {})
    assert found.loose == (Loose(Begun.RETIRING, MINE),)


@pytest.mark.parametrize("reached", [True, False])
def test_a_promotion_that_a_lost_state_began_is_over_once_another_is_live(
    reached: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    release = Release(2, "", "apply", {SERVER: other("candidate")})
    state = replace(EMPTY, promoting=release)
    found, _ = reconcile(state, [running(other("stray"), serves=reached)], WANTED)
    assert found.promoting == (None if reached else release)


def test_both_sides_of_a_promotion_may_have_the_traffic() -> None:
    candidate = other("candidate")
    state = replace(LIVE, promoting=Release(2, "", "apply", {SERVER: candidate}))
    assert EMPTY.serving == ()
    assert MINE in LIVE.serving
    assert state.serving == (*LIVE.serving, candidate)
    assert check(state, running(candidate), says=[]) == state


def test_the_server_of_the_graph_is_found_by_its_kind() -> None:
    wider = graph(but(PORTED, "4096", "8192"))
    assert [it.kind for it in wider.values()][-1] is Kind.SERVER
    found, drift = reconcile(EMPTY, [running(MINE)], wider)
    assert found.live == {SERVER: MINE}
    assert drift[0].detail.endswith("it is replaced")
