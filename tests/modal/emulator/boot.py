"""Runs the client's own container entrypoint; what differs from Modal's worker is here.

A network of its own has a loopback that is down.  The address that a web server is
looked for at is loopback, as there is no eth0.  The runtime's checkpoint file is one
that the emulator writes: it holds `restore` or `error`.
"""

import fcntl
import os
import runpy
import socket
import struct

from modal._runtime import asgi, gpu_memory_snapshot

_SET_FLAGS = 0x8914
_UP_LOOPBACK_RUNNING = 0x49

if os.environ.pop("EMULATED_NETWORK"):
    with socket.socket() as some:
        request = struct.pack("16sh14x", b"lo", _UP_LOOPBACK_RUNNING)
        fcntl.ioctl(some, _SET_FLAGS, request)

setattr(asgi, "get_ip_address", lambda _interface: "127.0.0.1")  # noqa: B010
gpu_memory_snapshot.RUNTIME_CHECKPOINT_WAIT_PATH = os.environ.pop("EMULATED_CHECKPOINT")
runpy.run_module("modal._container_entrypoint", run_name="__main__")
