"""Who listens on a TCP port of this machine, and who is connected to it.

Read from ``/proc/net/tcp`` and ``/proc/net/tcp6`` (linux
``Documentation/networking/proc_net_tcp.rst``); on a system without these files
nothing is known and every answer is empty.  Sockets belong to processes by inode,
``/proc/PID/fd``, which an ordinary user can read for his own processes only.
Command lines are left out on purpose: they may hold secrets.
"""

import errno
import ipaddress
import pwd
import re
import socket
import struct
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from deployer.errors import EngineError

_TABLES: Final = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))

# linux/include/net/tcp_states.h
_ESTABLISHED: Final = "01"
_LISTEN: Final = "0A"

_SOCKET_LINK: Final = re.compile(r"socket:\[(\d+)\]")


class Listener(NamedTuple):
    """A listening socket; `pid` and `program` are unknown for other users' ones."""

    address: str
    port: int
    user: str
    pid: int | None
    program: str


class _Row(NamedTuple):
    """A line of the kernel's table of TCP sockets.

    `waiting` is, for a listening socket, the number of connections that the server
    has not accepted yet.
    """

    local: tuple[str, int]
    remote: tuple[str, int]
    state: str
    waiting: int
    uid: int
    inode: str


def listeners(port: int) -> tuple[Listener, ...]:
    """Everybody who listens on the port, on whatever address, IPv6 included."""
    rows = [row for row in _rows(port) if row.state == _LISTEN]
    if not rows:
        return ()
    owners = _owners({row.inode for row in rows})
    return tuple(_listener(row, owners.get(row.inode)) for row in rows)


def in_use(port: int, found: Sequence[Listener]) -> str:
    """Say in words who has the port: `port 80 is in use by pid 12 (nginx, user www)`.

    An empty `found` means that the port is refused and nobody is seen to have it.
    """
    if not found:
        return f"port {port} is in use"
    named = ", ".join(dict.fromkeys(_named(listener) for listener in found))
    return f"port {port} is in use by {named}"


def family_of(host: str) -> socket.AddressFamily:
    """The family of sockets that listen on a host, which may be a name."""
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def free_port(host: str) -> int:
    """Return a port of `host` that was free a moment ago.

    Raises `EngineError` when `host` is no address of this machine.
    """
    try:
        with socket.socket(family_of(host), socket.SOCK_STREAM) as probe:
            probe.bind((host, 0))
            return int(probe.getsockname()[1])
    except OSError as error:
        raise EngineError(
            f"cannot listen on `{host}`: {error.strerror or error}",
            hint="`ip -brief address` lists the addresses of this machine",
        ) from error


def refused(host: str, port: int) -> str | None:
    """Say why a server cannot listen, not even beside one that shares; None: it can.

    Tried for real, for a moment, without accepting anything.
    """
    with socket.socket(family_of(host), socket.SOCK_STREAM) as probe:
        for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):
            probe.setsockopt(socket.SOL_SOCKET, option, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return in_use(port, listeners(port))
            return f"cannot listen on {host}:{port}: {error.strerror or error}"
    return None


def listens(pid: int, port: int) -> bool:
    """Return whether this very process listens on the port."""
    inodes = _sockets_of(pid)
    return any(row.inode in inodes and row.state == _LISTEN for row in _rows(port))


def established(pid: int, port: int) -> int:
    """Count the clients connected to the process on the port.

    Connections that wait to be accepted count: their request may be on the way.
    """
    inodes = _sockets_of(pid)
    count = 0
    for row in _rows(port):
        if row.inode not in inodes:
            continue
        if row.state == _LISTEN:
            count += row.waiting
        elif row.state == _ESTABLISHED:
            count += 1
    return count


def accepted_by(pid: int, port: int, client: tuple[str, int]) -> bool:
    """Tell if the connection from `client` (address, port) ended in this process."""
    inodes = _sockets_of(pid)
    return any(row.inode in inodes and row.remote == client for row in _rows(port))


def owners_of(
    port: int, clients: Collection[tuple[str, int]], among: Collection[int]
) -> dict[tuple[str, int], int]:
    """The process that accepted each connection, by its client (address, port).

    Looked for `among` these first, then everywhere.  One that nobody has accepted yet
    is left out, and so is one of another user's process.
    """
    rows = {
        row.inode: row.remote
        for row in _rows(port)
        if row.remote in clients and row.inode != "0"
    }
    found: dict[tuple[str, int], int] = {}
    for pid in among:
        mine = _sockets_of(pid) if len(found) < len(rows) else frozenset()
        found |= {remote: pid for inode, remote in rows.items() if inode in mine}
    if len(found) < len(rows):
        others = _owners(rows.keys())
        found = {rows[inode]: pid for inode, pid in others.items()} | found
    return found


def _listener(row: _Row, pid: int | None) -> Listener:
    return Listener(
        address=row.local[0],
        port=row.local[1],
        user=_user_name(row.uid),
        pid=pid,
        program=_program_name(pid),
    )


def _named(listener: Listener) -> str:
    if listener.pid is None:
        return f"a process of user {listener.user}"
    known = [listener.program] if listener.program else []
    return f"pid {listener.pid} ({', '.join([*known, f'user {listener.user}'])})"


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:  # a user of a container or of a directory service
        return str(uid)


def _program_name(pid: int | None) -> str:
    if pid is None:
        return ""
    import psutil  # noqa: PLC0415 - a plan asks for no names

    try:
        return psutil.Process(pid).name()
    except psutil.Error:  # it ended since
        return ""


def _rows(port: int) -> Iterator[_Row]:
    """The sockets whose own port this is; a busy machine has thousands of others."""
    own = f":{port:04X}"
    for table in _TABLES:
        try:
            stream = table.open(encoding="ascii")
        except FileNotFoundError:  # not Linux, or IPv6 is off
            continue
        with stream:  # the kernel makes each line when it is read: not beyond need
            for line in stream:
                if own in line and (columns := line.split())[1].endswith(own):
                    yield _row(columns)


def _row(columns: Sequence[str]) -> _Row:
    return _Row(
        local=_endpoint(columns[1]),
        remote=_endpoint(columns[2]),
        state=columns[3],
        waiting=int(columns[4].partition(":")[2], 16),
        uid=int(columns[7]),
        inode=columns[9],
    )


def _endpoint(text: str) -> tuple[str, int]:
    """Read `0100007F:1F90`: words in the machine's byte order, a port in hex."""
    address, _, port = text.partition(":")
    words = [int(address[at : at + 8], 16) for at in range(0, len(address), 8)]
    packed = ipaddress.ip_address(struct.pack(f"={len(words)}I", *words))
    if isinstance(packed, ipaddress.IPv6Address) and packed.ipv4_mapped:
        packed = packed.ipv4_mapped
    return str(packed), int(port, 16)


def _sockets_of(pid: int) -> frozenset[str]:
    """Return inodes of the sockets a process holds; none if it is not ours to see."""
    return frozenset(_socket_inodes(Path(f"/proc/{pid}/fd")))


def _socket_inodes(directory: Path) -> Iterator[str]:
    try:
        links = list(directory.iterdir())
    except OSError:  # ended, or of another user
        return
    for link in links:
        try:
            match = _SOCKET_LINK.fullmatch(str(link.readlink()))
        except OSError:  # closed since
            continue
        if match:
            yield match[1]


def _owners(inodes: Collection[str]) -> dict[str, int]:
    import psutil  # noqa: PLC0415 - as above

    owners: dict[str, int] = {}
    for pid in psutil.pids():
        for inode in _sockets_of(pid).intersection(inodes):
            owners.setdefault(inode, pid)
    return owners
