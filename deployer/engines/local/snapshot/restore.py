"""Bringing a server up: from its snapshot where there is one that can be trusted.

A restored server has to be healthy soon, and to repeat the answers it gave before it
was frozen.  Until it has, it is marked unproven, from before it exists: what a run that
died left with the mark is ended, and never taken for proven.

Whatever goes wrong on the way is reported and ends in a cold start.  The image is given
up only where it is at fault: its bytes are others than were written, or it answers
otherwise.  A process that takes long to end, a port, a limit or a CRIU that was killed
says nothing about an image, which other stacks may share.

An image brings the nice value and the limits of the shell in which it was taken.  What
a server that starts cold would inherit is what its keeper has: it was started just now.
"""

import json
import os
import resource
import shutil
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from deployer.artefacts.store import Entry
from deployer.engines.local.ports import established
from deployer.engines.local.server import Server
from deployer.engines.local.snapshot import image
from deployer.engines.local.snapshot.capture import Snapshots
from deployer.engines.local.snapshot.criu import (
    OWN_PIDS,
    RESTORE_LOG,
    capability,
    errors_in,
    restoring,
)
from deployer.engines.local.snapshot.proof import Door, Limits, OtherAnswerError, prove
from deployer.engines.local.supervise.find import boot_id
from deployer.engines.local.supervise.health import wait_healthy
from deployer.engines.local.supervise.process import Running, keepers_of, spawn, stop
from deployer.engines.local.supervise.survivors import note
from deployer.errors import DeployerError, EngineError, TimedOutError
from deployer.planning.events import Say, Talk
from deployer.stack.fields.values import Flat, show_seconds
from deployer.system.files import contained

_LIMITS: Final = {
    getattr(resource, name): name
    for name in sorted(dir(resource))
    if name.startswith("RLIMIT_")
}


def renew(pid: int) -> None:
    """Give a restored server the limits and the nice value of its keeper.

    Raises EngineError where the system does not allow that.
    """
    if not (keepers := keepers_of(pid)):
        raise EngineError("the process ended before it was restored")
    keeper = keepers[-1].pid
    try:
        for limit, name in _LIMITS.items():
            wanted = resource.prlimit(keeper, limit)
            if resource.prlimit(pid, limit) != wanted:
                what = f"its limit {name} to {wanted}"
                resource.prlimit(pid, limit, wanted)
        what = "its nice value"
        nice = os.getpriority(os.PRIO_PROCESS, keeper)
        # In Linux it belongs to a thread, and the pid names the first one only.
        for thread in Path(f"/proc/{pid}/task").iterdir():
            with suppress(ProcessLookupError):
                os.setpriority(os.PRIO_PROCESS, int(thread.name), nice)
    except (OSError, ValueError) as error:
        raise EngineError(f"the system refuses to set {what}: {error}") from error


_ORIGIN: Final = "origin.json"
_IMAGES: Final = "image"
_PATIENCE: Final = 20.0
"""Seconds that a restored server may take, plus what its size explains."""
_SLOWEST: Final = 50e6
"""Bytes a second that a disk reads at least."""
_SLOWER: Final = 20
"""Times that the answer may take what it took before."""


@dataclass(frozen=True, slots=True)
class Origin:
    """How a server came up."""

    restored: bool
    seconds: float
    """Until it was healthy, and proven where it was restored."""
    detail: str


def bring_up(
    server: Server, needs: Mapping[str, Flat], snapshots: Snapshots, say: Say
) -> Origin:
    """Restore or start a server unless it runs; see `Server.bring_up`."""
    running = server.running()
    if running is not None and not server.unproven.exists():
        server.bring_up(needs, say)
        return origin_of(server) or Origin(restored=False, seconds=0, detail="it ran")
    end_unproven(server, say)
    server.refuse_strangers()
    (server.run_dir / _ORIGIN).unlink(missing_ok=True)
    note(server.run_dir, server.record, needs)
    begun = time.monotonic()
    why = "the stack takes no snapshot"
    if (key := server.record.needs.get("snapshot")) is not None:
        why = _restored(server, key, snapshots, say)
    if why:
        if key is not None:
            say(Talk(server.record.address, f"starts cold: {why}"))
        begun = time.monotonic()
        server.unproven.unlink(missing_ok=True)
        server.bring_up(needs, say)
    took = time.monotonic() - begun
    detail = f"started cold: {why}" if why else "restored from its snapshot"
    if not why and key is not None and _is_older_than_the_machine(snapshots, key):
        detail += ", which was taken before this machine was started"
    origin = Origin(restored=not why, seconds=round(took, 3), detail=detail)
    (server.run_dir / _ORIGIN).write_text(json.dumps(asdict(origin)), "utf-8")
    server.unproven.unlink(missing_ok=True)
    if not why:
        say(Talk(server.record.address, f"{detail}; it took {show_seconds(took)}"))
    return origin


