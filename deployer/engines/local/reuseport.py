"""Steer the new connections of a port between two servers that share it.

A live server and its candidate listen on the same address and port, both with
``--reuse-port`` (SO_REUSEPORT).  The kernel keeps such listeners in a group, in
the order in which they began to listen, and by default picks one by a hash.  A
classic BPF program attached to the group picks by index instead; ours looks at
the source address of the connection: ``GATE_SOURCE``, from which only the deployer
itself connects, goes to one server, everybody else to the other.  Replacing the
program moves all new connections at once; connections that exist stay where they
are.  An index beyond the group makes the kernel hash again, so when one server is
left it gets everything, whatever the program says.

The program is attached through a *parker*: a listener that joins the group, sets
the program, and leaves.  In these microseconds the kernel could pick the parker
for a client, and closing it would reset that connection.  So the parker demands,
before it listens, that packets come with a time to live of 255, which is higher than
clients send (64 or 128): the kernel drops them without an answer, and the client
sends its SYN again one second later, to a real server.  (A socket filter would drop
them as well, but needs CAP_NET_ADMIN since linux 5d39580f68e6.  All here works for an
ordinary user.)

When a listener leaves, the last of the group takes its index.  Two servers [A, B]
become [B], and the next to come is index 1 again.

Sources: man 7 socket (SO_REUSEPORT, SO_ATTACH_REUSEPORT_CBPF); RFC 5082 (minimal
time to live); linux ``net/core/sock_reuseport.c`` (reuseport_select_sock,
run_bpf_filter, reuseport_detach_sock), ``net/ipv4/inet_hashtables.c``
(inet_reuseport_add_sock: a group has one address, one port and one user),
``net/ipv4/tcp_ipv4.c`` (tcp_v4_rcv: min_ttl).

The answer is the process that owns the accepted connection, by its inode in the
kernel's table: it cannot be imitated by another release, and needs no request.
"""

import ctypes
import errno
import ipaddress
import socket
import struct
import sys
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack
from itertools import product
from types import MappingProxyType
from typing import Final

from deployer.engines.local import ports
from deployer.engines.local.ports import in_use, listeners
from deployer.errors import EngineError
from deployer.system.children import growing

GATE_SOURCE: Final = "127.0.0.2"
"""The address that the deployer's own requests to a candidate come from."""

# asm-generic/socket.h (x86, arm, riscv, ppc, s390) and linux/in.h; Python has no names.
_SO_ATTACH_REUSEPORT_CBPF: Final = 51
_IP_MINTTL: Final = 21
_HIGHEST_TTL: Final = 255

# linux/filter.h: offsets from here count from the IPv4 header, and byte 12 of that
# is the source address.
_SKF_NET_OFF: Final = -0x100000 & 0xFFFFFFFF
_SOURCE_OFFSET: Final = _SKF_NET_OFF + 12

_LOAD_WORD: Final = 0x20  # BPF_LD | BPF_W | BPF_ABS
_JUMP_IF_EQUAL: Final = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_RETURN: Final = 0x06  # BPF_RET | BPF_K

_PROBE_SECONDS: Final = 2.0
_PROBE_ROUNDS: Final = 4

Instruction = tuple[int, int, int, int]
"""A classic BPF instruction: operation, jump if true, jump if false, operand."""


def steer(host: str, port: int, *, clients: int, gates: int) -> None:
    """Send new connections of clients and of gates to servers by their index.

    Index 0 is the server that listened first.  `host` is the very IPv4 address that
    the servers listen on, `0.0.0.0` included: another address is another group.
    Without effect when nobody listens there.  Raises `EngineError` when the port
    cannot be shared: a listener without SO_REUSEPORT, or of another user.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as parker:
        parker.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        try:
            parker.setsockopt(socket.IPPROTO_IP, _IP_MINTTL, _HIGHEST_TTL)
            parker.bind((host, port))
            parker.listen(1)
            _attach(parker, _program(clients, gates))
        except OSError as error:
            raise _refused(host, port, error) from error


def supported(host: str) -> str | None:
    """Try steering on a free port of `host`; None, or the reason why it fails."""
    if not sys.platform.startswith("linux"):
        return "sharing a port between two servers needs Linux"
    try:
        ipaddress.IPv4Address(host)
    except ValueError:
        return f"sharing a port needs an IPv4 address, and `{host}` is none"
    try:
        return _probe(host)
    except OSError as error:
        return f"cannot listen on `{host}`: {error.strerror or error}"
    except EngineError as error:
        return error.message


def reachable(host: str) -> str:
    """Where the deployer connects to reach a server that listens on `host`."""
    return "127.0.0.1" if host == "0.0.0.0" else host  # noqa: S104 - compared


def _program(clients: int, gates: int) -> tuple[Instruction, ...]:
    gate_source = int(ipaddress.IPv4Address(GATE_SOURCE))
    return (
        (_LOAD_WORD, 0, 0, _SOURCE_OFFSET),
        (_JUMP_IF_EQUAL, 0, 1, gate_source),
        (_RETURN, 0, 0, gates),
        (_RETURN, 0, 0, clients),
    )


def _attach(listener: socket.socket, program: tuple[Instruction, ...]) -> None:
    """Hand a program to the kernel as `struct sock_fprog`: a count and a pointer."""
    code = b"".join(struct.pack("@HBBI", *instruction) for instruction in program)
    memory = ctypes.create_string_buffer(code, len(code))  # alive during the call
    # Native alignment pads between the two fields as the C compiler does.
    pointed = struct.pack("@HP", len(program), ctypes.addressof(memory))
    listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_REUSEPORT_CBPF, pointed)


def _refused(host: str, port: int, error: OSError) -> EngineError:
    if error.errno != errno.EADDRINUSE:
        reason = error.strerror or str(error)
        return EngineError(f"cannot steer connections of {host}:{port}: {reason}")
    return EngineError(
        f"cannot share {host}:{port}: {in_use(port, listeners(port))}",
        hint="both servers need `--reuse-port`, and must run as the same user",
    )


def _probe(host: str) -> str | None:
    with _listen(host, 0) as first:
        port = first.getsockname()[1]
        with _listen(host, port) as second:
            return _try_both_ways(host, port, (first, second))


def _try_both_ways(
    host: str, port: int, servers: tuple[socket.socket, socket.socket]
) -> str | None:
    for number in range(_PROBE_ROUNDS):
        clients, gates = number % 2, (number + 1) % 2
        steer(host, port, clients=clients, gates=gates)
        for source, index in (("", clients), (GATE_SOURCE, gates)):
            if not _arrives(servers[index], reachable(host), port, source):
                return "this kernel does not steer connections of a shared port"
    return None


def _arrives(server: socket.socket, host: str, port: int, source: str) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as client:
        client.settimeout(_PROBE_SECONDS)
        client.bind((source, 0))
        client.connect((host, port))
        try:
            accepted, address = server.accept()
        except TimeoutError:
            return False
        accepted.close()
        return bool(address == client.getsockname())


def _listen(host: str, port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind((host, port))
        listener.listen(2 * _PROBE_ROUNDS)
        listener.settimeout(_PROBE_SECONDS)
    except OSError:
        listener.close()
        raise
    return listener


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
    place, end = reachable(host), (source, 0) if source else None
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
            steer(host, port, clients=order[0], gates=order[1])
        answered = reached(host, port, pids)
        if answered == {clients} and (
            clients == gates or reached(host, port, pids, source=GATE_SOURCE) == {gates}
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
