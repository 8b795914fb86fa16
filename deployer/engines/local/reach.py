"""Which process new connections of a port reach, asked by connecting.

The answer is the process that owns the accepted connection, by its inode in the
kernel's table: it cannot be imitated by another release, and needs no request.
"""

import socket
import time
from collections.abc import Collection, Iterator
from itertools import product
from typing import Final

from deployer.core.pauses import growing
from deployer.engines.local import ports, steer
from deployer.errors import EngineError

CLIENTS: Final = ""
"""Source of the connections of clients: any address but that of the gates."""

_SECONDS: Final = 5.0
"""A server accepts in microseconds; one that is stopped or swapped out does not."""
_FIRST_PAUSE: Final = 0.001
_LONGEST_PAUSE: Final = 0.05
_CONNECTIONS: Final = 4
"""Connections in a row that prove a way; the kernel's choice is fixed by source."""


def reached(
    host: str, port: int, among: Collection[int], *, source: str = CLIENTS
) -> int | None:
    """Return the pid that a new connection reaches; None where none accepts it.

    `among` are the likely ones; any other process of this user is found, too.
    """
    try:
        client = socket.create_connection(
            (steer.reachable(host), port),
            timeout=_SECONDS,
            source_address=(source, 0) if source else None,
        )
    except OSError:
        return None
    with client:
        name = client.getsockname()[:2]
        deadline = time.monotonic() + _SECONDS
        for pause in growing(_FIRST_PAUSE, _LONGEST_PAUSE):
            if (pid := ports.owner_of(port, name, among)) is not None:
                return pid
            if time.monotonic() >= deadline:
                return None
            time.sleep(pause)
    return None


def always_reached(
    host: str, port: int, among: Collection[int], *, source: str = CLIENTS
) -> frozenset[int | None]:
    """Return who several new connections in a row reach."""
    return frozenset(
        reached(host, port, among, source=source) for _ in range(_CONNECTIONS)
    )


def lead(host: str, port: int, *, clients: int, gates: int) -> None:
    """Lead new connections of clients and of gates to processes, by pid, and prove it.

    Raises EngineError that names who answers instead.
    """
    group = ports.listeners(port)
    pids = {it.pid for it in group if it.pid is not None}
    answered: frozenset[int | None] = frozenset()
    for order in _orders(len(group), same=clients == gates):
        if len(group) > 1:
            steer.steer(host, port, clients=order[0], gates=order[1])
        answered = always_reached(host, port, pids)
        if answered == {clients} and (
            clients == gates
            or always_reached(host, port, pids, source=steer.GATE_SOURCE) == {gates}
        ):
            return
    raise EngineError(
        f"new connections on port {port} reach {_named(answered, port)},"
        f" not the server with pid {clients}",
        hint="end what answers there, then run `deployer apply` again",
    )


def _orders(count: int, *, same: bool) -> Iterator[tuple[int, int]]:
    """Yield indexes to try for clients and gates, the likely ones first.

    Who listened last comes last, until one that listened before it leaves.
    """
    indexes = range(max(count, 1))
    if same:
        yield from ((index, index) for index in reversed(indexes))
        return
    yield from ((one, two) for one, two in product(indexes, repeat=2) if one != two)


def _named(answered: Collection[int | None], port: int) -> str:
    listeners = {it.pid: it for it in ports.listeners(port)}
    words = []
    for pid in sorted(answered, key=str):
        if pid is None:
            words.append("no process that accepts them")
        elif (listener := listeners.get(pid)) is not None and listener.program:
            words.append(f"pid {pid} ({listener.program})")
        else:
            words.append(f"pid {pid}")
    return " and ".join(words) or "no process"
