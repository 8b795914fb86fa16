"""What the emulated cloud holds: apps, functions, files, and what was asked of it.

Every id looks as Modal's do: the client tells objects apart by their prefix, and an
app by 22 letters.
"""

import asyncio
import hashlib
import random
import time
from collections import Counter, defaultdict
from collections.abc import Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from google.protobuf.json_format import MessageToDict
from modal_proto import api_pb2 as pb

HOST = "127.0.0.1"
POLLED = frozenset(
    {
        "AppFetchLogs",
        "AppGetLogs",
        "AppHeartbeat",
        "ContainerHeartbeat",
        "FunctionGetCurrentStats",
        "FunctionGetOutputs",
        "TaskList",
    }
)
"""Asked again and again while something is waited for: no part of a call table."""


@dataclass(slots=True)
class Version:
    """One row of the deployment history of an app."""

    number: int
    at: float
    tag: str
    function_ids: Mapping[str, str]
    class_ids: Mapping[str, str]
    definition_ids: Mapping[str, str]
    """What each function of the app is in this version."""
    tags: Mapping[str, str]
    kind: "pb.DeploymentType.ValueType" = pb.DEPLOYMENT_TYPE_STANDARD
    refers_to: int = 0
    """The version that was rolled back to, or promoted."""


@dataclass(slots=True)
class App:
    """One app, from its first request to after its end."""

    id: str
    name: str
    environment: str
    tags: dict[str, str]
    created: float
    state: "pb.AppState.ValueType" = pb.APP_STATE_INITIALIZING
    history: list[Version] = field(default_factory=list)
    serving: Version | None = None
    """The version that new containers are of; a staged one is none."""
    stopped_at: float = 0.0

    @property
    def deployed(self) -> bool:
        return self.state == pb.APP_STATE_DEPLOYED

    @property
    def function_ids(self) -> Mapping[str, str]:
        return {} if self.serving is None else self.serving.function_ids

    @property
    def class_ids(self) -> Mapping[str, str]:
        return {} if self.serving is None else self.serving.class_ids

    def version(self, number: int) -> Version | None:
        """One version of the history; 0 stands for the one that serves."""
        if number == 0:
            return self.serving
        return next((it for it in self.history if it.number == number), None)

    def lifecycle(self) -> pb.AppLifecycle:
        serving = self.serving
        return pb.AppLifecycle(
            app_state=self.state,
            version=0 if serving is None else serving.number,
            created_at=self.created,
            deployed_at=0 if serving is None else serving.at,
            deployed_by="tests",
            stopped_at=self.stopped_at,
        )


@dataclass(frozen=True, slots=True)
class Address:
    """What a web address leads to, whichever version of the app is deployed."""

    app: str
    environment: str
    function: str
    method: str


@dataclass(slots=True)
class Volume:
    """A Volume: a folder of this machine."""

    folder: Path
    metadata: pb.VolumeMetadata


