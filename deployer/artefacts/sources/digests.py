"""SHA-256 of files, remembered for files that did not change since."""

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from deployer.planning.progress import Progress, Watch
from deployer.system.regular_files import open_regular

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
    """What a file looks like from outside; it changes when the content does.

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
    """Whether a known stamp stands for the content; else every file is read."""

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
