"""Files of an artefact: listed once with their digests, looked at from then on."""

import hashlib
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from deployer.artefacts.sources.digests import (
    DigestCache,
    Known,
    Stamp,
    stamp_in,
    stamp_of,
)
from deployer.errors import StoreError
from deployer.planning.progress import unwatched
from deployer.stack.fields.units import show_bytes
from deployer.system.regular_files import open_regular


@dataclass(frozen=True, slots=True)
class File:
    """One file of an entry, by what its manifest says."""

    size: int
    sha256: str
    mode: int = 0o444
    link: str = ""
    """Target of a symbolic link inside the entry; empty for a file."""
    external: str = ""
    """Absolute path of a file of the user; empty for a file of the store."""
    mtime_ns: int = 0
    """When it was written, in nanoseconds: another time calls for another look."""
    inode: int = 0
    """Which file of the disk it is: another one, too; 0 where nobody wrote it down."""
    ctime_ns: int = 0
    """When its inode was last changed, by the kernel; 0 where nobody wrote it down."""

    @property
    def stamp(self) -> Stamp:
        """How the file looked when its digest was taken."""
        return Stamp(self.size, self.mtime_ns, self.ctime_ns, self.inode)


def listed(
    folder: Path, proven: Mapping[str, str], *, private: bool
) -> dict[str, File]:
    """Everything below ``folder``; equal files become one, none stays writable."""
    files: dict[str, File] = {}
    first: dict[tuple[str, int], Path] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            files[name] = _link(path, folder)
        elif path.is_file():
            file = _file(path, proven.get(name), private=private)
            twin = first.setdefault((file.sha256, file.mode), path)
            if twin is not path:
                _merge(path, twin)
            files[name] = file
        elif not path.is_dir():
            raise StoreError(f"`{name}` is neither a file nor a folder")
    # At last: becoming one with another file changes the stamp of both.
    return {
        name: file if file.link else stamped(file, folder / name)
        for name, file in files.items()
    }


def stamped(file: File, path: Path) -> File:
    """The file with the stamp that it has now; raises OSError."""
    now = stamp_of(path)
    return replace(file, mtime_ns=now.mtime_ns, ctime_ns=now.ctime_ns, inode=now.inode)


def problem_of(path: Path, file: File, digests: DigestCache, known: Known) -> str:
    """Return what is wrong with a file; empty where it is the one that was published.

    A file is read where neither an earlier reading nor the manifest knows its stamp.
    """
    name = file.external or path.name
    try:
        status = path.lstat() if file.link else path.stat()
        target = path.readlink() if stat.S_ISLNK(status.st_mode) else None
    except FileNotFoundError:
        return f"`{name}` is gone"
    except OSError as error:
        return f"`{name}` cannot be read: {error.strerror}"
    if file.link:
        same = target == Path(file.link)
        return "" if same else f"`{name}` is not a link to `{file.link}`"
    if not stat.S_ISREG(status.st_mode):
        return f"`{name}` is not a file"
    if status.st_size != file.size:
        return f"`{name}` is {_sizes(status.st_size, file.size)}"
    if file.external and status.st_mtime_ns != file.mtime_ns:
        return f"`{name}` was written to since it was published"
    found = known(path, stamp_in(status))
    if found is None and stamp_in(status) == file.stamp:
        return ""
    try:
        found = found or digests.sha256_of(path, unwatched)
    except OSError as error:
        return f"`{name}` cannot be read: {error.strerror}"
    return "" if found == file.sha256 else other_content(name)


def other_content(name: str) -> str:
    """The problem of a file that has its size, and not its digest."""
    return f"`{name}` has other content than when it was published"


def _sizes(now: int, then: int) -> str:
    """Two sizes that differ, so that this is seen."""
    is_, was = show_bytes(now), show_bytes(then)
    return f"{is_}, was {was}" if is_ != was else f"{now} bytes, was {then}"


def _merge(path: Path, twin: Path) -> None:
    spare = path.with_name(f"{path.name}.twin")
    try:
        spare.hardlink_to(twin)
    except OSError:
        return  # a disk without hard links: two copies do as well
    spare.replace(path)


def _link(path: Path, folder: Path) -> File:
    target = path.readlink()
    inside = path.resolve().is_relative_to(folder.resolve())
    if target.is_absolute() or not inside or not path.exists():
        raise StoreError(f"symbolic link `{path.name}` leaves its entry: `{target}`")
    return File(size=0, sha256="", link=target.as_posix())


def _file(path: Path, proven: str | None, *, private: bool) -> File:
    mode = 0o555 if path.stat().st_mode & stat.S_IXUSR else 0o444
    mode &= 0o700 if private else 0o777
    digest = proven or digest_of(path)
    with path.open("rb") as stream:
        os.fsync(stream.fileno())
    path.chmod(mode)
    return File(size=path.stat().st_size, sha256=digest, mode=mode)


def digest_of(path: Path) -> str:
    """The SHA-256 of a file; raises OSError."""
    with open_regular(path) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
