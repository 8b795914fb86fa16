"""Folders of a volume that count only once they are complete."""

import errno
import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

COMPLETE = "complete.json"
"""Last file of a folder: without it the folder does not count."""


@dataclass(frozen=True)
class Volume:
    """A folder that several containers see, once each has committed what it wrote."""

    folder: Path
    commit: Callable[[], object]
    """Lets others see what was written."""
    reload: Callable[[], object]
    """Shows what others wrote."""

    def complete(self, target: Path, version: str) -> dict[str, str]:
        """Write down what a folder holds, and commit: from here on it counts."""
        files = {
            path.relative_to(target).as_posix(): path.stat().st_size
            for path in sorted(target.rglob("*"))
            if path.is_file()
        }
        text = json.dumps({"version": version, "files": files}, indent=2)
        (target / COMPLETE).write_text(text)
        self.commit()
        print(f"{target} is complete: {sum(files.values()) / 1e9:.2f} GB", flush=True)
        return about(target)


def is_complete(target: Path) -> bool:
    """Return whether a folder counts."""
    return (target / COMPLETE).is_file()


def about(target: Path) -> dict[str, str]:
    """Return path and version of a complete folder."""
    version = json.loads((target / COMPLETE).read_text())["version"]
    return {"path": str(target), "version": version}


def sha256_of(path: Path) -> str:
    """Return the digest of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextmanager
def room() -> Iterator[None]:
    """Say what to do where the Volume takes no more."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise RuntimeError(
            "the Volume takes no more data, or no more files (500 000): "
            "`deployer store gc --engine modal` removes what no release needs"
        ) from error
