"""Small files that are whole at any instant, changed by one process at a time."""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path

_CANNOT_LOCK = (
    errno.EBADF,
    errno.EINVAL,
    errno.ENOLCK,
    errno.ENOSYS,
    errno.ENOTSUP,
    errno.EOPNOTSUPP,
)
"""What network file systems answer that know no locks, or none on folders."""


class Grip(Enum):
    """What asking the kernel for a lock came to."""

    MINE = "mine"
    TAKEN = "taken"
    UNKNOWN = "unknown"
    """The file system knows no locks."""


def grip(descriptor: int) -> Grip:
    """Lock an open file unless somebody has; the lock ends with the last closing."""
    return _flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


@contextmanager
def guarded(folder: Path) -> Iterator[None]:
    """Keep other threads and processes of this machine out of the same block.

    For moments only: whoever comes second waits in silence.  Raises OSError where
    the folder cannot be opened.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def replace_file(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Replace a file at once and durably; raises OSError, and nothing changed.

    One at a time in a folder: call it inside `guarded`.  What a killed process
    leaves behind is used up by the next call.
    """
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)
    try:
        write_new(new, content, mode)
        new.replace(path)
    except OSError:
        new.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_new(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Write a file that is not there yet, down to the disk; raises OSError."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with open(descriptor, "wb") as stream:  # noqa: PTH123 -- it owns a descriptor
        os.fchmod(descriptor, mode)  # whatever the umask
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder down to the disk; raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some file systems cannot sync a folder
            raise
    finally:
        os.close(descriptor)


def _flock(descriptor: int, operation: int) -> Grip:
    try:
        fcntl.flock(descriptor, operation)
    except BlockingIOError:
        return Grip.TAKEN
    except OSError as error:
        if error.errno not in _CANNOT_LOCK:
            raise
        return Grip.UNKNOWN
    return Grip.MINE
