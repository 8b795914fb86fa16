"""One container: the client's entrypoint in a root, a network and mounts of its own.

The root is an overlay over this machine's, so a container writes where it likes and
two of one app do not see each other.  That takes root.
"""

import asyncio
import os
import shlex
import signal
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import grpclib.server
import psutil
from modal_proto import api_pb2 as pb

from tests.modal.emulator.cloud import Cloud
from tests.modal.emulator.mounts import View

RESTORE_FAILED = 222
"""Exit code with which the entrypoint says that a restore did not work."""
SEGFAULT = 139

CREATING = "Creating GPU memory snapshot for Function.\n"
CREATED = "Snapshot created. Restoring Function from memory snapshot.\n"
RESTORING = "Restoring Function from memory snapshot.\n"
CRASHED = "Runner segmentation fault (SIGSEGV), exit code: 139.\n"

_BOOT = Path(__file__).with_name("boot.py")
_BOUND = ("/proc", "/dev", "/sys")
_SNAPSHOT = "enable_gpu_snapshot"


Worker = tuple[str, int]
"""A type of machine: its GPU, and a number for all else."""


@dataclass(slots=True, eq=False)
class Container:
    """A process group that runs one function."""

    task_id: str
    function_id: str
    folder: Path
    definition: pb.Function
    captures: bool
    """It was started to make a snapshot of itself."""
    definition_id: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    """Of the version that it is of."""
    worker: Worker = ("", 0)
    given: Mapping[str, str] = field(default_factory=dict)
    """The environment that it was started with, or captured."""
    outdated: bool = False
    """A newer version is deployed: it works until one of that is there."""
    fails_restore: bool = False
    views: dict[str, View] = field(default_factory=dict)
    """Of its Volumes, by their ids."""
    process: asyncio.subprocess.Process | None = None
    server: grpclib.server.Server | None = None
    active: int = 0
    call_id: str = ""
    """The last call it took."""
    idle_since: float = field(default_factory=time.time)
    started: float = field(default_factory=time.time)
    result: pb.GenericResult | None = None
    parked: asyncio.Event = field(default_factory=asyncio.Event)
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    draining: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def runs(self) -> bool:
        return not self.ended.is_set()

    @property
    def code(self) -> int | None:
        return None if self.process is None else self.process.returncode

    @property
    def way_in(self) -> Path:
        """The socket that leads to the port of a server."""
        return self.folder / "port.sock"

    @property
    def restore_file(self) -> Path:
        return self.folder / "restore.json"

    @property
    def clock_file(self) -> Path:
        """The seconds that its clocks jumped ahead, once they did."""
        return self.folder / "clock"

    @property
    def spec_environ(self) -> Path:
        """What the runtime shows as the environment that was asked for."""
        return self.folder / "spec_environ"

    def show_environment(self, found: Mapping[str, str]) -> None:
        """Say what the environment has to be.

        A restored container has the secrets of today: client 1.6.4 compares
        `/proc/gvisor/spec_environ` with what it was at the capture.
        """
        text = "\0".join(f"{name}={value}" for name, value in found.items())
        self.spec_environ.write_text(text, encoding="utf-8")

    def processes(self) -> list[psutil.Process]:
        """Its entrypoint, and all that it started."""
        if self.process is None:
            return []
        with suppress(psutil.NoSuchProcess):
            mine = psutil.Process(self.process.pid)
            return [mine, *mine.children(recursive=True)]
        return []

    def lose_children(self) -> None:
        """What it started is not there after the restore."""
        for child in self.processes()[1:]:
            child.kill()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the whole group."""
        if self.process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, number)


async def launch(cloud: Cloud, container: Container) -> None:
    """Start the process; its requests come over a socket that is up already."""
    function, folder = container.definition, container.folder
    await asyncio.to_thread(_views, cloud, container)
    (folder / "arguments").write_bytes(_arguments(cloud, container))
    state = "error" if container.fails_restore else "restore"
    (folder / "checkpoint").write_text(state, encoding="utf-8")
    container.show_environment(container.given)
    alone = _has_a_network_of_its_own(function)
    namespaces = ["-m", *(["-n"] if alone else [])]
    container.process = await asyncio.create_subprocess_exec(
        "unshare",
        *namespaces,
        "--propagation",
        "private",
        "sh",
        "-c",
        _script(cloud, container),
        env=_environment(cloud, container, alone=alone),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    cloud.spawn(_watch(cloud, container))


def _has_a_network_of_its_own(function: pb.Function) -> bool:
    """Two versions of a server listen on one port; what writes a Volume fetches."""
    mounts = function.volume_mounts
    return (
        function.is_class
        or function.is_server
        or (bool(mounts) and all(mount.read_only for mount in mounts))
    )


def _arguments(cloud: Cloud, container: Container) -> bytes:
    app = cloud.app_of(container.function_id)
    arguments = pb.ContainerArguments(
        task_id=container.task_id,
        function_id=container.function_id,
        app_id=app.id,
        function_def=container.definition,
        environment_name=app.environment,
        app_layout=cloud.layout(app),
        checkpoint_id=f"ch-{container.task_id}",
    )
    return bytes(arguments.SerializeToString())


def prepared(function: pb.Function, machine: pb.Resources) -> pb.Function:
    """The definition as a worker gets it."""
    made = pb.Function()
    made.CopyFrom(function)
    made.resources.CopyFrom(machine)
    made.is_checkpointing_function = made.checkpointing_enabled
    wanted = made.experimental_options.get(_SNAPSHOT, "").lower()
    made._experimental_enable_gpu_snapshot = wanted in ("true", "1")
    return made


def start_limit(container: Container) -> int:
    """Seconds that a start may take, 0 for any.

    "`startup_timeout` configures the container's startup time" (guide/timeouts);
    client 1.6.4 sends `timeout` for it where a function states none.
    """
    return container.definition.startup_timeout_secs


async def say_too_slow(cloud: Cloud, container: Container) -> None:
    """Log that a start took too long, in words of ours: no such log was seen."""
    text = f"Container did not start within {start_limit(container)} seconds\n"
    await cloud.log(container.function_id, container.task_id, text)


def environment_of(cloud: Cloud, function: pb.Function) -> dict[str, str]:
    """What image and secrets put into the environment, as they are now."""
    found: dict[str, str] = {}
    for line in cloud.image_lines(function.image_id):
        if line.startswith("ENV "):
            pairs = (word.partition("=") for word in shlex.split(line[4:]))
            found |= {name: value for name, _, value in pairs}
    for secret in function.secret_ids:
        found |= cloud.secrets[secret].values
    return found


def _environment(cloud: Cloud, container: Container, *, alone: bool) -> dict[str, str]:
    function, folder = container.definition, container.folder
    app = cloud.app_of(container.function_id)
    found = {
        "PATH": os.environ["PATH"],
        "HOME": "/root",
        "LANG": "C.UTF-8",
        "PYTHONPATH": "/root",
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "MODAL_SERVER_URL": f"unix://{folder / 'rpc.sock'}",
        "MODAL_TASK_ID": container.task_id,
        "MODAL_IS_REMOTE": "1",
        "MODAL_CONTAINER_ARGUMENTS_PATH": str(folder / "arguments"),
        "MODAL_RESTORE_STATE_PATH": str(container.restore_file),
        "MODAL_CONFIG_PATH": "/nonexistent",
        "MODAL_ENVIRONMENT": app.environment,
        "MODAL_IMAGE_ID": function.image_id,
        "MODAL_REGION": "local",
        "MODAL_CLOUD_PROVIDER": "CLOUD_PROVIDER_UNSPECIFIED",
        "EMULATED_CHECKPOINT": str(folder / "checkpoint"),
        "EMULATED_ENVIRON": str(container.spec_environ),
        "EMULATED_CLOCK": str(container.clock_file),
        "EMULATED_PORT": f"{container.way_in}:{function.http_config.port}"
        if function.is_server
        else "",
        "EMULATED_NETWORK": "own" if alone else "",
    }
    found |= container.given
    if container.captures:
        found["MODAL_ENABLE_SNAP_RESTORE"] = "1"
    return found


def _script(cloud: Cloud, container: Container) -> str:
    """Shell that lays out the root, and starts Python in it."""
    layer = container.folder / "layer"
    root = layer / "root"
    quoted = shlex.quote
    lines = ["set -e", f"mkdir {quoted(str(layer))}"]
    lines += [f"mount -t tmpfs tmpfs {quoted(str(layer))}", f"cd {quoted(str(layer))}"]
    lines += ["mkdir upper work root"]
    lines += ["mount -t overlay overlay -o lowerdir=/,upperdir=upper,workdir=work root"]
    for place in (*_BOUND, *_other_disks(), str(cloud.folder)):
        lines += [f"mkdir -p root{quoted(place)}"]
        lines += [f"mount --rbind {quoted(place)} root{quoted(place)}"]
    lines += [*_files(cloud, container, root), *_volumes(cloud, container)]
    boot = f"{quoted(sys.executable)} -P {quoted(str(_BOOT))}"
    lines += [f'exec chroot root sh -c \'cd /root && exec "$0" "$@"\' {boot}']
    return "\n".join(lines)


def _other_disks() -> list[str]:
    """Folders that Python needs and that the overlay over `/` does not show."""
    needed = {sys.prefix, sys.base_prefix, str(_BOOT.parent), *sys.path}
    disk = Path("/").stat().st_dev
    found = [p for p in sorted(needed) if p and Path(p).is_dir()]
    return [place for place in found if Path(place).stat().st_dev != disk]


def _files(cloud: Cloud, container: Container, root: Path) -> list[str]:
    """The source of the app, and what its image adds."""
    lines = []
    for mount in container.definition.mount_ids:
        for file in cloud.mounts.get(mount, []):
            held = cloud.folder / "files" / file.sha256_hex
            held.parent.mkdir(exist_ok=True)
            if not held.exists():
                held.write_bytes(cloud.files[file.sha256_hex])
            target = shlex.quote(f"{root}{file.filename}")
            lines += [f"mkdir -p $(dirname {target})"]
            lines += [f"cp {shlex.quote(str(held))} {target}"]
            lines += [f"chmod {(file.mode or 0o644) & 0o777:o} {target}"]
    return lines


def _views(cloud: Cloud, container: Container) -> None:
    """Fill what the container sees of its Volumes."""
    hidden = cloud.app_of(container.function_id).name == cloud.faults.unmounted
    for mount in container.definition.volume_mounts:
        # "If the directory doesn't exist in the Volume, it will be created when the
        # container starts up" (`with_mount_options` of client 1.6.4).
        source = cloud.volumes[mount.volume_id].folder / mount.sub_path.strip("/")
        source.mkdir(parents=True, exist_ok=True)
        view = View(source, container.folder / "views" / mount.volume_id)
        container.views[mount.volume_id] = view
        if hidden:
            view.folder.mkdir(parents=True)
        else:
            view.fill()


def _volumes(cloud: Cloud, container: Container) -> list[str]:
    lines = []
    for mount in container.definition.volume_mounts:
        source = container.views[mount.volume_id].folder
        where = f"root{shlex.quote(mount.mount_path)}"
        lines += [f"mkdir -p {where}"]
        lines += [f"mount --bind {shlex.quote(str(source))} {where}"]
        if room := cloud.faults.volume_bytes:
            lines += [f"mount -t tmpfs -o size={room} tmpfs {where}"]
        if mount.read_only:
            lines += [f"mount -o remount,bind,ro {where}"]
    return lines


async def _watch(cloud: Cloud, container: Container) -> None:
    """Keep what a container says, and clean up after it.

    Its end is not the end of its output: children inherit the pipes.
    """
    process = container.process
    if process is None or process.stdout is None or process.stderr is None:
        return
    pumps = asyncio.gather(
        _pump(cloud, container, process.stdout, pb.FILE_DESCRIPTOR_STDOUT),
        _pump(cloud, container, process.stderr, pb.FILE_DESCRIPTOR_STDERR),
    )
    while process.returncode is None:  # noqa: ASYNC110 - a child has no event
        await asyncio.sleep(0.02)
    container.signal(signal.SIGKILL)
    await pumps
    container.ended.set()
    if container.server is not None:
        container.server.close()


async def _pump(
    cloud: Cloud,
    container: Container,
    stream: asyncio.StreamReader,
    descriptor: "pb.FileDescriptor.ValueType",
) -> None:
    with (cloud.folder / "containers.log").open("ab") as kept:
        while line := await stream.readline():
            kept.write(f"[{container.task_id[-4:]}] ".encode() + line)
            kept.flush()
            text = line.decode(errors="replace")
            await cloud.log(
                container.function_id,
                container.task_id,
                text,
                descriptor,
                container.call_id,
            )
