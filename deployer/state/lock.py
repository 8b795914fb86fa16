"""One apply of a stack at a time.

The lock is a file that says who holds it and that its holder keeps locked in the
kernel.  It appears whole and locked, by a hard link, which is atomic on network
file systems too.  Where the holder named this host, and the kernel has no lock any
more, the holder is gone: the next one takes over.  About other hosts the kernel may
know nothing: there a person has to say so, with the ID (`unlock`).

How often to look follows from how long this holder was seen to hold it: the end of an
apply of seconds is noticed within a second, that of one of minutes within a tenth of
it, and five seconds at most.
"""

import os
import pwd
import shlex
import stat
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from deployer.artefacts.json_files import (
    FormError,
    NewerError,
    decoded,
    parse,
    text_of,
    versioned,
)
from deployer.errors import LockedError, StateError
from deployer.stack.fields.values import show_seconds
from deployer.system.files import Grip, grip, guarded, sync_folder

_VERSION = 1


@dataclass(frozen=True, slots=True)
class Holder:
    """Who works on a stack."""

    id: str
    """Random; what `unlock` asks for."""
    host: str
    pid: int
    user: str
    operation: str
    since: str
    """UTC, ISO 8601, whole seconds."""

    def __str__(self) -> str:
        since = self.since.replace("T", " ").replace("+00:00", " UTC")
        who = f"{self.user}@{self.host} (pid {self.pid})"
        return f"{who} since {since} for {self.operation}"


def this_process(operation: str, *, now: Callable[[], datetime]) -> Holder:
    """The running process as a holder, with an ID of its own."""
    return Holder(
        id=os.urandom(4).hex(),
        host=this_host(),
        pid=os.getpid(),
        user=_user(),
        operation=operation,
        since=now().astimezone(UTC).isoformat(timespec="seconds"),
    )


def holder_to_json(holder: Holder) -> str:
    """The one text of a holder."""
    return text_of(_VERSION, holder)


def holder_from_json(content: bytes) -> Holder:
    """The holder that a text names; raises FormError or NewerError."""
    return decoded(Holder, versioned(parse(content), _VERSION))


def this_host() -> str:
    """The name of this machine."""
    return os.uname().nodename


def _user() -> str:
    """The name of the user; the number where a container knows no name."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


@contextmanager
def locked(
    path: Path, holder: Holder, *, notify: Callable[[str], None]
) -> Iterator[None]:
    """Hold the lock ``path`` while the block runs.

    Raises LockedError where somebody else does, StateError where the file system
    lets nobody.  ``notify`` is told whom the lock was taken over from.
    """
    with _told(path), guarded(path.parent):
        gone = _refuse_held(path, here=holder.host)
        descriptor = _take(path, holder, gone)
    try:
        if gone is not None:
            notify(f"took over the lock of {gone}: that process is gone")
        yield
    finally:
        _let_go(path, descriptor)


def holder_of(path: Path) -> Holder | None:
    """Who holds the lock; None where it is free.

    Raises LockedError where that cannot be known, StateError where it cannot be read.
    """
    if not path.parent.is_dir():
        return None
    with _told(path), guarded(path.parent):
        found = _look(path)
    if found is None or found.is_gone(here=this_host()):
        return None
    return found.holder


def unlock(path: Path, holder_id: str) -> Holder:
    """Break the lock of the holder with this ID, and return who that was.

    It is broken even while its holder runs: that one's next write of the state is
    refused if somebody wrote in between.  Raises LockedError where the ID is another
    one's, StateError where nothing is locked.
    """
    with _told(path):
        if not path.parent.is_dir():
            raise _not_locked(path)
        with guarded(path.parent):
            found = _look(path)
            if found is None:
                raise _not_locked(path)
            if found.holder.id != holder_id:
                raise LockedError(
                    f"the lock `{path.stem}` has not the ID `{holder_id}`: "
                    f"it is held by {found.holder}",
                    hint=f"its ID is `{found.holder.id}`",
                )
            path.unlink()
    return found.holder


@dataclass(frozen=True, slots=True)
class _Found:
    """A lock file, and whether the kernel knows a holder."""

    holder: Holder
    grip: Grip

    def is_gone(self, *, here: str) -> bool:
        """Its process ran on this host, and runs no more."""
        return self.grip is Grip.MINE and self.holder.host == here


def _refuse_held(path: Path, *, here: str) -> Holder | None:
    """Raise LockedError where the lock is held; return who held it and is gone."""
    found = _look(path)
    if found is None:
        return None
    if found.is_gone(here=here):
        return found.holder
    if found.grip is Grip.TAKEN and found.holder.host == here:
        hint = "wait for it, or stop it: the lock goes with its process"
    else:
        hint = f"if it runs no more: `deployer state unlock STACK {found.holder.id}`"
    raise LockedError(f"`{path.stem}` is locked by {found.holder}", hint=hint)


def _look(path: Path) -> _Found | None:
    """The lock file as it stands; the kernel's lock is only probed, not kept."""
    try:
        # Writable: network file systems lock nothing that is open for reading.
        descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise LockedError(
            f"`{path}` is not a regular file",
            hint=f"if nothing works on the stack: `rm {shlex.quote(str(path))}`",
        )
    with open(descriptor, "rb") as stream:  # noqa: PTH123 -- it owns a descriptor
        kernel = grip(descriptor)
        content = stream.read()
    try:
        return _Found(holder_from_json(content), kernel)
    except (FormError, NewerError) as error:
        raise LockedError(
            f"`{path}` does not say who holds the lock: {error}",
            hint=f"if nothing works on the stack: `rm {shlex.quote(str(path))}`",
        ) from error


