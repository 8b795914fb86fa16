"""Answer the clients of a port with 503 until its server is promoted.

A program of its own (``guard_process.py DESCRIPTOR SECONDS DEPLOYER``), because it
has to outlive a deployer that is killed: it imports the standard library alone, and is
started by `supervise.guard`, which hands it the listening socket and its own process
id.  It ends

* when it is told to (SIGTERM): by then new connections go elsewhere, and those that
  wait already are answered;
* when the deployer is gone and no server listened on the port for SECONDS.
"""

import os
import select
import signal
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path

_BODY = (
    b'{"error":{"code":503,"message":"no release is live on this port yet",'
    b'"type":"unavailable_error"}}'
)
_ANSWER = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\n"
    b"Retry-After: 1\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s"
) % (len(_BODY), _BODY)

_CLIENT_SECONDS = 0.5
_LOOK_SECONDS = 1.0
_LISTEN = "0A"


def main() -> int:
    """Guard the port of the listening socket that was handed in."""
    listener, alone = socket.socket(fileno=int(sys.argv[1])), float(sys.argv[2])
    listener.settimeout(0)
    deployer, told, alone_since = int(sys.argv[3]), list[int](), time.monotonic()
    signal.signal(signal.SIGTERM, lambda number, _: told.append(number))
    while not told:
        if os.getppid() == deployer or _others_listen(listener):
            alone_since = time.monotonic()
        elif time.monotonic() - alone_since > alone:
            break
        if select.select([listener], [], [], _LOOK_SECONDS)[0]:
            _answer_all(listener)
    _answer_all(listener)
    return 0


def _answer_all(listener: socket.socket) -> None:
    """Answer every connection that waits."""
    with suppress(BlockingIOError):
        while True:
            client, _ = listener.accept()
            with client, suppress(OSError):
                client.settimeout(_CLIENT_SECONDS)
                # Closing with a request unread would reset the answer away.
                client.recv(65536)
                client.sendall(_ANSWER)
                client.shutdown(socket.SHUT_WR)


def _others_listen(listener: socket.socket) -> bool:
    """Return whether another socket listens on the same port."""
    port = f":{listener.getsockname()[1]:04X}"
    own = str(os.fstat(listener.fileno()).st_ino)
    rows = [row.split() for row in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return any(
        row[1].endswith(port) and row[3] == _LISTEN and row[9] != own for row in rows
    )


if __name__ == "__main__":
    sys.exit(main())
