"""Reading regular files: a FIFO, a socket or a device is refused, and never waited for.

A checkout can hold any of them where a file is expected, and opening a FIFO waits
until somebody writes.

What is kept there is believed by a later run, so nobody else may have put it there:
the folder is no link and belongs to this user alone, and so does the file.

Runs begin with `keep_private`, so that every folder and file of theirs, of the
libraries they use and of the processes they start is private (0700, 0600), whatever the
umask of the shell.  What the user asked for by name, such as a lock file, gets the mode
that his own umask says.
"""

import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from io import BufferedReader
from pathlib import Path
from stat import S_ISDIR, S_ISREG

from deployer.errors import StoreError

LARGEST = 64 << 20
"""Bytes of any file that is read as a whole: states, lock files, templates."""


class NotRegularError(OSError):
    """There is something else where a file was expected."""


def open_regular(path: Path) -> BufferedReader:
    """Open a regular file for reading; raises OSError for anything else."""
    _refuse(path, os.stat(path).st_mode)
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        _refuse(path, os.fstat(descriptor).st_mode)
        return open(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_regular(path: Path, most: int | None = None) -> bytes:
    """The bytes of a regular file, the first ``most`` where given; raises OSError.

    Without ``most`` a file of more than `LARGEST` bytes is refused, too.
    """
    with open_regular(path) as stream:
        if most is not None:
            return stream.read(most)
        content = stream.read(LARGEST + 1)
    if len(content) > LARGEST:
        what = f"larger than {LARGEST >> 20} MiB"
        raise NotRegularError(errno.EINVAL, what, str(path))
    return content


def _refuse(path: Path, mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):
        raise NotRegularError(errno.EINVAL, "not a regular file", str(path))


def contained(folder: Path, path: Path) -> Path:
    """Return a path that lies below a folder once every link is followed.

    Raises StoreError for any other, the folder itself among them: a part of it came
    from a file, and no file may choose what deployer writes or removes.
    """
    try:
        root, real = folder.resolve(), path.resolve()
    except (OSError, RuntimeError, ValueError) as error:  # a loop of links, a NUL
        raise StoreError(f"`{path}` is not a path below `{folder}`") from error
    if real == root or not real.is_relative_to(root):
        raise StoreError(
            f"`{path}` does not lie in `{folder}`: nothing was written or removed",
            hint="a name in a lock file, a state or a manifest, or a link, leads out"
            " of the folder: look at what changed there",
        )
    return path


_MOST = 2000
"""Files in a folder; the oldest make room."""


def read(folder: str, name: str) -> bytes:
    """The content of a file; raises OSError, also where others could have written."""
    opened = _open(folder)
    try:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
        descriptor = os.open(name, flags, dir_fd=opened)
        with open(descriptor, "rb") as stream:
            status = os.fstat(descriptor)
            if not S_ISREG(status.st_mode) or not _is_mine(status, others=0o022):
                raise PermissionError(name)
            return stream.read()
    finally:
        os.close(opened)


def write(folder: str, name: str, content: bytes) -> None:
    """Put a file there, whole or not at all; raises OSError."""
    os.makedirs(folder, mode=0o700, exist_ok=True)
    opened = _open(folder)
    new = f".{name}.{os.getpid()}.new"
    try:
        _make_room(opened)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        with open(os.open(new, flags, 0o600, dir_fd=opened), "wb") as stream:
            stream.write(content)
        os.replace(new, name, src_dir_fd=opened, dst_dir_fd=opened)
    except FileExistsError:  # of a process of this number that died
        os.unlink(new, dir_fd=opened)
    finally:
        os.close(opened)


def _open(folder: str) -> int:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    status = os.fstat(descriptor)
    if S_ISDIR(status.st_mode) and _is_mine(status, others=0o077):
        return descriptor
    os.close(descriptor)
    raise PermissionError(folder)


def _is_mine(status: os.stat_result, *, others: int) -> bool:
    return status.st_uid == os.geteuid() and not status.st_mode & others


def _make_room(folder: int) -> None:
    names = os.listdir(folder)
    if len(names) < _MOST:
        return
    oldest = sorted(names, key=lambda name: os.stat(name, dir_fd=folder).st_mtime_ns)
    for name in oldest[: _MOST // 10]:
        os.unlink(name, dir_fd=folder)


_CANNOT_LOCK = (
    errno.EBADF,
    errno.EINVAL,
    errno.ENOLCK,
    errno.ENOSYS,
    errno.ENOTSUP,
    errno.EOPNOTSUPP,
)
"""Answers of network file systems that know no locks, or none on folders."""


class Grip(Enum):
    """The kernel's answer to a request for a lock."""

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
    with open(descriptor, "wb") as stream:
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


PRIVATE = 0o077
"""The umask of every run."""
_USERS: list[int] = []
"""The umask that this process was started with, once it was replaced."""


def keep_private() -> None:
    """Keep others from all that this process makes from here on."""
    before = os.umask(PRIVATE)
    if not _USERS:
        _USERS.append(before)


def users_mode() -> int:
    """The mode of a file that the user asked for; he can always read and write it."""
    return 0o600 | (0o666 & ~_users_umask())


@contextmanager
def as_the_user() -> Iterator[None]:
    """Make files and folders that the user asked for, as his umask says."""
    before = os.umask(_users_umask() & ~0o700)
    try:
        yield
    finally:
        os.umask(before)


def _users_umask() -> int:
    if _USERS:
        return _USERS[0]
    now = os.umask(PRIVATE)
    os.umask(now)
    return now