def _take(path: Path, holder: Holder, gone: Holder | None) -> int:
    """Put the lock file in place; returns the descriptor that keeps it locked."""
    new = path.with_name(f".{path.name}.{holder.id}")
    descriptor = os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.write(descriptor, holder_to_json(holder).encode())
        os.fsync(descriptor)
        grip(descriptor)
        if gone is not None:
            path.unlink()
        path.hardlink_to(new)  # refuses where another host was faster
        sync_folder(path.parent)
    except BaseException:
        os.close(descriptor)
        raise
    finally:
        new.unlink(missing_ok=True)
    return descriptor


def _let_go(path: Path, descriptor: int) -> None:
    """Remove the lock file if it is still this holder's, and free it in the kernel.

    What cannot be removed names a holder that is gone, which is as good as free.
    """
    try:
        with suppress(OSError), guarded(path.parent):
            if os.path.samestat(path.stat(), os.fstat(descriptor)):
                path.unlink()
    finally:
        os.close(descriptor)


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Turn an error of the file system into one for people."""
    try:
        yield
    except FileExistsError as error:
        raise LockedError(
            f"`{path.stem}` was just locked from another host",
            hint="run it again to see by whom",
        ) from error
    except OSError as error:
        raise StateError(
            f"cannot lock `{path}`: {error.strerror}",
            hint="the folder of the state must be writable, on a file system that "
            "knows hard links",
        ) from error


def _not_locked(path: Path) -> StateError:
    return StateError(f"`{path.stem}` is not locked")


SHORTEST, LONGEST = 0.5, 5.0
"""Seconds between two looks."""
SHARE = 0.1
"""The share of the time that a holder was seen by which a look may be late."""

Tell = Callable[[str, float], None]
"""Told who holds the lock, and for how many seconds it was waited for by now.

Called at every look; what it raises ends the waiting.
"""


def pause_after(seen: float, chance: float) -> float:
    """Seconds to the next look at a lock whose holder was seen that long.

    ``chance`` spreads the looks of those who wait, so that they do not come at once.
    """
    return min(max(seen * SHARE, SHORTEST), LONGEST) * (0.5 + chance)


class Lockable(Protocol):
    """A store with a lock."""

    def lock(self, *, operation: str) -> AbstractContextManager[None]:
        """Keep everybody else from applying until the block ends."""
        ...


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a run waits for a lock, and what tells it the time."""

    seconds: float
    """0: not at all."""
    clock: Callable[[], float]
    """Monotonic seconds."""
    sleep: Callable[[float], None]
    chance: Callable[[], float]
    """A number between 0 and 1, another one each time."""
    pause: Callable[[float, float], float] = pause_after


@contextmanager
def lock_in_time(
    store: Lockable, patience: Patience, *, operation: str, tell: Tell
) -> Iterator[None]:
    """Hold the lock of a stack; LockedError where others do for all that time."""
    with ExitStack() as held:
        _wait(store, patience, operation, tell, held)
        yield


def _wait(
    store: Lockable, patience: Patience, operation: str, tell: Tell, held: ExitStack
) -> None:
    begun = since = patience.clock()
    holder = ""
    while True:
        try:
            return held.enter_context(store.lock(operation=operation))
        except LockedError as error:
            now = patience.clock()
            left = begun + patience.seconds - now
            if left <= 0:
                raise _refusal(error, patience) from error
            if error.message != holder:
                holder, since = error.message, now
            tell(holder, now - begun)
            pause = patience.pause(now - since, patience.chance())
            patience.sleep(min(pause, left))


def _refusal(error: LockedError, patience: Patience) -> LockedError:
    """The error as it is where nobody waited, else with how long it was."""
    if not patience.seconds:
        return error
    waited = show_seconds(patience.seconds)
    return LockedError(f"{error.message}, still after {waited}", error.hint)
