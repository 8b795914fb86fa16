"""The artefact store: one folder per content key, whole or not there at all.

An entry is filled in a folder beside its place, listed in ``manifest.json`` with
size and digest of every file, synced to disk, and renamed.  What a crash leaves
behind is swept by the next publish.  Entries are never changed: their files lose
their write permission.  A user's large file is referred to, not copied.
"""

import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from deployer.artefacts.sources.files import (
    DigestCache,
    File,
    listed,
    other_content,
    problem_of,
    sha256_of,
    sync_folder,
    writing,
)
from deployer.errors import StoreError
from deployer.planning import resources
from deployer.planning.progress import Watch, unwatched
from deployer.stack.fields.values import DIGEST, JsonValue, is_inner_path, is_path
from deployer.system.children import growing
from deployer.system.files import contained

if TYPE_CHECKING:
    from filelock import FileLock

Kind: TypeAlias = Literal["build", "weights", "snapshot"]
KINDS: tuple[Kind, ...] = ("build", "weights", "snapshot")
STORED: Mapping[resources.Kind, Kind] = {
    resources.Kind.BUILD: "build",
    resources.Kind.WEIGHTS: "weights",
    resources.Kind.SNAPSHOT: "snapshot",
}
"""The resources that lie in the store."""

_VERSION = 1
_PAUSES = (0.005, 0.25)
"""The first and the longest between two tries for a lock."""
_MANIFEST = "manifest.json"
_WORKING_FOLDER, _EXCHANGE = -100, 2
"""AT_FDCWD and RENAME_EXCHANGE of Linux, on every processor."""
_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}")
_STAGING = re.compile(r"\.(?P<key>[A-Za-z0-9_-]+)\.[0-9a-f]{8}")


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
        """Return what a look at size, times and inode finds; empty for a sound entry.

        A file that is another one by that is read, once: its digest is remembered.
        A digest that was found since by reading everything counts, too.
        """
        digests = DigestCache(_digests_of(self.folder.parent.parent))
        known = digests.known()
        return [
            problem
            for name, file in sorted(self.files.items())
            if (problem := problem_of(self._place(name), file, digests, known))
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
        """File that remembers the digests of files that were read again."""
        return _digests_of(self.home)

    def find(self, kind: Kind, key: str) -> Entry | None:
        """The entry, or None where it is absent, damaged, or its file changed."""
        entry = _read(kind, _checked(key), self.home / kind / key)
        return entry if entry is not None and not entry.problems() else None

    def flaw(self, kind: Kind, key: str) -> str:
        """Why `find` does not find an entry, in one sentence; empty where it does."""
        entry = self.look(kind, key)
        if entry is None:
            folder = self.home / kind / key
            return (
                "its manifest is damaged" if folder.exists() else "its folder is gone"
            )
        problems = entry.problems()
        more = f", and {len(problems) - 1} more" if problems[1:] else ""
        return problems[0] + more if problems else ""

    def look(self, kind: Kind, key: str) -> Entry | None:
        """The entry as its manifest tells of it, sound or not."""
        return _read(kind, _checked(key), self.home / kind / key)

    def has(self, kind: Kind, key: str) -> bool:
        """Return whether there is an entry, sound or not, at the cost of one look."""
        return (self.home / kind / _checked(key) / _MANIFEST).is_file()

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

    def verify(self, entry: Entry, watch: Watch = unwatched) -> list[str]:
        """Problems that reading every byte finds; empty for a sound entry.

        What is found is remembered: the entry counts as damaged from then on.
        """
        if problems := entry.problems():
            return problems
        digests = DigestCache(self.digests)
        for name, file in sorted(entry.files.items()):
            if file.link:
                continue
            path = entry.path(name)
            if (found := sha256_of(path, watch)) != file.sha256:
                digests.remember(path, found)
                problems.append(other_content(file.external or path.name))
        return problems

    def publish(
        self,
        kind: Kind,
        key: str,
        fill: Callable[[Path], Mapping[str, JsonValue]],
        *,
        now: Callable[[], datetime],
        say: Callable[[str], None],
        proven: Mapping[str, str] | None = None,
        again: bool = False,
    ) -> Entry:
        """Return the entry, having ``fill`` write its files where it is not there.

        ``fill`` gets an empty folder and returns what to tell people about the
        entry; it proves the digests that are ``proven``, by name, while it writes:
        those files are not read again.  Whoever comes second waits, and says so.
        ``again`` fills it even where it is there, and replaces it in the end.
        Raises StoreError where the disk is full; what ``fill`` raises passes through
        and leaves nothing.
        """

        def make(folder: Path) -> tuple[dict[str, File], Mapping[str, JsonValue]]:
            about = fill(folder)
            # A snapshot is the memory of a server: prompts and keys are in it.
            private = kind == "snapshot"
            return listed(folder, proven or {}, private=private), about

        return self._publish(kind, key, make, now=now, say=say, again=again)

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
        with self._locked(kind, key, say=lambda _: None):
            self._take_away(kind, key)

    def remove_all(
        self,
        entries: Collection[tuple[Kind, str]],
        unused: Callable[[], Collection[tuple[Kind, str]]],
    ) -> tuple[tuple[Kind, str], ...]:
        """Remove those of the entries that are ``unused``; returns which.

        That is asked once no other process can publish them or find them published: a
        run names what it needs in its state before it looks for it here.
        """
        found = sorted(set(entries))
        with ExitStack() as locks:
            for kind, key in found:
                locks.enter_context(self._locked(kind, key, say=lambda _: None))
            still = set(unused()) if found else set()
            going = [it for it in found if it in still]
            for kind, key in going:
                self._take_away(kind, key)
        return tuple(going)

    def _take_away(self, kind: Kind, key: str) -> None:
        place = self.home / kind / _checked(key)
        if place.exists():
            leaving = _staging(contained(self.home / kind, place))
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
        again: bool = False,
    ) -> Entry:
        place = self.home / kind / _checked(key)
        with (
            writing(self.home, purpose=f"{kind} {key[:12]}"),
            self._locked(kind, key, say=say),
        ):
            if not again and (found := self.find(kind, key)) is not None:
                return found
            if place.exists() and (flaw := self.flaw(kind, key)):
                say(f"{flaw}: making it again")
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
            pauses = growing(*_PAUSES)
            while not _acquired(lock):
                time.sleep(next(pauses))
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
    mode = 0o400 if entry.kind == "snapshot" else 0o444
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    descriptor = os.open(entry.folder / _MANIFEST, flags, mode)
    with open(descriptor, "w", encoding="utf-8") as stream:  # noqa: PTH123 - has its mode
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
        files = {name: _listed(name, it) for name, it in content["files"].items()}
        created = datetime.fromisoformat(content["created"])
        return Entry(kind, key, folder, created, files, dict(content["about"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _listed(name: str, file: Mapping[str, object]) -> File:
    """A file of a manifest; raises ValueError or TypeError for one of another form."""
    found = File(**file)  # type: ignore[arg-type]
    numbers = (found.size, found.mode, found.mtime_ns, found.inode)
    if not is_inner_path(name) or any(type(it) is not int or it < 0 for it in numbers):
        raise ValueError(name)
    if not (found.link or DIGEST.fullmatch(found.sha256)):
        raise ValueError(name)
    if found.external and not (is_path(found.external) and found.external[0] == "/"):
        raise ValueError(name)
    return found


def _digests_of(home: Path) -> Path:
    return home / "digests.json"


def _swap_in(staging: Path, place: Path) -> None:
    """Rename into place; a predecessor changes places with it, and is swept then."""
    if not place.exists():
        staging.rename(place)
    elif not _exchanged(staging, place):
        # A kill between these two costs the predecessor: the entry is made again.
        place.rename(leaving := _staging(place))
        staging.rename(place)
        _sweep(leaving)
    sync_folder(place.parent)


def _exchanged(one: Path, other: Path) -> bool:
    """Let two folders change names in one step; False where that is not to be had.

    Linux can since 3.15, on ext4, XFS, Btrfs and tmpfs, and not on NFS (rename(2)).
    """
    import ctypes  # noqa: PLC0415 - hardly anything is replaced

    try:
        renameat2 = ctypes.CDLL(None).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    names = (os.fsencode(one), _WORKING_FOLDER, os.fsencode(other))
    return bool(renameat2(_WORKING_FOLDER, *names, _EXCHANGE) == 0)


def _staging(place: Path) -> Path:
    return place.with_name(f".{place.name}.{secrets.token_hex(4)}")


def _sweep(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)


def _folders(parent: Path) -> list[Path]:
    return sorted(path for path in parent.glob("*") if path.is_dir())


def _checked(key: str) -> str:
    if not _KEY.fullmatch(key):
        raise StoreError(f"`{key}` cannot be the key of an artefact")
    return key
