"""The local engine: the real llama-server as processes of this machine.

A candidate listens on the stack's own port beside the live server (SO_REUSEPORT),
and the kernel is told who gets the connections: see `deployer.engines.local.reuseport`.
So what the gates saw is the very process that is promoted, and no request fails.
Where that cannot work the stack says ``rollout.strategy: replace``.
"""

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from deployer.artefacts.store import STORED
from deployer.engines.contract import Endpoint, Observation, Rendering, Restored, pin_of
from deployer.engines.local import logs, reuseport
from deployer.engines.local.server import CONDITIONS, Server
from deployer.engines.local.snapshot.capture import Snapshots
from deployer.engines.local.snapshot.proof import IDLE, asleep, why_no_answer
from deployer.engines.local.snapshot.restore import (
    Origin,
    bring_up,
    end_unproven,
    origin_of,
)
from deployer.engines.local.supervise.find import stack_folder
from deployer.engines.local.supervise.process import stop
from deployer.engines.local.supervise.survivors import (
    captives,
    made_from,
    memory_of,
    note,
    sharing,
    survivors,
)
from deployer.engines.place import Place
from deployer.errors import EngineError, PromotionError, UsageError
from deployer.planning.argv import adapters_of, command_line, scales_of
from deployer.planning.events import Say, Talk
from deployer.planning.plan import RunningServer
from deployer.planning.resources import MODEL_ROLE, Graph, Kind, Node
from deployer.planning.state import (
    CAPTURE,
    MEASURED,
    PLAIN,
    UNUSED,
    Measured,
    Record,
    is_automatic,
    record_of,
)
from deployer.show.text import show
from deployer.stack.fields.values import Flat, JsonValue, keys_of, show_bytes
from deployer.system.children import NVIDIA, find_program, variables

if TYPE_CHECKING:
    from deployer.engines.local.artefacts import Artefacts

_UNPROVEN = "unproven: restored, and its answers were not compared yet"
_ADAPTERS: Final = "/lora-adapters"
"""Where llama-server lists its adapters, and takes how strongly each is applied."""
_ADAPTERS_SECONDS: Final = 60.0
"""A request that is computed goes first."""
_COPY = "copy-"
"""Begins the key of a server that is restored beside the live one, to be looked at."""


