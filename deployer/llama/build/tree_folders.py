"""A source tree on this machine, pinned by its content."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from deployer.artefacts.sources.files import copy, sha256_of
from deployer.errors import SourceError
from deployer.planning.events import unwatched
from deployer.planning.facts import Pin
from deployer.planning.resources import digest
from deployer.stack.fields.values import JsonValue

_IGNORED = frozenset({".git", ".cache", ".venv", "__pycache__", "node_modules"})
_BUILD_MARK = "CMakeCache.txt"


def pin(folder: Path, *, number: int | None, commit: str | None) -> Pin:
    """Pin the source in ``folder``; raises SourceError."""
    if not (folder / "CMakeLists.txt").is_file():
        raise SourceError(
            f"`{folder}` is not a source tree: it has no `CMakeLists.txt`",
            hint="`llama_cpp.source_path` is the folder of a llama.cpp checkout",
        )
    identity: dict[str, JsonValue] = {"tree": tree_digest(folder)}
    # A folder does not know which build it is: what is said of it is compiled in.
    identity |= {"number": number} if number is not None else {}
    identity |= {"reported_commit": commit} if commit else {}
    return Pin(
        source="source-path",
        identity=identity,
        where={"path": str(folder)},
        about={"number": number, "commit": commit},
    )


def fetch(pin: Pin, into: Path) -> None:
    """Copy the pinned tree; raises SourceError where it changed since."""
    folder = Path(str(pin.where["path"]))
    for path in content(folder):
        target = into / path.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        copy(path, target)
    if tree_digest(into) != pin.identity["tree"]:
        raise SourceError(
            f"`{folder}` changed since it was locked",
            hint="run `deployer lock` to take it as it is now",
        )


def tree_digest(folder: Path) -> str:
    """SHA-256 over names, content and executable bits of a source tree."""
    files: dict[str, JsonValue] = {
        path.relative_to(folder).as_posix(): _fingerprint(path)
        for path in content(folder)
    }
    return digest(files)


def content(folder: Path) -> Iterator[Path]:
    """The files of a source tree; not those of git, of builds and of tools."""
    if not folder.is_dir():
        raise SourceError(f"there is no folder `{folder}`")
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(
            name
            for name in folders
            if name not in _IGNORED and not (Path(place) / name / _BUILD_MARK).exists()
        )
        linked = [name for name in folders if (Path(place) / name).is_symlink()]
        for name in sorted({*names, *linked} - _IGNORED):
            yield Path(place) / name


def _fingerprint(path: Path) -> str:
    if path.is_symlink():
        return f"link {path.readlink()}"
    mode = path.lstat().st_mode
    if not stat.S_ISREG(mode):
        raise SourceError(f"`{path}` is neither a file nor a folder")
    executable = "x" if mode & stat.S_IXUSR else "-"
    return f"{executable} {sha256_of(path, unwatched)}"
