"""The artefact store: one folder per content key, whole or not there at all.

An entry is filled in a folder beside its place, listed in ``manifest.json`` with
size and digest of every file, synced to disk, and renamed.  What a crash leaves
behind is swept by the next publish.  Entries are never changed: their files lose
their write permission.  A user's large file is referred to, not copied.
"""

import hashlib
import json
import os
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from deployer.core.values import JsonValue
from deployer.errors import StoreError
from deployer.sources.space import sync_folder, writing

if TYPE_CHECKING:
    from filelock import FileLock

Kind: TypeAlias = Literal["build", "weights", "snapshot"]
KINDS: tuple[Kind, ...] = ("build", "weights", "snapshot")

_VERSION = 1
_MANIFEST = "manifest.json"
_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}")
_STAGING = re.compile(r"\.(?P<key>[A-Za-z0-9_-]+)\.[0-9a-f]{8}")


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


@dataclass(frozen=True, slots=True)
class Entry:
    """One artefact in the store."""

    kind: Kind
    key: str
    folder: Path
    created: datetime
    files: Mapping[str, File] = field(repr=False)
    about: Mapping[str, JsonValue] = field(repr=False)

    @property
    def size(self) -> int:
        """Bytes that removing the entry would free."""
        own = [file for file in self.files.values() if not file.external]
        return sum({(f.sha256, f.mode): f.size for f in own}.values())

    def path(self, name: str) -> Path:
        """Where the file ``name`` lies; raises StoreError where there is none."""
        if name not in self.files:
            raise StoreError(f"`{self.kind}/{self.key}` has no file `{name}`")
        return self._place(name)

    def problems(self) -> list[str]:
        """What a look at names and sizes finds; empty for a sound entry."""
        return [
            problem
            for name, file in sorted(self.files.items())
            if (problem := _problem(self._place(name), file))
        ]

    def _place(self, name: str) -> Path:
        external = self.files[name].external
        return Path(external) if external else self.folder / name


@dataclass(frozen=True, slots=True)
class Store:
    """The store below ``home``; any number of processes may use it at once."""

    home: Path

    @property
    def downloads(self) -> Path:
        """Where files on their way wait, on the same disk as the entries."""
        return self.home / "downloads"

    @property
    def digests(self) -> Path:
        """File that remembers digests of files outside the store."""
        return self.home / "digests.json"

    def find(self, kind: Kind, key: str) -> Entry | None:
        """The entry, or None where it is absent, damaged, or its file changed."""
        entry = _read(kind, _checked(key), self.home / kind / key)
        return entry if entry is not None and not entry.problems() else None

    def look(self, kind: Kind, key: str) -> Entry | None:
        """The entry as its manifest tells of it, sound or not."""
        return _read(kind, _checked(key), self.home / kind / key)

    def entries(self) -> list[Entry]:
        """Every entry with a readable manifest, oldest first; damaged ones too."""
        found = (
            _read(kind, folder.name, folder)
            for kind in KINDS
            for folder in _folders(self.home / kind)
            if _KEY.fullmatch(folder.name)
        )
        return sorted(
            (entry for entry in found if entry is not None),
            key=lambda entry: (entry.created, entry.kind, entry.key),
        )

    def verify(self, entry: Entry) -> list[str]:
        """Problems that reading every byte finds; empty for a sound entry."""
        problems = entry.problems()
        if problems:
            return problems
        return [
            f"`{entry.path(name)}` has other content than when it was published"
            for name, file in sorted(entry.files.items())
            if not file.link and _sha256(entry.path(name)) != file.sha256
        ]

    def publish(
        self,
        kind: Kind,
        key: str,
        fill: Callable[[Path], Mapping[str, JsonValue]],
        *,
        now: Callable[[], datetime],
        say: Callable[[str], None],
    ) -> Entry:
        """Return the entry, having ``fill`` write its files where it is not there.

        ``fill`` gets an empty folder and returns what to tell people about the
        entry.  Whoever comes second waits, and says so.  Raises StoreError where
        the disk is full; what ``fill`` raises passes through and leaves nothing.
        """

        def make(folder: Path) -> tuple[dict[str, File], Mapping[str, JsonValue]]:
            about = fill(folder)
            # A snapshot is the memory of a server: prompts and keys are in it.
            return _listed(folder, private=kind == "snapshot"), about

        return self._publish(kind, key, make, now=now, say=say)

    def refer(
        self,
        kind: Kind,
        key: str,
        files: Mapping[str, File],
        about: Mapping[str, JsonValue],
        *,
        now: Callable[[], datetime],
        say: Callable[[str], None],
    ) -> Entry:
        """Publish an entry whose files stay where the user has them.

        Each of ``files`` has ``external``, ``size``, ``mtime_ns`` and ``sha256``;
        once one of them changes, `find` no longer finds the entry.
        """
        return self._publish(kind, key, lambda _: (files, about), now=now, say=say)

    def remove(self, kind: Kind, key: str) -> None:
        """Remove an entry, at once for everybody; a file of the user stays."""
        place = self.home / kind / _checked(key)
        with self._locked(kind, key, say=lambda _: None):
            if place.exists():
                leaving = _staging(place)
                place.rename(leaving)
                _sweep(leaving)

    def _publish(
        self,
        kind: Kind,
        key: str,
        make: Callable[[Path], tuple[Mapping[str, File], Mapping[str, JsonValue]]],
        *,
        now: Callable[[], datetime],
        say: Callable[[str], None],
    ) -> Entry:
        place = self.home / kind / _checked(key)
        with (
            writing(self.home, purpose=f"{kind} {key[:12]}"),
            self._locked(kind, key, say=say),
        ):
            if (found := self.find(kind, key)) is not None:
                return found
            self._clean(kind, key)
            staging = _staging(place)
            staging.mkdir(mode=0o700)
            try:
                files, about = make(staging)
                entry = Entry(kind, key, staging, now(), files, about)
                _write_manifest(entry)
                _swap_in(staging, place)
            finally:
                _sweep(staging)
            published = self.find(kind, key)
        if published is None:
            raise StoreError(
                f"`{kind}/{key}` changed while it was published",
                hint="let nothing else write below the store, and try again",
            )
        return published

    @contextmanager
    def _locked(
        self, kind: Kind, key: str, *, say: Callable[[str], None]
    ) -> Iterator[None]:
        for folder in (self.home, self.home / "locks", self.home / kind):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = self._lock(kind, key)
        if not _acquired(lock):
            say(f"waiting for another process that makes `{kind}/{key[:12]}`")
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def _lock(self, kind: Kind, key: str) -> "FileLock":
        from filelock import FileLock  # noqa: PLC0415 - reading the store needs none

        return FileLock(self.home / "locks" / f"{kind}-{key}.lock", mode=0o600)

    def _clean(self, kind: Kind, key: str) -> None:
        """Sweep what interrupted publishers left; those at work hold their lock."""
        for folder in _folders(self.home / kind):
            found = _STAGING.fullmatch(folder.name)
            if found is None:
                continue
            if found["key"] == key:
                _sweep(folder)
                continue
            lock = self._lock(kind, found["key"])
            if _acquired(lock):
                _sweep(folder)
                lock.release()


