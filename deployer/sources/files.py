"""Files of an artefact: listed once with their digests, looked at from then on."""

import hashlib
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from deployer.core.progress import unwatched
from deployer.errors import StoreError
from deployer.regular import open_regular
from deployer.sources.digests import DigestCache


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
            status = path.stat()
            files[name] = replace(
                file, mtime_ns=status.st_mtime_ns, inode=status.st_ino
            )
        elif not path.is_dir():
            raise StoreError(f"`{name}` is neither a file nor a folder")
    return files


def problem_of(path: Path, file: File, digests: DigestCache) -> str:
    """What is wrong with a file; empty where it is the one that was published."""
    try:
        status = path.lstat() if file.link else path.stat()
    except OSError as error:
        return f"`{path}` cannot be read: {error.strerror}"
    if file.link:
        same = stat.S_ISLNK(status.st_mode) and path.readlink() == Path(file.link)
        return "" if same else f"`{path}` is not a link to `{file.link}`"
    if status.st_size != file.size:
        return f"`{path}` has {status.st_size} bytes, published were {file.size}"
    if file.external and status.st_mtime_ns != file.mtime_ns:
        return f"`{path}` was written to since it was published"
    same_file = file.inode in (0, status.st_ino)
    if status.st_mtime_ns == file.mtime_ns and same_file:
        return ""
    if digests.sha256_of(path, unwatched) != file.sha256:
        return f"`{path}` has other content than when it was published"
    return ""


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
