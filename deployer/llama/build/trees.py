"""Source trees of llama.cpp: pinned by what they are, and fetched again as that.

A pin with patches needs the tree to know which of them it wants, so pinning fetches
it; what arrives stays in the downloads of the store, under its digest.
"""

import os
import re
import stat
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeAlias

from deployer.artefacts.sources.files import copy, sha256_of
from deployer.errors import SourceError, UnreachableError
from deployer.llama.build import tree_packages
from deployer.llama.build.archives import refuse_links_outside
from deployer.llama.flags import description
from deployer.llama.flags.description import Description
from deployer.llama.git import fetch, pin
from deployer.llama.patches import (
    Outcome,
    Patch,
    PatchVerdict,
    apply_patch,
    apply_wanted,
    verdict,
)
from deployer.planning.events import Watch, unwatched
from deployer.planning.facts import DESCRIPTION, UPSTREAM, Pin
from deployer.planning.resources import digest
from deployer.stack.fields.values import JsonValue

_IGNORED = frozenset({".git", ".cache", ".venv", "__pycache__", "node_modules"})
_BUILD_MARK = "CMakeCache.txt"


def pin_folder(folder: Path, *, number: int | None, commit: str | None) -> Pin:
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


def fetch_folder(pin: Pin, into: Path) -> None:
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


Source: TypeAlias = Literal["git", "pypi", "path"]

TREE_SOURCES = ("source-git", "source-pypi", "source-path")
"""Values of `Pin.source` for a build from source."""

_BUILD_TAG = re.compile(r"b(\d+)")


@dataclass(frozen=True, slots=True)
class SourceRequest:
    """Which source a stack asks for."""

    source: Source
    tag: str
    """``bNNNNN``, ``vX.Y.Z`` or a commit."""
    commit: str | None = None
    """The commit the tag must resolve to; with `pypi` and `path` only reported."""
    repo: str | None = None
    """Repository for `git` instead of upstream's."""
    path: Path | None = None
    """Folder for `path`."""
    cuda: bool = False
    """The build needs CUDA sources."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Where downloads wait, and who asks."""

    downloads: Path
    environment: Mapping[str, str]
    progress: Watch

    @property
    def home(self) -> Path:
        """Folder of the store, where descriptions of builds are kept."""
        return self.downloads.parent


def pin_tree(
    request: SourceRequest, patches: Sequence[Patch], around: Surroundings
) -> Pin:
    """Pin a source and those of the patches that it wants, and read what it states.

    `about` names the build (``number``, ``commit``), what each patch means
    (``patches``), and the digest of its description; a patch that is not applied does
    not become part of the identity.  Raises SourceError, also where a patch conflicts.
    """
    pin = _pin(request, around)
    if not patches and (known := description.find(around.home, pin)):
        return _described(pin, known)
    with tempfile.TemporaryDirectory(dir=around.downloads, prefix=".tree-") as folder:
        tree = Path(folder) / "tree"
        tree.mkdir()
        fetch_tree(pin, tree, around)
        if patches:
            verdicts = apply_wanted(patches, tree, around.environment)
            pin = _with_patches(pin, patches, verdicts)
        return _described(pin, _keep(pin, tree, around))


def pin_first(tag: str, around: Surroundings) -> Pin:
    """Pin a tag at upstream, else by package where upstream cannot be reached.

    Raises SourceError, with the reason of each.
    """
    try:
        return pin_tree(SourceRequest("git", tag), (), around)
    except UnreachableError as unreachable:
        try:
            return pin_tree(SourceRequest("pypi", tag), (), around)
        except SourceError as error:
            raise type(error)(
                f"{unreachable.message}; {error.message}", hint=error.hint
            ) from error


def describe_pin(
    pin: Pin, patches: Sequence[Patch], around: Surroundings
) -> Description | None:
    """What a pinned source states, from the store or by fetching it again."""
    if found := description.find(around.home, pin):
        return found
    around.downloads.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.TemporaryDirectory(dir=around.downloads, prefix=".tree-") as folder:
        tree = Path(folder) / "tree"
        tree.mkdir()
        fetch_patched(pin, patches, tree, around)
        return _keep(pin, tree, around)


def _keep(pin: Pin, tree: Path, around: Surroundings) -> Description | None:
    found = description.describe_tree(tree)
    if found is not None:
        description.keep(around.home, pin, found)
    return found


