"""Room on the disk: asked for before writing, and named when it runs out."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deployer.errors import StoreError
from deployer.stack.fields.units import show_bytes

_SMALL_BOMB = 1 << 30
_MOST_TIMES = 100
"""Source trees and weights shrink to a tenth at the very best."""
_FULL = (errno.ENOSPC, errno.EDQUOT)
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)


def ensure_room(folder: Path, needed: int, *, purpose: str) -> None:
    """Raise StoreError where the disk of ``folder`` has not ``needed`` bytes free."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise _full(folder, needed=needed, free=free, purpose=purpose)


def most_bytes(archive: Path) -> int:
    """Return how much an archive may unpack to: no honest one has more."""
    return max(_SMALL_BOMB, _MOST_TIMES * archive.stat().st_size)


@contextmanager
def writing(folder: Path, *, purpose: str, needed: int | None = None) -> Iterator[None]:
    """Turn a full or forbidden disk into a StoreError; other errors pass."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            free = shutil.disk_usage(folder).free
            raise _full(folder, needed=needed, free=free, purpose=purpose) from error
        if error.errno in _FORBIDDEN:
            raise StoreError(
                f"cannot write {purpose} in `{folder}`: {error.strerror}",
                hint="make it writable, or set `DEPLOYER_HOME` to a folder of yours",
            ) from error
        raise


def sync_folder(folder: Path) -> None:
    """Make renames inside ``folder`` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _full(folder: Path, *, needed: int | None, free: int, purpose: str) -> StoreError:
    wanted = f"needs {show_bytes(needed)}, and " if needed is not None else ""
    return StoreError(
        f"no room for {purpose} in `{folder}`: {wanted}{show_bytes(free)} is free",
        hint="free space with `deployer store gc`, or set `DEPLOYER_HOME` to a "
        "folder on a larger disk",
    )
