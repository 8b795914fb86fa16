"""Runs the client's own container entrypoint; what differs from Modal's worker is here.

A network of its own has a loopback that is down.  The address that a web server is
looked for at is loopback, as there is no eth0.  The runtime's checkpoint file is one
that the emulator writes: it holds `restore` or `error`.  At a restore the clocks of
this process jump ahead, as if it had been frozen for long; those of its children stay.
"""

import asyncio
import fcntl
import os
import runpy
import socket
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from modal._runtime import asgi, gpu_memory_snapshot, task_lifecycle_manager


def _let_in(socket_path: str, port: int) -> None:
    """Join connections from outside to a port of this network."""

    async def join(reader: Any, writer: Any) -> None:
        try:
            to_reader, to_writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            writer.close()
            return
        await asyncio.gather(_copy(reader, to_writer), _copy(to_reader, writer))

    async def serve() -> None:
        server = await asyncio.start_unix_server(join, socket_path)
        await server.serve_forever()

    threading.Thread(target=lambda: asyncio.run(serve()), daemon=True).start()


async def _copy(reader: Any, writer: Any) -> None:
    while content := await reader.read(65536):
        writer.write(content)
        await writer.drain()
    writer.close()


_CLOCK = Path(os.environ.pop("EMULATED_CLOCK"))
_JUMPED: list[float] = []


def _ahead(clock: Callable[[], float]) -> Callable[[], float]:
    """A clock that jumps once the emulator says by how much."""

    def now() -> float:
        if not _JUMPED and _CLOCK.exists():
            _JUMPED.append(float(_CLOCK.read_text(encoding="utf-8")))
        return clock() + (_JUMPED[0] if _JUMPED else 0.0)

    return now


_SET_FLAGS = 0x8914
_UP_LOOPBACK_RUNNING = 0x49

if os.environ.pop("EMULATED_NETWORK"):
    with socket.socket() as some:
        request = struct.pack("16sh14x", b"lo", _UP_LOOPBACK_RUNNING)
        fcntl.ioctl(some, _SET_FLAGS, request)

for name in ("time", "monotonic", "perf_counter"):
    setattr(time, name, _ahead(getattr(time, name)))
setattr(asgi, "get_ip_address", lambda _interface: "127.0.0.1")  # noqa: B010
gpu_memory_snapshot.RUNTIME_CHECKPOINT_WAIT_PATH = os.environ.pop("EMULATED_CHECKPOINT")
task_lifecycle_manager.SPEC_ENVIRON_PATH = os.environ.pop("EMULATED_ENVIRON")
if way_in := os.environ.pop("EMULATED_PORT"):
    path, _, number = way_in.rpartition(":")
    _let_in(path, int(number))
runpy.run_module("modal._container_entrypoint", run_name="__main__")
