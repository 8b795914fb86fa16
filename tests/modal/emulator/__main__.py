"""The emulator as a program: `python -m tests.modal.emulator FOLDER`.

Prints one line of JSON, with the address for the client and the one for the test,
and runs until it gets SIGTERM or its stdin ends, so that it never outlives the test.
"""

import asyncio
import json
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpclib.server
from modal._utils.grpc_utils import custom_detail_codec

from tests.modal.emulator.apps import Apps
from tests.modal.emulator.cloud import HOST, Cloud, first_of
from tests.modal.emulator.containers import Container
from tests.modal.emulator.control import routes as control_routes
from tests.modal.emulator.front import Front, listen
from tests.modal.emulator.functions import Functions
from tests.modal.emulator.objects import Objects
from tests.modal.emulator.objects import routes as file_routes
from tests.modal.emulator.pools import Pools
from tests.modal.emulator.rpc import complete


class Requests(Apps, Objects, Functions):
    """All requests; a container's come over a socket of its own."""

    def __init__(
        self, cloud: Cloud, pools: Pools, front: Front, container: Container | None
    ) -> None:
        self.cloud, self.pools, self.front = cloud, pools, front
        self.container = container


_Servicer = complete(Requests)


class ControlPlane:
    """The cloud, and the server that the client talks to; it can be cut off."""

    def __init__(self, folder: Path, haste: float, *, simulates: bool) -> None:
        self.cloud = Cloud(folder, haste=haste, simulates=simulates)
        self.pools = Pools(self.cloud, self.serve)
        self.front = Front(self.cloud, self.pools)
        self._server = self.serve(None)
        self._port = 0
        self._protocols: list[Any] = []
        """Of connections, closed ones included."""

    def serve(self, container: Container | None) -> grpclib.server.Server:
        servicer = _Servicer(self.cloud, self.pools, self.front, container)
        return grpclib.server.Server(
            [servicer], status_details_codec=custom_detail_codec
        )

    async def start(self) -> None:
        """Listen for the client: on the same port as before."""
        self._server = self.serve(None)
        make: Any = self._server._protocol_factory

        def remembered() -> Any:
            protocol = make()
            self._protocols.append(protocol)
            return protocol

        self._server._protocol_factory = remembered  # type: ignore[method-assign]
        await self._server.start(HOST, self._port)
        listening: Any = self._server._server
        self._port = listening.sockets[0].getsockname()[1]
        self.cloud.url = f"http://{HOST}:{self._port}"

    async def cut(self) -> None:
        """Be unreachable at once; nothing that runs notices."""
        self._server.close()
        for protocol in self._protocols:
            protocol.connection._transport.abort()
        self._protocols.clear()


async def main(folder: Path, haste: float, *, simulates: bool) -> None:
    plane = ControlPlane(folder, haste, simulates=simulates)
    await plane.start()
    cloud = plane.cloud
    cloud.files_url = await listen(file_routes(cloud))
    control = await listen(control_routes(cloud, plane.pools, plane.start))
    print(json.dumps({"url": cloud.url, "control": control}), flush=True)  # noqa: T201
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_reader(sys.stdin.fileno(), stop.set)
    while not stop.is_set():
        await first_of(stop, cloud.cut)
        if cloud.cut.is_set() and not stop.is_set():
            cloud.cut.clear()
            await plane.cut()
    await plane.pools.end()


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        place, speed, *how = sys.argv[1:]
        simulated = how == ["simulated"]
        asyncio.run(main(Path(place).resolve(), float(speed), simulates=simulated))