class LocalEngine:
    """Builds and weights in the store, servers as processes."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._snapshots = Snapshots(place)

    @property
    def _artefacts(self) -> "Artefacts":
        """Builds and weights; what makes them is slow to import, and rarely needed."""
        from deployer.engines.local.artefacts import Artefacts  # noqa: PLC0415

        return Artefacts(self._place)

    def preflight(
        self, nodes: Sequence[Node], live: Collection[Record] = (), workspace: str = ""
    ) -> None:
        """See `Engine.preflight`."""
        del live
        if workspace:
            raise UsageError(
                "`--workspace` is for stacks on Modal: this one runs on this machine",
                hint="leave it out",
            )
        for node in nodes:
            if node.kind is Kind.SERVER:
                server = Server(record_of(node, {}), self._place)
                server.secrets()
                server.refuse_strangers()
                _refuse_gpu(node.fields.get("gpu"))
                tuple(sharing(server.record, server.stack_dir))

    def stage(self, node: Node, needs: Mapping[str, Flat], say: Say) -> Flat:
        """See `Engine.stage`."""
        match node.kind:
            case Kind.SNAPSHOT:
                return self._snapshots.make(node, needs, say)
            case Kind.SERVER:
                server = Server(record_of(node, {}), self._place)
                for said in sharing(server.record, server.stack_dir):
                    say(Talk(node.address, said))
                origin = self._bring_up(server, needs, say)
                outputs = {"url": server.url, "log": str(server.log)}
                if (made := needs.get(Kind.SNAPSHOT)) is None:
                    return outputs
                return {**outputs, **_measured(node, made, origin, say)}
            case _:
                return self._artefacts.make(node, say)

    def update(self, node: Node, record: Record, say: Say) -> None:
        """See `Engine.update`: the strength of adapters; one that is down starts so."""
        changed = replace(record, fields=dict(node.fields))
        server = Server(changed, self._place)
        if (running := server.running()) is None:
            return
        _apply_scales(server)
        note(server.run_dir, changed, made_from(server.run_dir))
        say(Talk(record.address, f"pid {running.pid} applies its adapters as stated"))

    def promote(self, record: Record, before: Record | None, say: Say) -> Flat:
        """See `Engine.promote`: new connections go to the candidate from here on."""
        del before  # whoever has the traffic: it is found by asking
        server = Server(record, self._place)
        running = server.running()
        if running is None:
            raise PromotionError(
                f"the server of `{record.address}` ended before it took over:"
                f" {server.why_not()}",
                hint="run `deployer apply` again",
            )
        shared = server.is_shared()
        server.let_clients_in()
        try:
            server.take_over(running)
        except EngineError as error:
            raise PromotionError(error.message, hint=error.hint) from error
        if shared:
            text = f"takes the new connections on port {server.port}"
            say(Talk(record.address, text))
        return {}

    def retire(self, record: Record, say: Say) -> None:
        """See `Engine.retire`."""
        if record.kind is Kind.SNAPSHOT:
            self._snapshots.retire(record)
            return
        if record.kind is not Kind.SERVER:
            return
        server = Server(record, self._place)
        with suppress(EngineError):
            server.turn_away()
        server.end(say)
        server.forget_clients()
        if record.key.startswith(_COPY):
            shutil.rmtree(server.run_dir, ignore_errors=True)
            return
        # A check that was killed leaves the copy that it looked at.
        copy = replace(record, key=f"{_COPY}{record.key}")
        if Server(copy, self._place).run_dir.exists():
            self.retire(copy, say)

    def start(self, record: Record, needs: Mapping[str, Flat], say: Say) -> None:
        """See `Engine.start`: clients wait outside until it is healthy, and proven.

        What a lost state knew is taken from the run folder.
        """
        server = Server(record, self._place)
        server.forget_keys()
        hung = server.end_hung(say)
        server.secrets()  # without them it is not started, which is no restart
        server.note_restart(hung, datetime.now(UTC).isoformat(timespec="seconds"))
        known = {**made_from(server.run_dir), **needs}
        self._bring_up(server, known, say)
        server.let_clients_in()

    def stop(self, record: Record, say: Say) -> None:
        """See `Engine.stop`."""
        server = Server(record, self._place)
        server.end(say)
        server.forget_clients()
        server.mark_stopped()

    def failure(self, record: Record, seconds: float, *, ask: bool) -> str:
        """See `Engine.failure`."""
        return Server(record, self._place).failure(seconds, ask=ask)

    def renew(self, record: Record, say: Say) -> bool:
        """See `Engine.renew`: one process has the port and the memory."""
        del record, say
        return False

    def idle(self, record: Record, seconds: float, say: Say) -> None:
        """See `Engine.idle`: what nobody asks need not run."""
        Server(record, self._place).end(say)
        time.sleep(seconds)

    def restore(
        self, record: Record, needs: Mapping[str, Flat], say: Say, *, beside: bool
    ) -> Restored:
        """See `Engine.restore`."""
        server = Server(record, self._place)
        if beside:
            server = server.elsewhere(f"{_COPY}{record.key}")
        candidate = server.is_guarded
        server.secrets()  # before what runs is ended
        server.end(say)
        if beside:
            origin = bring_up(server, needs, self._snapshots, say)
        else:
            origin = self._bring_up(server, needs, say)
        if not candidate:
            server.let_clients_in()
        return Restored(origin.restored, origin.seconds, origin.detail, server.record)

    def _bring_up(self, server: Server, needs: Mapping[str, Flat], say: Say) -> Origin:
        """Bring a server up; its clients stay away until they are let in.

        What a run that died was about to capture is ended: nobody captures now, since
        whoever does has the lock of the stack.
        """
        for left in captives(server.run_dir.parent):
            stop(left, grace=0)
        end_unproven(server, say)  # else its clients would reach it till its end
        server.keep_clients_away(say)
        try:
            return bring_up(server, needs, self._snapshots, say)
        except BaseException:
            if server.running() is None:
                server.forget_clients()
            raise

    def woken(self, record: Record, ask: Callable[[], object], say: Say) -> None:
        """See `Engine.woken`: what runs here stays awake."""
        del record, say
        ask()

    def flaw(self, record: Record, server: Record | Node) -> str:
        """See `Engine.flaw`: of builds and weights, what their stamps say."""
        if record.kind is Kind.SERVER:
            return ""
        if record.kind is not Kind.SNAPSHOT:
            return self._snapshots.store.flaw(STORED[record.kind], record.key)
        thing = record_of(server, {}) if isinstance(server, Node) else server
        return self._snapshots.flaw(record.key, Server(thing, self._place))

    def observe(self, record: Record) -> Observation:
        """See `Engine.observe`."""
        server = Server(record, self._place)
        server.forget_keys()
        running = server.running()
        if running is None:
            down = "stopped" if server.stopped.exists() else "dead"
            return Observation(
                running=False,
                healthy=False,
                detail=server.why_not(),
                facts={"condition": down, "restarts": _restarts(server)},
            )
        logs.trim(server.log)
        memory = memory_of(running)
        about = f"pid {running.pid}, {show_bytes(memory)} of memory"
        if "snapshot" in record.needs and (origin := origin_of(server)) is not None:
            about += f", {origin.detail}"
        condition = server.condition(running)
        answers = condition in {"healthy", "unhealthy"}
        if answers and IDLE in server.argv and asleep(server.door()):
            about += ", asleep: the next request wakes it"
        how, healthy = CONDITIONS[condition], condition == "healthy"
        if server.unproven.exists():
            how, healthy = _UNPROVEN, False
        return Observation(
            running=True,
            healthy=healthy,
            detail=f"{how}, {about}",
            facts={
                "condition": condition,
                "pid": running.pid,
                "memory": memory,
                "log": str(server.log),
                "loading": dict(server.first_words),
                "restarts": _restarts(server),
            },
        )

    def servers(
        self, stack: str, known: Collection[str], *, thoroughly: bool
    ) -> tuple[RunningServer, ...]:
        """See `Engine.servers`."""
        folder = stack_folder(self._place.home, self._place.folder, stack)
        return survivors(folder, stack, known, thoroughly=thoroughly)

    def endpoint(self, record: Record, *, candidate: bool) -> Endpoint:
        """See `Engine.endpoint`."""
        server = Server(record, self._place)
        shared = candidate and server.is_shared()
        source = reuseport.GATE_SOURCE if shared else None
        return Endpoint(server.url, server.api_key_envs, source)

    def discard(self, record: Record, say: Say) -> None:
        """See `Engine.discard`."""
        del say
        self._artefacts.discard(record)

    def versions(self, record: Record) -> Mapping[str, str]:
        """See `Engine.versions`: a process has none."""
        del record
        return {}

    def usage(self, record: Record) -> Mapping[str, float] | None:
        """See `Engine.usage`: a machine counts no requests."""
        del record
        return None

    def logs(self, record: Record, *, lines: int, follow: bool) -> Iterator[str]:
        """See `Engine.logs`."""
        log = Server(record, self._place).log
        if not log.exists():
            raise EngineError(
                f"there is no log at `{log}`", hint="the server never ran here"
            )
        return logs.tail(log, lines=lines, follow=follow)


def _restarts(server: Server) -> JsonValue:
    """Return how often a server was started again, and when and why, as a fact."""
    count, last = server.restarts
    return {"count": count, "last": last}


def _measured(node: Node, made: Flat, origin: Origin, say: Say) -> Flat:
    """Return what starts of this server took, and the decision, as outputs.

    A server that started cold says why, and its snapshot is tried again at each start:
    that decides nothing.
    """
    plain, capture = made.get(PLAIN), made.get(CAPTURE)
    measured = Measured(
        plain if isinstance(plain, float) else None,
        capture if isinstance(capture, float) else None,
        origin.seconds if origin.restored else None,
    )
    say(Talk(node.address, measured.line))
    outputs: dict[str, JsonValue] = {MEASURED: measured._asdict()}
    decides = is_automatic(node) and None not in (measured.plain, measured.restore)
    if decides and (why := measured.why_not):
        outputs[UNUSED] = why
    return outputs


def _apply_scales(server: Server) -> None:
    """Set how strongly it applies each adapter, and see that it does.

    Raises EngineError where it does not.
    """
    scales = scales_of(server.record.fields, server.record.spec)
    roles = adapters_of(server.record.needs)
    wanted = [scales.get(role, 1.0) for role in roles]
    body: list[JsonValue] = [{"id": n, "scale": it} for n, it in enumerate(wanted)]
    door = server.door()
    try:
        status, _ = door.post(_ADAPTERS, body, _ADAPTERS_SECONDS)
        _, found = door.get(_ADAPTERS, _ADAPTERS_SECONDS)
    except OSError as error:
        why = why_no_answer(error, _ADAPTERS_SECONDS)
        raise EngineError(f"`{_ADAPTERS}` was not answered: {why}") from error
    now = [_scale_in(it) for it in found] if isinstance(found, list) else []
    if status != HTTPStatus.OK or now != [round(it, 5) for it in wanted]:
        raise EngineError(
            f"the server does not apply its adapters as stated (HTTP {status})",
            hint="`deployer server restart` starts it with them",
        )


def _scale_in(adapter: JsonValue) -> float | None:
    """How strongly an adapter is applied, as llama-server lists it, in 32 bits."""
    match adapter:
        case {"scale": float(scale) | int(scale)}:
            return round(float(scale), 5)
        case _:
            return None


def _refuse_gpu(wanted: JsonValue) -> None:
    """Raise EngineError when the stack names a GPU that this machine does not have."""
    if wanted is None:
        return
    names = [wanted] if isinstance(wanted, str) else wanted
    found = _gpus()
    for name in names if isinstance(names, list) else ():
        kind = str(name).partition(":")[0].partition("-")[0].rstrip("!+")
        if any(kind in gpu.replace(" ", "") for gpu in found):
            return
    raise EngineError(
        f"the stack asks for GPU {show(wanted)}, and this machine has "
        f"{', '.join(found) or 'none'}",
        hint="leave `gpu` out to run on the CPU, or deploy where there is one",
    )


def _gpus() -> tuple[str, ...]:
    """Names of the GPUs, as the NVIDIA driver reports them."""
    if (program := find_program("nvidia-smi", os.environ)) is None:
        return ()
    asked = (program, "--query-gpu=name", "--format=csv,noheader")
    try:
        done = subprocess.run(  # noqa: S603 - a fixed command of the driver
            asked,
            env=variables(os.environ, *NVIDIA),
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ()
    if done.returncode:
        return ()
    return tuple(line.strip() for line in done.stdout.splitlines() if line.strip())


def render_stack(graph: Graph, place: Place) -> Rendering:
    """The command line; files of the store go by their own names."""
    del place  # nothing of the stack's folder is read
    nodes = {node.role: node for node in graph.values()}
    server = nodes[Kind.SERVER]
    words = server.spec["argv"]
    weights = [node for node in nodes.values() if node.kind is Kind.WEIGHTS]
    files = {node.role: _named(node, "model") for node in weights}
    if "mmproj" in pin_of(nodes[MODEL_ROLE]).about:
        files["mmproj"] = _named(nodes[MODEL_ROLE], "mmproj")
    stated = [str(word) for word in words] if isinstance(words, list) else []
    host = str(server.fields["local.host"])
    argv = command_line(
        "llama-server",
        stated,
        files=lambda name: name,
        model=files.pop(MODEL_ROLE),
        beside=files,
        scales=scales_of(server.fields, server.spec),
        host=host,
        port=int(str(server.fields["local.port"])),
        reuse_port=reuseport.supported(host) is None,
        key_file="api-key" if keys_of(server.fields) else None,
    )
    return Rendering(argv, {})


def _named(node: Node, name: str) -> str:
    """The file of the weights; the key of those whose package is not unpacked yet."""
    match pin_of(node).about.get(name):
        case [str(first), *_] | str(first):
            return first
        case _:
            return f"weights/{node.key[:16]}"
