"""Source trees of llama.cpp: pinned by what they are, and fetched again as that.

A pin with patches needs the tree to know which of them it wants, so pinning fetches
it; what arrives stays in the downloads of the store, under its digest.
"""

import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeAlias

from deployer.errors import SourceError
from deployer.llama.build import tree_folders, tree_git, tree_packages
from deployer.llama.build.archives import refuse_links_outside
from deployer.llama.patches import (
    Outcome,
    Patch,
    PatchVerdict,
    apply_patch,
    apply_wanted,
    verdict,
)
from deployer.planning.events import Watch
from deployer.planning.facts import UPSTREAM, Pin
from deployer.stack.fields.values import JsonValue

Source: TypeAlias = Literal["git", "pypi", "path"]

TREE_SOURCES = ("source-git", "source-pypi", "source-path")
"""What `Pin.source` is for a build from source."""

_BUILD_TAG = re.compile(r"b(\d+)")


@dataclass(frozen=True, slots=True)
class SourceRequest:
    """Which source a stack asks for."""

    source: Source
    tag: str
    """``bNNNNN``, ``vX.Y.Z`` or a commit."""
    commit: str | None = None
    """What the tag must stand for; with `pypi` and `path` it is only reported."""
    repo: str | None = None
    """Repository for `git` instead of upstream's."""
    path: Path | None = None
    """Folder for `path`."""
    cuda: bool = False
    """Whether CUDA sources are needed."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Where downloads wait, and who asks."""

    downloads: Path
    environment: Mapping[str, str]
    progress: Watch


def pin_tree(
    request: SourceRequest, patches: Sequence[Patch], around: Surroundings
) -> Pin:
    """Pin a source and those of the patches that it wants.

    `about` names the build (``number``, ``commit``) and what each patch means
    (``patches``); a patch that is not applied does not become part of the identity.
    Raises SourceError, also where a patch conflicts.
    """
    pin = _pin(request, around)
    if not patches:
        return pin
    with tempfile.TemporaryDirectory(dir=around.downloads, prefix=".tree-") as folder:
        tree = Path(folder) / "tree"
        tree.mkdir()
        fetch_tree(pin, tree, around)
        verdicts = apply_wanted(patches, tree, around.environment)
    return _with_patches(pin, patches, verdicts)


def fetch_tree(pin: Pin, into: Path, around: Surroundings) -> None:
    """Fill the empty folder ``into`` with the pinned source, without patches.

    Raises SourceError where what arrives is not what was pinned.
    """
    match pin.source:
        case "source-git":
            tree_git.fetch(
                pin, into, downloads=around.downloads, environment=around.environment
            )
        case "source-pypi":
            tree_packages.fetch(
                pin,
                into,
                downloads=around.downloads,
                environment=around.environment,
                progress=around.progress,
            )
        case "source-path":
            tree_folders.fetch(pin, into)
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
    for digest in pinned_patches(pin):
        if digest not in wanted:
            raise SourceError(
                "a patch changed since it was locked",
                hint="run `deployer lock` to take the patches as they are now",
            )
        apply_patch(wanted[digest], into, around.environment)


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
    """What each patch means for a source, each on its own; raises SourceError."""
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
            return tree_git.pin(
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
            return tree_folders.pin(
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
