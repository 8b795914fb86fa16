"""The containers of each function: when one is started, restored, and sent away.

A web request waits while a container starts; one whose hook raises is started again
for as long as something waits, as on Modal: that is what makes a broken server dear.
"""

import asyncio
import json
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field

import grpclib.server
from modal_proto import api_pb2 as pb

from tests.modal.emulator.calls import Call
from tests.modal.emulator.cloud import Cloud, first_of
from tests.modal.emulator.containers import Container, launch, prepared

RESTORE_FAILED = 222
"""Exit code with which the entrypoint says that a restore did not work."""
_WINDOW = 60
_RESTART_SECONDS = 0.2
_GRACE_SECONDS = 10.0

CREATING = "Creating GPU memory snapshot for Function.\n"
CREATED = "Snapshot created. Restoring Function from memory snapshot.\n"
RESTORING = "Restoring Function from memory snapshot.\n"


@dataclass(slots=True)
class _Pool:
    """What waits for a function, and who works for it."""

    waiting: deque[tuple[Call, pb.FunctionInput]] = field(default_factory=deque)
    arrived: asyncio.Condition = field(default_factory=asyncio.Condition)
    standby: Container | None = None
    """A snapshot: a process that waits at its checkpoint."""


class Pools:
    """All containers."""

    def __init__(
        self, cloud: Cloud, serve: Callable[[Container], grpclib.server.Server]
    ) -> None:
        self._cloud = cloud
        self._serve = serve
        self._pools: dict[str, _Pool] = {}
        self.containers: dict[str, Container] = {}
        self.calls: dict[str, Call] = {}
        self.inputs: dict[str, tuple[Call, Container]] = {}

    def of(self, function_id: str) -> Iterator[Container]:
        """The containers of a function that run and are no snapshot."""
        standby = self._pool(function_id).standby
        for container in self.containers.values():
            mine = container.function_id == function_id
            if mine and container.runs and container is not standby:
                yield container

    def of_app(self, app_id: str) -> Iterator[Container]:
        """The containers of an app, as `of` has them."""
        for function_id, handle in self._cloud.handles.items():
            if handle.app_id == app_id:
                yield from self.of(function_id)

    def snapshots(self) -> list[str]:
        """The functions of which there is a snapshot."""
        return [name for name, pool in self._pools.items() if pool.standby]

    def waiting(self, function_id: str) -> int:
        return len(self._pool(function_id).waiting)

    async def offer(self, call: Call, item: pb.FunctionInput) -> None:
        """Let an input wait for a container."""
        self.calls[call.id] = call
        pool = self._pool(call.function_id)
        async with pool.arrived:
            pool.waiting.append((call, item))
            pool.arrived.notify_all()
        self._cloud.spawn(self._scale(call.function_id))

    async def take(self, container: Container) -> pb.FunctionGetInputsItem:
        """The next input for a container, or the order to go."""
        pool = self._pool(container.function_id)
        async with pool.arrived:
            while not pool.waiting and not container.draining.is_set():
                await pool.arrived.wait()
            if container.draining.is_set():
                return pb.FunctionGetInputsItem(kill_switch=True)
            call, item = pool.waiting.popleft()
        container.active += 1
        container.call_id = call.id
        self.inputs[call.input_id] = (call, container)
        self._cloud.spawn(self._crash(call, container))
        return pb.FunctionGetInputsItem(
            input_id=call.input_id, function_call_id=call.id, input=item
        )

    def put_back(self, input_id: str) -> Call:
        """The call of an input that is answered; its container is free for another."""
        call, container = self.inputs.pop(input_id)
        container.active -= 1
        container.idle_since = time.time()
        return call

    async def ensure(self, function_id: str, *, at_least: int = 0) -> None:
        """As many containers as the autoscaler keeps warm, or as are asked for."""
        kept = self._cloud.autoscaling[function_id].min_containers
        wanted = max(kept, at_least)
        while self._cloud.app_of(function_id).deployed:
            if sum(1 for _ in self.of(function_id)) >= wanted:
                return
            async with self._cloud.lock(function_id):
                await self._start(function_id)

    async def drain(self, function_id: str) -> None:
        """A new version is there: the snapshot is void, containers end their work."""
        pool = self._pool(function_id)
        if pool.standby is not None:
            pool.standby.signal(signal.SIGKILL)
            pool.standby = None
        for container in list(self.of(function_id)):
            await self._drain(container)

    def stop(self, container: Container) -> None:
        """End a container at once, its hooks included."""
        container.draining.set()
        container.signal(signal.SIGTERM)
        self._cloud.spawn(self._reap(container))

    async def stop_app(self, app_id: str) -> None:
        """End all containers of an app, and what waits for one."""
        for function_id, pool in self._pools.items():
            if self._cloud.handles[function_id].app_id != app_id:
                continue
            while pool.waiting:
                await pool.waiting.popleft()[0].fail("the app was stopped")
            if pool.standby is not None:
                pool.standby.signal(signal.SIGKILL)
                pool.standby = None
            for container in list(self.of(function_id)):
                self.stop(container)

    async def end(self) -> None:
        """Leave no process behind."""
        for container in self.containers.values():
            container.signal(signal.SIGKILL)
        for container in self.containers.values():
            if container.process is not None:
                await first_of(container.ended, within=_GRACE_SECONDS)

    def _pool(self, function_id: str) -> _Pool:
        return self._pools.setdefault(function_id, _Pool())

    async def _scale(self, function_id: str) -> None:
        """Start containers while something waits for one."""
        pool = self._pool(function_id)
        while pool.waiting:
            async with self._cloud.lock(function_id):
                if self._free(function_id) >= len(pool.waiting):
                    return
                most = self._cloud.autoscaling[function_id].max_containers
                staying = (c for c in self.of(function_id) if not c.draining.is_set())
                if most and sum(1 for _ in staying) >= most:
                    return
                app = self._cloud.app_of(function_id)
                if app.state in (pb.APP_STATE_STOPPED, pb.APP_STATE_INITIALIZING):
                    return
                container = await self._start(function_id)
            if container.ready.is_set():
                continue
            if not self._cloud.functions[function_id].is_class:
                await self._give_up(pool, container)
            await asyncio.sleep(_RESTART_SECONDS)

    def _free(self, function_id: str) -> int:
        each = max(1, self._cloud.functions[function_id].max_concurrent_inputs)
        mine = (c for c in self.of(function_id) if not c.draining.is_set())
        return sum(max(0, each - container.active) for container in mine)

    async def _start(self, function_id: str) -> Container:
        """Bring a container up, from a snapshot where there is one."""
        cloud, pool = self._cloud, self._pool(function_id)
        function = prepared(cloud.functions[function_id])
        if not (function.checkpointing_enabled and cloud.app_of(function_id).deployed):
            return await self._up(await self._launch(function_id, captures=False))
        container, pool.standby = pool.standby, None
        if container is None:
            container = await self._launch(function_id, captures=True)
            await cloud.log(function_id, container.task_id, CREATING)
            await first_of(container.parked, container.ended)
            await self._resume(container, CREATED)
        else:
            await self._resume(container, RESTORING)
        await self._up(container)
        if container.code == RESTORE_FAILED:
            await cloud.log(function_id, container.task_id, "Snapshot restore failed\n")
            return await self._up(await self._launch(function_id, captures=False))
        return container

    async def _launch(self, function_id: str, *, captures: bool) -> Container:
        cloud = self._cloud
        task_id = cloud.new("ta")
        folder = cloud.folder / task_id[-6:]
        folder.mkdir()
        definition = prepared(cloud.functions[function_id])
        fails = captures and cloud.faults.restores > 0
        if fails:
            cloud.faults.restores -= 1
        container = Container(
            task_id, function_id, folder, definition, captures, fails_restore=fails
        )
        self.containers[task_id] = container
        container.server = self._serve(container)
        await container.server.start(path=str(folder / "rpc.sock"))
        await launch(cloud, container)
        return container

    async def _resume(self, container: Container, said: str) -> None:
        if container.runs:
            await self._cloud.log(container.function_id, container.task_id, said)
            if container.fails_restore:
                container.lose_children()
            # Every value is text; an empty one stands for what it was.
            state = json.dumps({"task_id": container.task_id, "server_url": ""})
            new = container.restore_file.with_suffix(".new")
            new.write_text(state, encoding="utf-8")
            new.replace(container.restore_file)

    async def _up(self, container: Container) -> Container:
        await first_of(container.ready, container.ended)
        container.idle_since = time.time()
        if container.runs:
            self._cloud.spawn(self._retire_idle(container))
        return container

    async def _retire_idle(self, container: Container) -> None:
        """Scale to zero, and keep one snapshot for the next cold start."""
        while container.runs and not container.draining.is_set():
            await asyncio.sleep(0.05)
            settings = self._cloud.autoscaling[container.function_id]
            window = (settings.scaledown_window or _WINDOW) / self._cloud.haste
            idle = container.active == 0 and time.time() - container.idle_since > window
            kept = sum(1 for _ in self.of(container.function_id))
            if idle and kept > settings.min_containers:
                await self._drain(container)
                self._cloud.spawn(self._keep_snapshot(container))
                return

    async def _drain(self, container: Container) -> None:
        pool = self._pool(container.function_id)
        async with pool.arrived:
            container.draining.set()
            pool.arrived.notify_all()
        if container.definition.is_server:
            container.signal(signal.SIGTERM)
        self._cloud.spawn(self._reap(container))

    async def _reap(self, container: Container) -> None:
        await first_of(container.ended, within=_GRACE_SECONDS)
        container.signal(signal.SIGKILL)
        await self._scale(container.function_id)

    async def _keep_snapshot(self, container: Container) -> None:
        """A restore uses a snapshot up here; on Modal it does not."""
        function_id = container.function_id
        pool, app = self._pool(function_id), self._cloud.app_of(function_id)
        async with self._cloud.lock(function_id):
            known = app.deployed and function_id in app.function_ids.values()
            if not (container.captures and known) or pool.standby is not None:
                return
            if prepared(self._cloud.functions[function_id]) != container.definition:
                return
            snapshot = await self._launch(function_id, captures=True)
            await first_of(snapshot.parked, snapshot.ended)
            if snapshot.runs:
                pool.standby = snapshot

    async def _give_up(self, pool: _Pool, container: Container) -> None:
        """A plain function whose container does not start fails what waits for it."""
        failed = container.result
        while pool.waiting:
            call, _ = pool.waiting.popleft()
            if failed is not None:
                await call.finish(failed, task_id=container.task_id)
            else:
                await call.fail(f"the container ended with {container.code}")

    async def _crash(self, call: Call, container: Container) -> None:
        """A container that dies takes its inputs with it."""
        await first_of(call.done, container.ended)
        if not call.done.is_set():
            with suppress(KeyError):
                self.put_back(call.input_id)
            await call.fail(f"the container ended with {container.code}")
