"""The containers of each function: when one is started, restored, and sent away.

A web request waits while a container starts; one whose hook raises is started again
for as long as something waits, with growing pauses: that is what makes a broken server
dear ("For deployed apps, container crashes will be retried indefinitely … Modal will
instead apply a crash-loop backoff", guide/retries).
"""

import asyncio
import json
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import grpclib.server
from modal_proto import api_pb2 as pb

from tests.modal.emulator import simulated
from tests.modal.emulator.calls import Call
from tests.modal.emulator.cloud import Cloud, first_of
from tests.modal.emulator.containers import (
    CRASHED,
    CREATED,
    CREATING,
    RESTORE_FAILED,
    RESTORING,
    SEGFAULT,
    Container,
    Worker,
    environment_of,
    launch,
    prepared,
    say_too_slow,
    start_limit,
)

_WINDOW = 60
_FIRST_BACKOFF = 0.2
_LONGEST_BACKOFF = 5.0
_GRACE_SECONDS = 10.0
_SUSTAINED_SECONDS = 1.0
"""How long containers are above their target before another one is added, where no
`scaleup_window` says.  An assumption: Modal documents the target ("Modal's autoscaler
will try to provision resources such that each container is running that many inputs
concurrently … Containers may burst up to `max_inputs`", reference/modal.concurrent),
and not how long it looks."""


