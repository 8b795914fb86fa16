"""Copies of files of this machine: shared with the original where the disk can do so.

A copy that shares its blocks (a reflink) costs no room and no reading, and what is
written to either file later does not show in the other.  A hard link would be the same
file: whoever edits the original in place, as linkers do, would edit an artefact that a
release runs from, and take its write permission away as well.  So there is none.
"""

import errno
import fcntl
import os
import shutil
from pathlib import Path

_CLONE = 0x40049409
"""FICLONE of linux/fs.h: btrfs, XFS, bcachefs, ZFS, and what is mounted from them."""
_PIECE = 1 << 30
_NOT_HERE = (
    *(errno.ENOTTY, errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOSYS),
    *(errno.EPERM, errno.EBADF, errno.ETXTBSY),
)


def copy(source: Path, target: Path) -> None:
    """Copy content and mode of a file; a symbolic link stays one.

    Reflinked, else copied inside the kernel, else by reading it.  Raises OSError.
    """
    if source.is_symlink():
        target.symlink_to(source.readlink())
        return
    with source.open("rb") as old, target.open("wb") as new:
        if not (
            _cloned(old.fileno(), new.fileno()) or _moved(old.fileno(), new.fileno())
        ):
            shutil.copyfileobj(old, new)
    shutil.copymode(source, target)


def _cloned(old: int, new: int) -> bool:
    try:
        fcntl.ioctl(new, _CLONE, old)
    except OSError as error:
        if error.errno in _NOT_HERE:
            return False
        raise
    return True


def _moved(old: int, new: int) -> bool:
    """Copied without passing through this process; false with nothing written."""
    if not hasattr(os, "copy_file_range"):
        return False
    try:
        while os.copy_file_range(old, new, _PIECE):
            pass
    except OSError as error:
        if error.errno not in _NOT_HERE or os.lseek(new, 0, os.SEEK_CUR):
            raise
        return False
    return os.fstat(new).st_size == os.fstat(old).st_size
