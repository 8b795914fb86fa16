"""Reading regular files: a FIFO, a socket or a device is refused, and never waited for.

A checkout can hold any of them where a file is expected, and opening a FIFO waits
until somebody writes.
"""

import errno
import os
import stat
from io import BufferedReader
from pathlib import Path

LARGEST = 64 << 20
"""Bytes of any file that is read as a whole: states, lock files, templates."""


class NotRegularError(OSError):
    """There is something else where a file was expected."""


def open_regular(path: Path) -> BufferedReader:
    """Open a regular file for reading; raises OSError for anything else."""
    _refuse(path, os.stat(path).st_mode)  # noqa: PTH116 -- opening a device can act
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        _refuse(path, os.fstat(descriptor).st_mode)
        return open(descriptor, "rb")  # noqa: PTH123 -- it owns a descriptor
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
