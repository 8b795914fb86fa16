"""Which process new connections of a port reach, asked by connecting.

The answer is the process that owns the accepted connection, by its inode in the
kernel's table: it cannot be imitated by another release, and needs no request.
"""

import socket
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack
from itertools import product
from types import MappingProxyType
from typing import Final

from deployer.engines.local import ports, reuseport
from deployer.errors import EngineError
from deployer.system.pauses import growing

CLIENTS: Final = ""
"""Source of the connections of clients: any address but that of the gates."""

_SECONDS: Final = 20.0
"""A server accepts in microseconds, but for one on a machine that is overloaded."""
_FIRST_PAUSE: Final = 0.001
_LONGEST_PAUSE: Final = 0.05
_CONNECTIONS: Final = 4
"""Connections that prove a way: where it is by chance, they part."""


def reached(
    host: str, port: int, among: Collection[int], *, source: str = CLIENTS
) -> frozenset[int | None]:
    """Return the pids that several new connections reach; None where none accepts.

    `among` are the likely ones; any other process of this user is found, too.
    """
    place, end = reuseport.reachable(host), (source, 0) if source else None
    with ExitStack() as opened:
        try:
            clients = {
                opened.enter_context(
                    socket.create_connection(
                        (place, port), timeout=_SECONDS, source_address=end
                    )
                ).getsockname()[:2]
                for _ in range(_CONNECTIONS)
            }
        except OSError:
            return frozenset({None})
        deadline = time.monotonic() + _SECONDS
        owners: dict[tuple[str, int], int] = {}
        for pause in growing(_FIRST_PAUSE, _LONGEST_PAUSE):
            # The kernel's table changes while it is read: one look may miss some.
            owners |= ports.owners_of(port, clients - owners.keys(), among)
            if len(owners) == len(clients) or time.monotonic() >= deadline:
                break
            time.sleep(pause)
    return frozenset(owners.get(client) for client in clients)


def lead(
    host: str,
    port: int,
    *,
    clients: int,
    gates: int,
    names: Mapping[int, str] = MappingProxyType({}),
) -> None:
    """Lead new connections of clients and of gates to processes, by pid, and prove it.

    Raises EngineError that says who answers instead; `names` are those of servers.
    """
    group = ports.listeners(port)
    pids = {it.pid for it in group if it.pid is not None}
    answered: frozenset[int | None] = frozenset()
    for order in _orders(len(group), same=clients == gates):
        if len(group) > 1:
            reuseport.steer(host, port, clients=order[0], gates=order[1])
        answered = reached(host, port, pids)
        if answered == {clients} and (
            clients == gates
            or reached(host, port, pids, source=reuseport.GATE_SOURCE) == {gates}
        ):
            return
    raise EngineError(
        f"new connections on port {port} reach {_named(answered, port, names)},"
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


def _named(
    answered: Collection[int | None], port: int, names: Mapping[int, str]
) -> str:
    listeners = {it.pid: it for it in ports.listeners(port)}
    words = []
    for pid in sorted(answered, key=str):
        if pid is None:
            words.append("no process that accepts them")
        else:
            program = listeners[pid].program if pid in listeners else ""
            known = ", ".join(it for it in (program, names.get(pid, "")) if it)
            words.append(f"pid {pid} ({known})" if known else f"pid {pid}")
    return " and ".join(words) or "no process"