def _acquired(lock: "FileLock") -> bool:
    from filelock import Timeout  # noqa: PLC0415 - reading the store needs none

    try:
        lock.acquire(timeout=0)
    except Timeout:
        return False
    return True


def _listed(folder: Path, *, private: bool) -> dict[str, File]:
    """Everything below ``folder``; equal files become one, none stays writable."""
    files: dict[str, File] = {}
    first: dict[tuple[str, int], Path] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            files[name] = _link(path, folder)
        elif path.is_file():
            file = _file(path, private=private)
            files[name] = file
            twin = first.setdefault((file.sha256, file.mode), path)
            if twin is not path:
                _merge(path, twin)
            written = path.stat().st_mtime_ns
            files[name] = replace(file, mtime_ns=written)
        elif not path.is_dir():
            raise StoreError(f"`{name}` is neither a file nor a folder")
    return files


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


def _file(path: Path, *, private: bool) -> File:
    mode = 0o555 if path.stat().st_mode & stat.S_IXUSR else 0o444
    mode &= 0o700 if private else 0o777
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
        os.fsync(stream.fileno())
    path.chmod(mode)
    return File(size=path.stat().st_size, sha256=digest, mode=mode)


def _write_manifest(entry: Entry) -> None:
    content = {
        "version": _VERSION,
        "kind": entry.kind,
        "key": entry.key,
        "created": entry.created.isoformat(),
        "about": dict(entry.about),
        "files": {name: asdict(file) for name, file in entry.files.items()},
    }
    if _MANIFEST in entry.files:
        raise StoreError(f"an entry cannot have a file of its own named `{_MANIFEST}`")
    text = json.dumps(content, indent=1, sort_keys=True, allow_nan=False)
    with (entry.folder / _MANIFEST).open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    for folder in [entry.folder, *(p for p in entry.folder.rglob("*") if p.is_dir())]:
        if not folder.is_symlink():
            sync_folder(folder)


def _read(kind: Kind, key: str, folder: Path) -> Entry | None:
    """The entry of a folder; None where there is no manifest that we wrote."""
    try:
        content = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
        if content["version"] != _VERSION or content["key"] != key:
            return None
        files = {name: File(**file) for name, file in content["files"].items()}
        created = datetime.fromisoformat(content["created"])
        return Entry(kind, key, folder, created, files, content["about"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _problem(path: Path, file: File) -> str:
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
    touched = not file.external and status.st_mtime_ns != file.mtime_ns
    if touched and _sha256(path) != file.sha256:
        return f"`{path}` has other content than when it was published"
    return ""


def _swap_in(staging: Path, place: Path) -> None:
    """Rename into place; a damaged predecessor moves out of the way first."""
    if place.exists():
        leaving = _staging(place)
        place.rename(leaving)
        staging.rename(place)
        _sweep(leaving)
    else:
        staging.rename(place)
    sync_folder(place.parent)


def _staging(place: Path) -> Path:
    return place.with_name(f".{place.name}.{secrets.token_hex(4)}")


def _sweep(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)


def _folders(parent: Path) -> list[Path]:
    return sorted(path for path in parent.glob("*") if path.is_dir())


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _checked(key: str) -> str:
    if not _KEY.fullmatch(key):
        raise StoreError(f"`{key}` cannot be the key of an artefact")
    return key