@dataclass(slots=True)
class Secret:
    """A named secret, or one of a single deployment."""

    name: str
    values: dict[str, str]


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line that a container wrote, or that the platform said of it.

    Entries have ids and carry the clock of the platform (client 1.6.4,
    `_logs_manager.py`); that they are there only seconds later is seen by everybody
    who reads a log right after a call.
    """

    number: int
    app_id: str
    function_id: str
    task_id: str
    call_id: str
    at: float
    """By the clock of the platform."""
    seen_at: float
    """From when on readers get it, by the clock of this machine."""
    text: str
    descriptor: "pb.FileDescriptor.ValueType"

    def batch(self) -> pb.TaskLogsBatch:
        item = pb.TaskLogs(
            data=self.text,
            timestamp=self.at,
            timestamp_ns=int(self.at * 1e9),
            file_descriptor=self.descriptor,
            container_id=self.task_id,
            function_call_id=self.call_id,
        )
        return pb.TaskLogsBatch(
            task_id=self.task_id,
            function_id=self.function_id,
            entry_id=f"{int(self.at * 1e6)}-{self.number}",
            items=[item],
        )


@dataclass(slots=True)
class Faults:
    """How the platform is at the moment, and what goes wrong, by order of a test."""

    seed: int = 0
    """Of everything below that is a chance."""
    refused: dict[str, str] = field(default_factory=dict)
    """Requests that are refused, by name, with the message."""
    cut_at: str = ""
    """The request during which the network is cut."""
    cut_after: int = 0
    """How many requests of that name pass before."""
    cut_answer: bool = False
    """The request is carried out, and it is its answer that is lost."""
    unmounted: str = ""
    """An app whose containers find their Volumes empty."""
    broken: list[str] = field(default_factory=list)
    """Keys of servers (their tag, or `APP:KEY`) that do not start, if simulated."""
    failed_layer: str = ""
    """Text of an image's line that does not build."""
    longest_wait: float = 150.0
    """Seconds after which a web request is answered with 303."""
    rates: dict[str, str] = field(default_factory=dict)
    """Prices that differ from those of the day."""
    volume_bytes: int = 0
    """How much more fits on a Volume; 0: as much as on the disk."""
    volume_files: int = 500_000
    """Inodes of a Volume v1: no more than that (guide/volumes)."""
    log_seconds: float = 0.0
    """How late lines of a log arrive, at most; half of it at least."""
    log_ends: bool = False
    """A stream of a log ends though the app goes on."""
    log_cut: float = 0.0
    """Chance that the answer to a read of a log ends before it is whole (RST_STREAM;
    the client asks three times more, `_utils/grpc_utils.py`)."""
    clock_ahead: float = 0.0
    """Seconds that the platform's clock is ahead of this machine's."""
    workers: int = 1
    """Types of workers that cold starts land on: each needs a snapshot of its own
    (guide/memory-snapshots: GPU functions take 2 to 3 per type of GPU)."""
    scarce: float = 0.0
    """Chance that a GPU of a list is not there, so that the next one is taken: Modal
    tries "each requested GPU type in order" (examples/gpu_fallbacks)."""
    lost_snapshots: float = 0.0
    """Chance that a worker finds no snapshot where there was one: they expire."""
    restores: int = 0
    """How many containers lose their processes when they are restored."""
    restore_failure: float = 0.0
    """Chance that a restore fails (modal-client#4132: about 60 %)."""
    capture_failure: float = 0.0
    """Chance that a container crashes as it goes on from the snapshot it just took: it
    is restored from it as any other is ("Snapshot created. Restoring …")."""
    clock_jump: float = 3600.0
    """Seconds that the clocks of a container jump ahead at a restore: it slept for so
    long.  Modal's runtime lets the monotonic clock jump "by approximately the same
    amount as real time" (gVisor, `pkg/sentry/kernel/timekeeper.go`, `SetClocks`)."""
    restore_kind: str = "139"
    """How: `139`, `222`, `never` ready, `garbled` answers, or `any` of them."""
    start_seconds: float = 0.05
    """A plain start of a simulated container."""
    capture_seconds: float = 0.1
    """A start of a simulated container that takes a snapshot."""
    restore_seconds: float = 0.02
    """A restore of a simulated container."""
    capacity_seconds: float = 0.0
    """How long a container waits for a machine (guide/gpu: availability)."""
    lazy_rolling: bool = False
    """A rollout starts no container by itself, only for inputs that find no room."""
    workspace: str = "tests"
    """Name of the workspace that every token belongs to."""
    staged: str = "offered"
    """Whether staged deployments are `offered`, `refused`, or `ignored` (published
    at once, as a server does that does not know the field)."""