@dataclass(slots=True)
class _Pool:
    """What waits for a function, and who works for it."""

    waiting: deque[tuple[Call, pb.FunctionInput]] = field(default_factory=deque)
    arrived: asyncio.Condition = field(default_factory=asyncio.Condition)
    members: list[Container] = field(default_factory=list)
    """Its containers that run, as far as that is known."""
    standby: dict[tuple[str, Worker], Container] = field(default_factory=dict)
    """Snapshots, by definition and type of worker: processes that wait at their
    checkpoints."""
    taken: set[tuple[str, Worker]] = field(default_factory=set)
    """The same of simulated containers, which nothing has to wait for."""
    failures: int = 0
    """Starts that failed since the last that did not."""
    above: float = 0.0
    """Since when its containers have more than their target; 0: they have not."""

    def backoff(self) -> float:
        grown: float = _FIRST_BACKOFF * 2 ** max(0, self.failures - 1)
        return min(_LONGEST_BACKOFF, grown)


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
        self.inputs: dict[str, tuple[Call, Container, pb.FunctionInput]] = {}

    def of(self, function_id: str) -> Iterator[Container]:
        """The containers of a function that run and are no snapshot."""
        pool = self._pool(function_id)
        pool.members = [it for it in pool.members if it.runs]
        standby = pool.standby.values()
        yield from [it for it in pool.members if it not in standby]

    def of_app(self, app_id: str) -> Iterator[Container]:
        """The containers of an app, as `of` has them."""
        for function_id, handle in self._cloud.handles.items():
            if handle.app_id == app_id:
                yield from self.of(function_id)

    def snapshots(self) -> list[str]:
        """The functions of which there is a snapshot."""
        pools = self._pools.items()
        return [name for name, pool in pools if pool.standby or pool.taken]

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
        self.work(container, 1)
        container.call_id = call.id
        self.inputs[call.input_id] = (call, container, item)
        self._cloud.spawn(self._crash(call, container))
        return pb.FunctionGetInputsItem(
            input_id=call.input_id, function_call_id=call.id, input=item
        )

    def put_back(self, input_id: str) -> Call:
        """The call of an input that is answered; its container is free for another."""
        call, container, _ = self.inputs.pop(input_id)
        self.work(container, -1)
        return call

    def work(self, container: Container, more: int) -> None:
        """A container works on one request more, or on one less."""
        container.active += more
        container.idle_since = time.time()
        function_id, pool = container.function_id, self._pool(container.function_id)
        if not self._is_above(function_id):
            pool.above = 0.0
        elif not pool.above:
            pool.above = time.monotonic()
            self._cloud.spawn(self._relieve(function_id, pool.above))

    def _is_above(self, function_id: str) -> bool:
        settings = self._cloud.autoscaling[function_id]
        target = settings.target_concurrency_float or getattr(
            self._cloud.definition(function_id), "target_concurrent_inputs", 0
        )
        mine = [c for c in self.of(function_id) if not c.draining.is_set()]
        return bool(target) and sum(c.active for c in mine) > target * len(mine)

    async def _relieve(self, function_id: str, since: float) -> None:
        """Add a container where the demand lasts: "seconds of sustained demand"."""
        window = self._cloud.autoscaling[function_id].scaleup_window
        await asyncio.sleep(window or _SUSTAINED_SECONDS)
        pool = self._pool(function_id)
        async with self._cloud.lock(function_id):
            if pool.above != since or self._is_full(function_id):
                return
            await self._start(function_id)
            pool.above = 0.0

    async def ensure(self, function_id: str, *, at_least: int = 0) -> None:
        """As many containers as the autoscaler keeps warm, or as are asked for."""
        while True:
            async with self._cloud.lock(function_id):
                app = self._cloud.app_of(function_id)
                kept = self._cloud.autoscaling[function_id].min_containers
                alive = [c for c in self.of(function_id) if not c.draining.is_set()]
                known = function_id in app.function_ids.values()
                enough = len(alive) >= max(kept, at_least)
                if not (app.deployed and known) or enough or self._is_full(function_id):
                    return
                container = await self._start(function_id)
            if not container.ready.is_set():
                await asyncio.sleep(self._pool(function_id).backoff())

    async def roll(self, function_id: str, *, every_container: bool) -> None:
        """A new version is there: what is of another one works on, for now.

        "existing containers will continue handling inputs (using the previous version
        of the App) until new containers have completed their cold start"
        (guide/managing-deployments, "Deployment strategies").  What was still starting
        has nothing to work on.
        """
        wanted = self._cloud.definition_id(function_id)
        for container in list(self.of(function_id)):
            other = container.definition_id != wanted
            container.outdated = every_container or other
            if container.outdated and not container.ready.is_set():
                self.stop(container)
        if any(c.outdated and c.ready.is_set() for c in self.of(function_id)):
            self._pool(function_id).failures = 0
            self._cloud.spawn(self._replace(function_id))

    def stop(self, container: Container) -> None:
        """End a container soon, its hooks included."""
        container.draining.set()
        container.signal(signal.SIGTERM)
        self._cloud.spawn(self._reap(container))

    async def preempt(self, container: Container) -> None:
        """The platform takes the machine away: the exit handler runs, inputs go on
        elsewhere ("gracefully terminate the Function and restart it on the same
        input", guide/preemption)."""
        self.stop(container)
        await self._cloud.log(
            container.function_id, container.task_id, "Container preempted\n"
        )

    async def stop_app(self, app_id: str) -> None:
        """End all containers of an app, and what waits for one."""
        for function_id, pool in self._pools.items():
            if self._cloud.handles[function_id].app_id != app_id:
                continue
            while pool.waiting:
                await pool.waiting.popleft()[0].fail("the app was stopped")
            for container in pool.standby.values():
                container.signal(signal.SIGKILL)
            pool.standby.clear()
            pool.taken.clear()
            for container in list(self.of(function_id)):
                self.stop(container)
                for call, worker, _ in list(self.inputs.values()):
                    if worker is container:
                        await call.fail("the app was stopped")

    async def end(self) -> None:
        """Leave no process behind."""
        for container in self.containers.values():
            container.signal(signal.SIGKILL)
        for container in self.containers.values():
            if container.process is not None:
                await first_of(container.ended, within=_GRACE_SECONDS)

    def _pool(self, function_id: str) -> _Pool:
        return self._pools.setdefault(function_id, _Pool())

    def _is_full(self, function_id: str) -> bool:
        """Containers that drain count as well.

        That is why `max_containers=1` "will prevent Modal from bringing up a
        replacement" of a server (guide/servers).
        """
        most = self._cloud.autoscaling[function_id].max_containers
        return bool(most) and sum(1 for _ in self.of(function_id)) >= most

    async def _replace(self, function_id: str) -> None:
        """Bring one container of the new version up, as often as that takes.

        Of a web function it may be one more than `max_containers` while both are
        there: that it would block is documented for servers alone.
        """
        app = self._cloud.app_of(function_id)
        version, pool = app.serving, self._pool(function_id)
        while app.deployed and app.serving is version:
            async with self._cloud.lock(function_id):
                old = [c for c in self.of(function_id) if c.outdated]
                new = [c for c in self.of(function_id) if not c.outdated]
                if not [c for c in old if not c.draining.is_set()]:
                    return
                blocked = self._cloud.definition(function_id).is_server
                blocked = blocked and self._is_full(function_id)
                if not (new or blocked or self._cloud.faults.lazy_rolling):
                    await self._start(function_id)
            await asyncio.sleep(pool.backoff())

    async def _shift(self, function_id: str) -> None:
        """A container of the new version is there: the old ones end their work."""
        for container in list(self.of(function_id)):
            if container.outdated and not container.draining.is_set():
                await self._drain(container)

    async def _scale(self, function_id: str) -> None:
        """Start containers while something waits for one."""
        pool = self._pool(function_id)
        while pool.waiting:
            async with self._cloud.lock(function_id):
                if self._free(function_id) >= len(pool.waiting):
                    return
                most = self._cloud.autoscaling[function_id].max_containers
                staying = [c for c in self.of(function_id) if not c.draining.is_set()]
                app = self._cloud.app_of(function_id)
                if app.state in (pb.APP_STATE_STOPPED, pb.APP_STATE_INITIALIZING):
                    return
                if most and len(staying) >= most:
                    return
                if self._is_full(function_id) and most > 1:
                    container = None  # until one that drains is gone
                else:
                    container = await self._start(function_id)
            if container is None:
                await asyncio.sleep(0.05)
                continue
            if container.ready.is_set():
                continue
            if not self._cloud.definition(function_id).is_class:
                await self._give_up(pool, container)
            await asyncio.sleep(pool.backoff())

    def _free(self, function_id: str) -> int:
        each = max(1, self._cloud.definition(function_id).max_concurrent_inputs)
        mine = (c for c in self.of(function_id) if not c.draining.is_set())
        return sum(max(0, each - container.active) for container in mine)

    async def _start(self, function_id: str) -> Container:
        """Bring a container up, from a snapshot where its worker has one."""
        cloud, pool = self._cloud, self._pool(function_id)
        if waits := cloud.faults.capacity_seconds:
            await asyncio.sleep(waits)
        if cloud.simulates:
            return await self._simulate(function_id)
        worker = self._worker(function_id)
        function = cloud.definition(function_id)
        if not (function.checkpointing_enabled and cloud.app_of(function_id).deployed):
            return await self._up(await self._launch(function_id, worker))
        where = cloud.definition_id(function_id), worker
        container = pool.standby.pop(where, None)
        if (
            container is not None
            and cloud.chance.random() < cloud.faults.lost_snapshots
        ):
            container.signal(signal.SIGKILL)
            container = None
        if container is None:
            container = await self._launch(function_id, worker, captures=True)
            await cloud.log(function_id, container.task_id, CREATING)
            await self._in_time(container, container.parked)
            await self._resume(container, CREATED)
            if cloud.chance.random() < cloud.faults.capture_failure:
                return await self._crashed_restore(container)
        else:
            del self.containers[container.task_id]
            container.task_id = cloud.new("ta")  # a restored copy is another container
            self.containers[container.task_id] = container
            container.started = cloud.clock()
            jump = container.clock_file.with_suffix(".new")
            jump.write_text(str(cloud.faults.clock_jump), encoding="utf-8")
            jump.replace(container.clock_file)  # it is read all the while
            await self._resume(container, RESTORING)
            if cloud.chance.random() < cloud.faults.restore_failure:
                return await self._crashed_restore(container)
        await self._up(container)
        if container.code == RESTORE_FAILED:
            # "a sentinel code that the runtime will use to retry the task without a
            # snapshot" (client 1.6.4, `task_lifecycle_manager.py`)
            await cloud.log(function_id, container.task_id, "Snapshot restore failed\n")
            return await self._up(await self._launch(function_id, worker))
        return container

    async def _crashed_restore(self, container: Container) -> Container:
        """The next container makes its snapshot anew (modal-client#4132)."""
        container.signal(signal.SIGKILL)
        await first_of(container.ended, within=_GRACE_SECONDS)
        await self._cloud.log(container.function_id, container.task_id, CRASHED)
        self._pool(container.function_id).failures += 1
        return container

    async def _simulate(self, function_id: str) -> Container:
        """A container without a process, and what its start comes to."""
        cloud, pool = self._cloud, self._pool(function_id)
        definition = cloud.definition_id(function_id)
        worker = self._worker(function_id)
        container = self._container(function_id, worker)
        where = (definition, worker)
        function = container.definition
        snapshots = (
            function.checkpointing_enabled and cloud.app_of(function_id).deployed
        )
        known = where in pool.taken
        if known and cloud.chance.random() < cloud.faults.lost_snapshots:
            pool.taken.discard(where)
            known = False
        how = "plain" if not snapshots else "restore" if known else "capture"
        code = await simulated.start(cloud, container, how)
        if code is None and how == "capture":
            pool.taken.add(where)
        if code == SEGFAULT:
            pool.taken.discard(where)
        if code == RESTORE_FAILED:
            container.ended.set()
            container = self._container(function_id, worker)
            code = await simulated.start(cloud, container, "plain")
        if code is not None:
            container.ended.set()
        else:
            container.ready.set()
            cloud.spawn(simulated.serve(self, container))
        return await self._up(container)

    def _worker(self, function_id: str) -> Worker:
        """The type of machine that the next container lands on."""
        cloud = self._cloud
        number = cloud.chance.randrange(cloud.faults.workers)
        for machine in (machines := self._machines(function_id))[:-1]:
            if cloud.chance.random() >= cloud.faults.scarce:
                return machine.gpu_config.gpu_type, number
        return machines[-1].gpu_config.gpu_type, number

    def _machines(self, function_id: str) -> Sequence[pb.Resources]:
        known = self._cloud.machines.get(self._cloud.definition_id(function_id))
        return known or (self._cloud.functions[function_id].resources,)

    def _container(
        self, function_id: str, worker: Worker, *, captures: bool = False
    ) -> Container:
        cloud = self._cloud
        machines = self._machines(function_id)
        machine = next(it for it in machines if it.gpu_config.gpu_type == worker[0])
        task_id = cloud.new("ta")
        container = Container(
            task_id,
            function_id,
            cloud.folder / task_id[-6:],
            prepared(cloud.definition(function_id), machine),
            captures,
            definition_id=cloud.definition_id(function_id),
            tags=dict(cloud.app_of(function_id).tags),
            worker=worker,
            started=cloud.clock(),
        )
        self.containers[task_id] = container
        self._pool(function_id).members.append(container)
        return container

    async def _launch(
        self,
        function_id: str,
        worker: Worker,
        *,
        captures: bool = False,
        given: Mapping[str, str] | None = None,
    ) -> Container:
        cloud = self._cloud
        container = self._container(function_id, worker, captures=captures)
        container.given = given or environment_of(cloud, container.definition)
        container.folder.mkdir()
        if captures and cloud.faults.restores > 0:
            cloud.faults.restores -= 1
            container.fails_restore = True
        container.server = self._serve(container)
        await container.server.start(path=str(container.folder / "rpc.sock"))
        await launch(cloud, container)
        return container

    async def _resume(self, container: Container, said: str) -> None:
        if container.runs:
            await self._cloud.log(container.function_id, container.task_id, said)
            if container.fails_restore:
                container.lose_children()
            today = environment_of(self._cloud, container.definition)
            container.show_environment(today)
            # Every value is text; an empty one stands for what it was.
            state = json.dumps({"task_id": container.task_id, "server_url": ""})
            new = container.restore_file.with_suffix(".new")
            new.write_text(state, encoding="utf-8")
            new.replace(container.restore_file)

    async def _up(self, container: Container) -> Container:
        await self._in_time(container, container.ready)
        pool = self._pool(container.function_id)
        container.idle_since = time.time()
        if not container.runs or not container.ready.is_set():
            pool.failures += 1
            return container
        pool.failures = 0
        self._cloud.spawn(self._retire_idle(container))
        if not container.outdated:
            await self._shift(container.function_id)
        return container

    async def _in_time(self, container: Container, there: asyncio.Event) -> None:
        """Wait for a step of a start, which has a limit."""
        within = start_limit(container) or None
        await first_of(there, container.ended, within=within)
        if not there.is_set() and container.runs:
            await say_too_slow(self._cloud, container)
            container.signal(signal.SIGKILL)
            await first_of(container.ended, within=_GRACE_SECONDS)

    async def _retire_idle(self, container: Container) -> None:
        """Scale to zero, and keep one snapshot for the next cold start."""
        while container.runs and not container.draining.is_set():
            await asyncio.sleep(0.05)
            settings = self._cloud.autoscaling[container.function_id]
            window = (settings.scaledown_window or _WINDOW) / self._cloud.haste
            idle = container.active == 0 and time.time() - container.idle_since > window
            alive = [
                c for c in self.of(container.function_id) if not c.draining.is_set()
            ]
            if idle and len(alive) > settings.min_containers:
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
        """End a container once it has answered; "old containers will not shut down
        until they finish processing any inputs they were assigned"."""
        pool = self._pool(container.function_id)
        async with pool.arrived:
            pool.arrived.notify_all()
        await first_of(container.ended, within=_GRACE_SECONDS)
        container.signal(signal.SIGKILL)
        if container.process is None:
            container.ended.set()
        await self._scale(container.function_id)

    async def _keep_snapshot(self, container: Container) -> None:
        """A restore uses a snapshot up here; on Modal it does not.

        So another process takes its place, with the environment of the capture.
        """
        function_id = container.function_id
        pool, app = self._pool(function_id), self._cloud.app_of(function_id)
        where = (container.definition_id, container.worker)
        async with self._cloud.lock(function_id):
            known = app.deployed and function_id in app.function_ids.values()
            if not (container.captures and known) or where in pool.standby:
                return
            if self._cloud.definition_id(function_id) != container.definition_id:
                return
            snapshot = await self._launch(
                function_id, container.worker, captures=True, given=container.given
            )
            pool.standby[where] = snapshot
            await first_of(snapshot.parked, snapshot.ended)
            if not snapshot.runs:
                pool.standby.pop(where, None)

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
        """What a container that died was at work on, another one does.

        "Modal will reschedule the container and any work it was currently assigned"
        (guide/retries); what has been answered in part cannot be answered again.
        `timeout` is "a measure of a Function's *execution* time" (guide/timeouts).
        """
        within = container.definition.timeout_secs or None
        await first_of(call.done, container.ended, within=within)
        if call.done.is_set():
            return
        if container.runs:
            await self._time_out(call, container)
            return
        item = None
        with suppress(KeyError):
            item = self.inputs[call.input_id][2]
            self.put_back(call.input_id)
        app = self._cloud.app_of(container.function_id)
        is_class = container.definition.is_class
        if item is None or not (is_class and app.deployed) or call.data_out.chunks:
            await call.fail(f"the container ended with {container.code}")
        else:
            await self.offer(call, item)

    async def _time_out(self, call: Call, container: Container) -> None:
        """End an input, and let the container go on.

        Modal sends SIGUSR1 at the time-out, which the entrypoint turns into an
        exception (stardag-dev/stardag#245); of several inputs at once it ends one
        alone.  The line is in gpu-mode/kernelbot#496.
        """
        seconds = container.definition.timeout_secs
        said = f"Task's current input {call.input_id} hit its timeout of {seconds}s"
        await self._cloud.log(container.function_id, container.task_id, f"{said}\n")
        with suppress(KeyError):
            self.put_back(call.input_id)
        status = pb.GenericResult.GENERIC_STATUS_TIMEOUT
        result = pb.GenericResult(status=status, exception=said)
        await call.finish(result, task_id=container.task_id)
        alone = container.definition.max_concurrent_inputs <= 1
        if alone and container.process is not None:
            container.process.send_signal(signal.SIGUSR1)
