"""Whether a server of this machine lives and is well: one request on loopback.

The same questions as `deployer.engines.local` asks before an apply, without what that
has to import; whatever is not plainly well is left to it.
"""

import os
from _socket import (
    AF_INET,
    AF_NETLINK,
    IPPROTO_TCP,
    SOCK_RAW,
    SOCK_STREAM,
    inet_aton,
    socket,
)
from struct import pack, unpack_from

from deployer.answers.inputs import ABSENT

_SECONDS = 1.0
_LONGEST = 4096

# linux/sock_diag.h, linux/inet_diag.h
_NETLINK_SOCK_DIAG = 4
_BY_FAMILY = 20
_REQUEST = 1
_QUESTION = "=IHHIIBBxxI"
_INODE_AT = 84


def began(pid: str) -> str:
    """When a process began, and in which life of the machine; `-` once it ended."""
    try:
        fields = _read(f"/proc/{pid}/stat").rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return ABSENT
    if fields[0] in (b"Z", b"X"):
        return ABSENT
    boot = _read("/proc/sys/kernel/random/boot_id").strip()
    return f"{boot.decode()}:{fields[19].decode()}"


def health(place: str) -> str:
    """The status of `/health` at `host:port:pid`; `-` unless that process answers."""
    host, port, pid = place.split(":")
    line = socket(AF_INET, SOCK_STREAM)
    try:
        line.settimeout(_SECONDS)
        line.connect((host, int(port)))
        line.sendall(f"GET /health HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode())
        said = b""
        while b"\n" not in said and len(said) < _LONGEST:
            if not (more := line.recv(_LONGEST)):
                return ABSENT
            said += more
        # The server keeps this connection open, so it can be looked up.
        if not _is_held(pid, _inode(line.getpeername(), line.getsockname())):
            return ABSENT
    finally:
        line.close()
    version, status, *_ = said.split(maxsplit=2)
    return status.decode() if version.startswith(b"HTTP/") else ABSENT


def _inode(server: tuple[str, int], client: tuple[str, int]) -> int:
    """The socket at the server's end of a connection; raises OSError.

    Asked for alone: the tables in `/proc/net` take milliseconds on a large machine.
    """
    question = pack(_QUESTION, 72, _BY_FAMILY, _REQUEST, 1, 0, AF_INET, IPPROTO_TCP, 0)
    question += pack("!HH", server[1], client[1])
    question += pack("16s16s", inet_aton(server[0]), inet_aton(client[0]))
    question += pack("=Iii", 0, -1, -1)
    kernel = socket(AF_NETLINK, SOCK_RAW, _NETLINK_SOCK_DIAG)
    try:
        kernel.settimeout(_SECONDS)
        kernel.sendto(question, (0, 0))
        answer = kernel.recv(_LONGEST)
    finally:
        kernel.close()
    if len(answer) < _INODE_AT + 4 or unpack_from("=H", answer, 4)[0] != _BY_FAMILY:
        return 0
    return int(unpack_from("=I", answer, _INODE_AT)[0])


def _is_held(pid: str, inode: int) -> bool:
    """Whether a process holds a socket."""
    wanted, folder = f"socket:[{inode}]", f"/proc/{pid}/fd"
    for name in os.listdir(folder):
        try:
            if os.readlink(f"{folder}/{name}") == wanted:
                return True
        except FileNotFoundError:  # closed since
            continue
    return False


def _read(path: str) -> bytes:
    with open(path, "rb", buffering=0) as stream:
        return stream.read()
