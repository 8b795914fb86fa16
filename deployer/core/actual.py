"""What runs, reconciled with the state: servers that the state does not name.

A state can be lost, aged or mixed up while the servers of its stack live on.  Each of
them is adopted (it is what the stack asks for), replaced (clients reach it, so it
stays until its successor is proven) or retired first (no client reaches it).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from deployer.core.plan import Drift
from deployer.core.resources import Graph, Kind, Node
from deployer.core.state import Begun, Loose, Record, State


@dataclass(frozen=True, slots=True)
class RunningServer:
    """A living server of a stack, in its state or not."""

    record: Record
    """As it was noted when it was started; without that only how to end it."""
    pid: int
    started: float
    """Seconds since the epoch."""
    port: int
    serves: bool = False
    """New connections of clients reach it."""


def reconcile(
    state: State, running: Sequence[RunningServer], wanted: Graph
) -> tuple[State, tuple[Drift, ...]]:
    """Return the state with the servers it lacks, and each of them as drift.

    The serial stays: nothing is written before the plan is carried out.
    """
    unnamed = [it for it in running if not _names(state, it.record)]
    if not unnamed:
        return state, ()
    node = next((n for n in wanted.values() if n.kind is Kind.SERVER), None)
    front = _front(running, unnamed, node)
    if front in unnamed:
        # A promotion that a lost state began is over, or was never of this server.
        state = replace(state, promoting=None)
    drift = []
    for server in unnamed:
        if node is not None and server.record.is_same_thing(node):
            fate = "adopted"
        elif server is front:
            fate = "replaced" if node is not None else "taken as live"
            state = _live(state, server.record, running, node)
        else:
            fate = "retired"
            state = _loose(state, server.record)
        drift.append(Drift(_name(server.record), _detail(server, fate)))
    return state, tuple(drift)


def named_keys(state: State) -> frozenset[str]:
    """Keys of all that a state names; a snapshot in the making is a server, too."""
    return frozenset(record.key for record in _named(state))


def _named(state: State) -> tuple[Record, ...]:
    promoting = state.promoting.records.values() if state.promoting else ()
    return (*state.live.values(), *(it.record for it in state.loose), *promoting)


def _names(state: State, server: Record) -> bool:
    return any(record.is_same_thing(server) for record in _named(state))


def _front(
    running: Sequence[RunningServer],
    unnamed: Sequence[RunningServer],
    node: Node | None,
) -> RunningServer | None:
    """The one that counts as live: known before unknown, then by port, then by age."""
    port = None if node is None else node.fields.get("local.port")
    serving = [it for it in running if it.serves]
    return max(
        serving,
        key=lambda it: (it not in unnamed, it.port == port, it.started),
        default=None,
    )


def _live(
    state: State, server: Record, running: Sequence[RunningServer], node: Node | None
) -> State:
    """The state with another live server; the one it named goes if it runs."""
    before = state.live.get(server.address)
    state = replace(state, live={**state.live, server.address: server})
    if before is None or not any(it.record.is_same_thing(before) for it in running):
        return state
    if node is not None and before.is_same_thing(node):
        return state  # the plan stages it, and finds it running
    return _loose(state, before)


def _loose(state: State, server: Record) -> State:
    return replace(state, loose=(*state.loose, Loose(Begun.RETIRING, server)))


def _name(server: Record) -> str:
    """Not the address alone: drift there would call for a start of what is live."""
    return f"{server.address} {server.key[:8]}"


def _detail(server: RunningServer, fate: str) -> str:
    clients = ", and clients reach it" if server.serves else ""
    return (
        f"runs here on port {server.port}, not in the state: pid {server.pid}"
        f"{clients}; it is {fate}"
    )