class Cloud:
    """Everything that lasts beyond one request."""

    def __init__(self, folder: Path, *, haste: float, simulates: bool) -> None:
        self.folder = folder
        self.simulates = simulates
        """Containers are no processes."""
        self.haste = haste
        """How many times faster than on Modal an idle container goes."""
        self.url = ""
        self.files_url = ""
        self.environments: list[str] = ["main"]
        self.apps: dict[str, App] = {}
        self.functions: dict[str, pb.Function] = {}
        """As they were created last; containers are of what is published."""
        self.definitions: dict[str, pb.Function] = {}
        self.machines: dict[str, tuple[pb.Resources, ...]] = {}
        """Those that a definition may run on, the preferred one first."""
        self.autoscaling: dict[str, pb.AutoscalerSettings] = {}
        self.handles: dict[str, pb.FunctionHandleMetadata] = {}
        self.urls: dict[Address, str] = {}
        """Web addresses; they stay while an app is stopped and deployed again."""
        self.images: dict[str, pb.Image] = {}
        self.image_ids: dict[str, str] = {}
        self.mounts: dict[str, list[pb.MountFile]] = {}
        self.files: dict[str, bytes] = {}
        self.blobs: dict[str, bytes] = {}
        self.volumes: dict[str, Volume] = {}
        self.secrets: dict[str, Secret] = {}
        self.faults = Faults()
        self.chance = random.Random(0)  # noqa: S311 - to be repeated, not to be secret
        self.calls: Counter[str] = Counter()
        self.container_calls: Counter[str] = Counter()
        self.requests: list[tuple[str, dict[str, Any]]] = []
        self.redirects = 0
        """Web requests that took too long for an answer."""
        self.logs: list[LogLine] = []
        self.logged = asyncio.Condition()
        self.cut = asyncio.Event()
        self._numbers: Counter[str] = Counter()
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._tasks: set[asyncio.Task[Any]] = set()

    def new(self, prefix: str) -> str:
        """An id that was not given before."""
        self._numbers[prefix] += 1
        return f"{prefix}-{self._numbers[prefix]:022d}"

    def lock(self, name: str) -> asyncio.Lock:
        return self._locks[name]

    def spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        """Let work run beside all others; a task that nobody holds may vanish."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def note(self, name: str, request: Any, *, container: bool) -> None:
        """Count a request, and keep what a deployment asked for."""
        (self.container_calls if container else self.calls)[name] += 1
        if not container and name not in POLLED:
            content = MessageToDict(request, preserving_proto_field_name=True)
            self.requests.append((name, content))

    async def log(
        self,
        function_id: str,
        task_id: str,
        text: str,
        descriptor: "pb.FileDescriptor.ValueType" = pb.FILE_DESCRIPTOR_INFO,
        call_id: str = "",
    ) -> None:
        """Write into the log of the app of a function."""
        app_id = self.handles[function_id].app_id
        late = self.faults.log_seconds * (1 + self.chance.random()) / 2
        line = LogLine(
            number=len(self.logs),
            app_id=app_id,
            function_id=function_id,
            task_id=task_id,
            call_id=call_id,
            at=self.clock(),
            seen_at=time.time() + late,
            text=text,
            descriptor=descriptor,
        )
        async with self.logged:
            self.logs.append(line)
            self.logged.notify_all()

    def arrived(self) -> list[LogLine]:
        """Lines that readers can see by now."""
        now = time.time()
        return [line for line in self.logs if line.seen_at <= now]

    def clock(self) -> float:
        """The time, as the platform has it: on every stamp that it gives."""
        return time.time() + self.faults.clock_ahead

    def definition_id(self, function_id: str) -> str:
        """What a function is in the version that serves."""
        serving = self.app_of(function_id).serving
        return "" if serving is None else serving.definition_ids.get(function_id, "")

    def definition(self, function_id: str) -> pb.Function:
        """The same as what containers are started from."""
        found = self.definitions.get(self.definition_id(function_id))
        return self.functions[function_id] if found is None else found

    def app_of(self, function_id: str) -> App:
        return self.apps[self.handles[function_id].app_id]

    def deployed(self, name: str, environment: str) -> App | None:
        """The deployed app of a name."""
        for app in self.apps.values():
            place = (app.name, app.environment)
            if app.deployed and place == (name, environment or "main"):
                return app
        return None

    def behind(self, address: Address) -> str | None:
        """The function that an address leads to now."""
        app = self.deployed(address.app, address.environment)
        return None if app is None else app.function_ids.get(address.function)

    def secret(self, name: str) -> str | None:
        """The id of a named secret."""
        found = (i for i, s in self.secrets.items() if name and s.name == name)
        return next(found, None)

    def volume(self, name: str) -> str | None:
        """The id of a named Volume."""
        found = (i for i, v in self.volumes.items() if v.metadata.name == name)
        return next(found, None)

    def layout(self, app: App) -> pb.AppLayout:
        """Everything an app is made of, as its containers need it."""
        made = pb.AppLayout(function_ids=app.function_ids, class_ids=app.class_ids)
        for name in app.function_ids.values():
            handle = self.handles[name]
            made.objects.add(object_id=name, function_handle_metadata=handle)
        for name in app.class_ids.values():
            handle_of_class = pb.ClassHandleMetadata()
            made.objects.add(object_id=name, class_handle_metadata=handle_of_class)
        known = {item.object_id for item in made.objects}
        for name in app.function_ids.values():
            for needed in self.definition(name).object_dependencies:
                if needed.object_id in known:
                    continue
                known.add(needed.object_id)
                item = made.objects.add(object_id=needed.object_id)
                if volume := self.volumes.get(needed.object_id):
                    item.volume_metadata.CopyFrom(volume.metadata)
        return made

    def image_lines(self, image_id: str) -> list[str]:
        """The lines of an image and of all it is based on, the base first."""
        image = self.images.get(image_id)
        if image is None:
            return []
        base = [
            line for b in image.base_images for line in self.image_lines(b.image_id)
        ]
        return [*base, *image.dockerfile_commands]


def digest(*messages: Any) -> str:
    """The same for equal messages; a set that is sent as a list comes in any order."""
    parts = [message.SerializeToString(deterministic=True) for message in messages]
    return hashlib.sha256(b"".join(parts)).hexdigest()


async def first_of(*events: asyncio.Event, within: float | None = None) -> None:
    """Wait for one of several events; returns as well when the time is over."""
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, timeout=within, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
            with suppress(asyncio.CancelledError):
                await wait