def end_unproven(server: Server, say: Say) -> None:
    """End a server that an earlier run restored and did not prove; none is fine.

    Raises AuthError before that where a key is not there to start another with.
    """
    server.secrets()
    running = server.running()
    if running is not None and server.unproven.exists():
        why = "an earlier run restored it and ended before it was proven"
        say(Talk(server.record.address, f"ends pid {running.pid}: {why}"))
        stop(running, grace=0)


def origin_of(server: Server) -> Origin | None:
    """How the server that runs came up, where that was noted."""
    with suppress(OSError, ValueError, TypeError):
        return Origin(**json.loads((server.run_dir / _ORIGIN).read_text("utf-8")))
    return None


def _is_older_than_the_machine(snapshots: Snapshots, key: str) -> bool:
    """Return whether an image outlived a reboot."""
    entry = snapshots.store.look("snapshot", key)
    return entry is not None and entry.about.get("boot") != boot_id()


def _restored(server: Server, key: str, snapshots: Snapshots, say: Say) -> str:
    """Why it was not restored; empty once it is there and proven."""
    found = capability(snapshots.place.environment, snapshots.place.home)
    if not found.works:
        return found.why
    if why := snapshots.flaw(key, server):
        return why
    entry = snapshots.store.look("snapshot", key)
    if entry is None:
        return "the image is gone"
    damage = snapshots.read_once(entry)
    if not damage:
        try:
            _bring_back(server, entry, found.program, snapshots, say)
        except OtherAnswerError as error:
            damage = error.message
        except (_NotRestoredError, image.ImageError) as error:
            why = str(error).splitlines()[0]
            if not (damage := snapshots.damage_of(entry)):
                return f"{why}; nothing is wrong with its image, which stays"
            damage = f"{why}; {damage}"
        else:
            return ""
    snapshots.condemn(key, f"it could not be restored: {damage}")
    return f"{damage}; the snapshot is taken again by the next `deployer apply`"


class _NotRestoredError(Exception):
    """A restore came to nothing, and it is not known why."""


def _bring_back(
    server: Server, entry: Entry, program: str, snapshots: Snapshots, say: Say
) -> None:
    """Restore and prove; no process is left by what it raises, but by EngineError.

    That is a process that does not end; else OtherAnswerError or _NotRestoredError.
    """
    door = server.clear_the_way()
    images, log = server.run_dir / _IMAGES, server.run_dir / RESTORE_LOG
    log.unlink(missing_ok=True)
    running: Running | None = None
    try:
        # The process stands in this folder.
        runs = snapshots.place.home / "run"
        folder = contained(runs, Path(str(entry.about["folder"])))
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _lay_out(entry, images, to=(server.host, server.port))
        output = str(entry.about["log"])
        command = restoring(program, images, server.run_dir, output)
        server.mark_unproven()
        running = spawn(
            ("unshare", *OWN_PIDS, *command),
            wrapped=True,
            run_dir=server.run_dir,
            address=server.record.address,
            key=server.record.key,
            port=server.port,
            environment={},
        )
        _prove(server, door, running, entry, say)
    except (DeployerError, KeyboardInterrupt) as error:
        if (left := running or server.running()) is not None:
            stop(left, grace=0)
        if isinstance(error, OtherAnswerError) or not isinstance(
            error, EngineError | TimedOutError
        ):
            raise
        raise _NotRestoredError(errors_in(log) or error.message) from error


def _lay_out(entry: Entry, images: Path, *, to: tuple[str, int]) -> None:
    """A folder of links to the image, with the listener where it is to be.

    It stays for the next restore: links cost nothing but the making.
    """
    port = int(str(entry.about["port"]))
    table = image.rebind(entry.path(image.FILES), port=port, to=to)
    file = images / image.FILES
    with suppress(OSError):
        pages = (images / image.PAGES).readlink()
        if pages == entry.path(image.PAGES) and file.read_bytes() == table:
            return
    shutil.rmtree(images, ignore_errors=True)
    images.mkdir(mode=0o700)
    for name in entry.files:
        if name != image.FILES:
            contained(images, images / name).symlink_to(entry.path(name))
    file.touch(mode=0o600)
    file.write_bytes(table)


def _prove(
    server: Server, door: Door, running: Running, entry: Entry, say: Say
) -> None:
    """Healthy soon, and with the same answers as before; raises EngineError."""
    limit = _PATIENCE + entry.size / _SLOWEST
    wait_healthy(
        running,
        server.url,
        limit=limit,
        source_address=door.source_address,
        say=lambda text: say(Talk(server.record.address, text)),
    )
    renew(running.pid)  # CRIU sets what the image holds until here
    prove(
        door,
        entry.about["proof"],
        Limits(limit, _SLOWER),
        disturbed=lambda: established(running.pid, running.port) > 0,
    )
