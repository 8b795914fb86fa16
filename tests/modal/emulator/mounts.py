"""Volumes as containers see them: each has its own view, until it commits or reloads.

"you need to explicitly reload the volume to see changes made since it was mounted.
Similarly, you need to explicitly commit any changes you make to the volume for the
changes to become visible outside the current container"; "Last write wins in case of
concurrent modification of the same file"; "attempting to reload with open files will
result in an error" (reference of `modal.Volume`).
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

Stamp = tuple[int, int, bool]
_DEVICE_FIELD = 4
"""Of a line of /proc/PID/maps: the inode of the file."""


class OpenFilesError(Exception):
    """A reload while files of the Volume are open."""


class FullError(Exception):
    """More files than a Volume takes."""


@dataclass(slots=True)
class View:
    """One Volume in one container."""

    source: Path
    """What was committed."""
    folder: Path
    """What the container sees."""
    base: dict[str, Stamp] = field(default_factory=dict)
    """How the view was when it was filled."""

    def fill(self) -> None:
        """Show what is committed now."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for name in [*_stamps(self.folder)]:
            if not (self.source / name).exists():
                _remove(self.folder / name)
        for name, stamp in _stamps(self.source).items():
            if self.base.get(name) != stamp:
                _copy(self.source / name, self.folder / name)
        self.base = _stamps(self.folder)

    def commit(self, most: int) -> None:
        """Publish what changed since; what others wrote meanwhile stays."""
        now = _stamps(self.folder)
        added = sum(name not in self.base for name in now)
        if added and len(_stamps(self.source)) + added > most:
            raise FullError
        for name, stamp in now.items():
            if self.base.get(name) != stamp:
                _copy(self.folder / name, self.source / name)
        for name in self.base:
            if name not in now:
                _remove(self.source / name)
        self.base = now

    def reload(self, processes: list[psutil.Process], most: int) -> None:
        """See what others committed; uncommitted changes are committed before."""
        mine = {path.stat().st_ino for path in self.folder.rglob("*")}
        for process in processes:
            if mine.intersection(_open_inodes(process.pid)):
                raise OpenFilesError
        self.commit(most)
        self.fill()


def _stamps(folder: Path) -> dict[str, Stamp]:
    """Every path below a folder, parents first, with what tells that it changed."""
    found = {}
    for path in sorted(folder.rglob("*")):
        with suppress(FileNotFoundError):
            status = path.lstat()
            is_folder = path.is_dir() and not path.is_symlink()
            stamp = (0, 0) if is_folder else (status.st_mtime_ns, status.st_size)
            found[str(path.relative_to(folder))] = (*stamp, is_folder)
    return found


def _copy(source: Path, target: Path) -> None:
    if source.is_dir() and not source.is_symlink():
        target.mkdir(parents=True, exist_ok=True)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.with_name(f".{target.name}.arriving")
    with suppress(FileNotFoundError):  # it went while it was looked at
        shutil.copy2(source, beside, follow_symlinks=False)
        beside.replace(target)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _open_inodes(pid: int) -> Iterator[int]:
    """Files that a process has open, or mapped."""
    with suppress(OSError):
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):
                yield os.stat(link).st_ino  # noqa: PTH116 - of what it leads to
        for line in Path(f"/proc/{pid}/maps").read_text(encoding="utf-8").splitlines():
            yield int(line.split()[_DEVICE_FIELD])