def _described(pin: Pin, found: Description | None) -> Pin:
    if found is None:
        return pin
    return replace(pin, about={**pin.about, DESCRIPTION: found.digest})


def fetch_tree(pin: Pin, into: Path, around: Surroundings) -> None:
    """Fill the empty folder ``into`` with the pinned source, without patches.

    Raises SourceError where what arrives is not what was pinned.
    """
    match pin.source:
        case "source-git":
            fetch(pin, into, downloads=around.downloads, environment=around.environment)
        case "source-pypi":
            tree_packages.fetch(
                pin,
                into,
                downloads=around.downloads,
                environment=around.environment,
                progress=around.progress,
            )
        case "source-path":
            fetch_folder(pin, into)
        case source:
            raise SourceError(f"`{source}` is not a source tree")
    refuse_links_outside(into)
    _refuse_other(into)


def fetch_patched(
    pin: Pin, patches: Sequence[Patch], into: Path, around: Surroundings
) -> None:
    """Fill ``into`` with the pinned source, the pinned patches applied.

    Raises SourceError where a patch is not the one that was pinned.
    """
    wanted = {patch.digest: patch for patch in patches}
    fetch_tree(pin, into, around)
    for pinned in pinned_patches(pin):
        if pinned not in wanted:
            raise SourceError(
                "a patch changed since it was locked",
                hint="run `deployer lock` to take the patches as they are now",
            )
        apply_patch(wanted[pinned], into, around.environment)


def pinned_patches(pin: Pin) -> list[str]:
    """Digests of the patches that the pinned source wants, in order."""
    match pin.identity.get("patches"):
        case list(digests):
            return [str(digest) for digest in digests]
        case _:
            return []


def number_of(tag: str) -> int | None:
    """The build that a tag names, where it names one."""
    found = _BUILD_TAG.fullmatch(tag)
    return int(found[1]) if found else None


def check_patches(
    request: SourceRequest, patches: Sequence[Patch], around: Surroundings
) -> list[PatchVerdict]:
    """Return the verdict on each patch alone for a source; raises SourceError."""
    around.downloads.mkdir(parents=True, exist_ok=True, mode=0o700)
    pin = _pin(request, around)
    with tempfile.TemporaryDirectory(dir=around.downloads, prefix=".tree-") as folder:
        tree = Path(folder) / "tree"
        tree.mkdir()
        fetch_tree(pin, tree, around)
        return [verdict(patch, tree, around.environment) for patch in patches]


def _pin(request: SourceRequest, around: Surroundings) -> Pin:
    around.downloads.mkdir(parents=True, exist_ok=True, mode=0o700)
    match request.source:
        case "git":
            return pin(
                repo=request.repo or UPSTREAM,
                tag=request.tag,
                commit=request.commit,
                downloads=around.downloads,
                environment=around.environment,
            )
        case "pypi":
            return tree_packages.pin(
                tag=request.tag,
                number=number_of(request.tag),
                commit=request.commit,
                cuda=request.cuda,
                downloads=around.downloads,
                environment=around.environment,
                progress=around.progress,
            )
        case "path":
            if request.path is None:
                raise SourceError(
                    "`llama_cpp.source: path` does not say which folder",
                    hint="add `llama_cpp.source_path: ../llama.cpp`",
                )
            return pin_folder(
                request.path, number=number_of(request.tag), commit=request.commit
            )


def _with_patches(
    pin: Pin, patches: Sequence[Patch], verdicts: Sequence[PatchVerdict]
) -> Pin:
    applied: list[JsonValue] = [
        patch.digest
        for patch, found in zip(patches, verdicts, strict=True)
        if found.outcome is Outcome.APPLY
    ]
    outcomes: dict[str, JsonValue] = {
        found.patch: found.outcome.value for found in verdicts
    }
    identity = {**pin.identity, "patches": applied} if applied else pin.identity
    return replace(pin, identity=identity, about={**pin.about, "patches": outcomes})


def _refuse_other(tree: Path) -> None:
    """Raise SourceError for what is not llama.cpp."""
    wanted = ("CMakeLists.txt", "ggml", "common", "tools/server")
    missing = [name for name in wanted if not (tree / name).exists()]
    if missing:
        raise SourceError(
            f"the source has no `{missing[0]}`: it is not llama.cpp, or too old",
            hint="llama.cpp has `tools/server` since May 2025",
        )
