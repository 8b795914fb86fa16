"""A door to the very server of a target, for programs that cannot choose their address.

While a candidate shares its port with the live server, the kernel hands it only what
comes from `source_address`.  A program of the user would reach the live one instead.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, suppress
from typing import Final
from urllib.parse import urlsplit

from deployer.gates.harness.target import Target

_CHUNK: Final = 64 * 1024
_HERE: Final = "127.0.0.1"


@asynccontextmanager
async def reachable(target: Target) -> AsyncIterator[str]:
    """The URL that leads every program to the server of a target."""
    if target.source_address is None:
        yield target.base
        return
    carrying: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(_carry(target, reader, writer))
        carrying.add(task)
        task.add_done_callback(carrying.discard)

    server = await asyncio.start_server(accept, _HERE, 0)
    try:
        yield f"http://{_HERE}:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in tuple(carrying):
            task.cancel()
        await asyncio.gather(*carrying, return_exceptions=True)


async def _carry(
    target: Target, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Carry the bytes of one connection both ways until either side ends it."""
    parts = urlsplit(target.base)
    with closing(writer), suppress(OSError):
        there, back = await asyncio.open_connection(
            parts.hostname, parts.port or 80, local_addr=(target.source_address, 0)
        )
        with closing(back):
            async with asyncio.TaskGroup() as group:
                group.create_task(_pour(reader, back))
                group.create_task(_pour(there, writer))


async def _pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while chunk := await reader.read(_CHUNK):
            writer.write(chunk)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()
