"""Files of an artefact: listed once with their digests, looked at from then on.

A copy that shares its blocks (a reflink) costs no room and no reading, and what is
written to either file later does not show in the other.  A hard link would be the same
file: whoever edits the original in place, as linkers do, would edit an artefact that a
release runs from, and take its write permission away as well.  So there is none.
"""

import errno
import fcntl
import hashlib
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from deployer.errors import StoreError
from deployer.planning.progress import Progress, Watch, unwatched
from deployer.stack.fields.values import show_bytes
from deployer.system.files import open_regular

_BLOCK = 4 * 1024 * 1024


def sha256_of(path: Path, progress: Watch) -> str:
    """The SHA-256 of a file, in hexadecimal; raises OSError."""
    digest = hashlib.sha256()
    done = 0
    with open_regular(path) as stream:
        total = os.fstat(stream.fileno()).st_size
        while block := stream.read(_BLOCK):
            digest.update(block)
            done += len(block)
            progress(Progress(f"hashing {path.name}", done, total))
    return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class Stamp:
    """The size, times and inode of a file; they change when its content does.

    Anyone may set the time of writing back; the time of the last change of the inode
    is set by the kernel alone.
    """

    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int


def stamp_of(path: Path) -> Stamp:
    """The stamp of a file; raises OSError."""
    status = path.stat()
    return stamp_in(status)


def stamp_in(status: os.stat_result) -> Stamp:
    """The stamp in what the system says of a file."""
    return Stamp(status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)


Known = Callable[[Path, Stamp], str | None]
"""The digest that a file with this stamp had when it was read; None for another."""


@dataclass(frozen=True, slots=True)
class DigestCache:
    """Digests of files as they were last read, kept in one JSON file.

    Losing the file, or an entry to a writer at the same moment, costs one hash.
    """

    file: Path
    trusts: bool = True
    """A known stamp stands for the content; else every file is read."""

    def known(self) -> Known:
        """Return what is known now, from one reading of the file."""
        content = self._read()

        def digest_at(path: Path, stamp: Stamp) -> str | None:
            match content.get(os.path.realpath(path)):
                case [*fields, str(digest)] if fields == _fields(stamp):
                    return digest
                case _:
                    return None

        return digest_at

    def sha256_of(self, path: Path, progress: Watch) -> str:
        """The digest of ``path``; hashed only where its stamp is not known."""
        path = Path(os.path.realpath(path))
        before = stamp_of(path)
        if self.trusts and (found := self.known()(path, before)) is not None:
            return found
        digest = sha256_of(path, progress)
        if stamp_of(path) == before:  # else it is being written: do not remember
            self.remember(path, digest)
        return digest

    def remember(self, path: Path, digest: str) -> None:
        """Take the digest of a file from whoever hashed it while writing it."""
        path = Path(os.path.realpath(path))
        with suppress(OSError):  # a store that may only be read is asked all the same
            self._write({**self._read(), str(path): [*_fields(stamp_of(path)), digest]})

    def _read(self) -> dict[str, object]:
        try:
            content = json.loads(self.file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}

    def _write(self, content: Mapping[str, object]) -> None:
        self.file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.NamedTemporaryFile(
            "w", dir=self.file.parent, prefix=".digests-", delete=False
        ) as stream:
            json.dump(content, stream, indent=1, sort_keys=True)
        Path(stream.name).replace(self.file)


def _fields(stamp: Stamp) -> list[int]:
    return [stamp.size, stamp.mtime_ns, stamp.ctime_ns, stamp.inode]


_MOST_FILES = 2000
"""Files of a folder that a stack names; more of them are data, and no options."""


def content_digest(
    path: Path, digest_of_file: Callable[[Path], str] | None = None
) -> str:
    """Return the digest of a file, or of the names and contents below a folder.

    Raises OSError.
    """
    of_file = digest_of_file or digest_of
    if not path.is_dir():
        return of_file(path)
    below = sorted(it for it in path.rglob("*") if not it.is_dir())
    if len(below) > _MOST_FILES:
        what = f"a folder with more than {_MOST_FILES} files"
        raise OSError(errno.EFBIG, what, str(path))
    listed = [[it.relative_to(path).as_posix(), of_file(it)] for it in below]
    return hashlib.sha256(json.dumps(listed).encode()).hexdigest()


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
