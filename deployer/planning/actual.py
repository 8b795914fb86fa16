"""The running servers, reconciled with the state: those that the state does not name.

A state can be lost, aged or mixed up while the servers of its stack live on.  Each of
them is adopted (it is what the stack asks for), replaced (clients reach it, so it
stays until its successor is proven) or retired first (no client reaches it).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from deployer.planning.plan import Drift
from deployer.planning.resources import Graph, Kind, Node
from deployer.planning.state import Begun, Loose, Record, State


@dataclass(frozen=True, slots=True)
class RunningServer:
    """A living server of a stack, in its state or not."""

    record: Record
    """As it was noted when it was started; without that only how to end it."""
    pid: int
    started: float
    """Clock ticks since this boot; only comparable on one machine."""
    port: int
    serves: bool = False
    """New connections of clients reach it."""


def reconcile(
    state: State, running: Sequence[RunningServer], wanted: Graph
) -> tuple[State, tuple[Drift, ...]]:
    """Return the state with the servers it lacks, and each of them as drift.

    The serial stays: nothing is written before the plan is carried out.
    """
    node = next((n for n in wanted.values() if n.kind is Kind.SERVER), None)
    front = _front(state, running, node)
    drift = []
    for server in running:
        known = _standing(state, server.record)
        if known == _SERVES or (known and server is not front):
            continue
        if node is not None and server.record.is_same_thing(node):
            fate = "adopted"
            state = _without(state, server.record)
        elif server is front:
            fate = "replaced" if node is not None else "taken as live"
            state = _live(state, server.record, running, node)
        else:
            fate = "retired"
            state = _loose(state, server.record)
        if server is front:
            # A promotion that a lost state began is over, or never was of this one.
            state = replace(state, promoting=None)
        drift.append(Drift(_name(server.record), _detail(server, known, fate)))
    return state, tuple(drift)


_SERVES = "live"


def _standing(state: State, server: Record) -> str:
    """How the state names a server; empty where it does not."""
    if any(record.is_same_thing(server) for record in state.serving):
        return _SERVES
    loose = (it.begun for it in state.loose if it.record.is_same_thing(server))
    return next(loose, "")


def _front(
    state: State, running: Sequence[RunningServer], node: Node | None
) -> RunningServer | None:
    """The one that counts as live: known before unknown, then by port, then by age."""
    port = None if node is None else node.fields.get("local.port")
    return max(
        (it for it in running if it.serves),
        key=lambda it: (
            _standing(state, it.record) == _SERVES,
            it.port == port,
            it.started,
        ),
        default=None,
    )


def _live(
    state: State, server: Record, running: Sequence[RunningServer], node: Node | None
) -> State:
    """The state with another live server; the one it named goes if it runs."""
    before = state.live.get(server.address)
    loose = tuple(
        it
        for it in state.loose
        if it.begun is not Begun.STOPPED and not it.record.is_same_thing(server)
    )
    live = {**state.live, server.address: server}
    state = replace(state, live=live, loose=loose)
    if before is None or not any(it.record.is_same_thing(before) for it in running):
        return state
    if node is not None and before.is_same_thing(node):
        return state  # the plan stages it, and finds it running
    return _loose(state, before)


def _loose(state: State, server: Record) -> State:
    state = _without(state, server)
    return replace(state, loose=(*state.loose, Loose(Begun.RETIRING, server)))


def _without(state: State, server: Record) -> State:
    loose = tuple(it for it in state.loose if not it.record.is_same_thing(server))
    return replace(state, loose=loose)


def _name(server: Record) -> str:
    """Not the address alone: drift there would call for a start of what is live."""
    return f"{server.address} {server.key[:8]}"


def _detail(server: RunningServer, known: str, fate: str) -> str:
    where = f"{known} in the state" if known else "not in the state"
    clients = ", and clients reach it" if server.serves else ""
    return (
        f"runs here on port {server.port}, {where}: pid {server.pid}{clients};"
        f" it is {fate}"
    )
