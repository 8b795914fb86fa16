"""Small files in folders that are closed to everybody but this user.

What is kept there is believed by a later run, so nobody else may have put it there:
the folder is no link and belongs to this user alone, and so does the file.
"""

import os
from stat import S_ISDIR, S_ISREG

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
