"""Ports for servers of tests that are started, and started again."""

import itertools
import os
import socket

_FIRST, _LAST = 10_000, 32_000
_OFFSETS = itertools.count(os.getpid() * 97)


def quiet_port() -> int:
    """Return a free port of loopback that the kernel gives to nobody who asks for any.

    Below the range that Linux takes ports from (32768 on, `ip_local_port_range`): else
    another test's client could take it between two starts of a server.
    """
    for offset in itertools.islice(_OFFSETS, _LAST - _FIRST):
        port = _FIRST + offset % (_LAST - _FIRST)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OSError(f"no port from {_FIRST} to {_LAST} is free")
