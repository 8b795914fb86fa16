"""Upstream's ready-made archives: no compiler needed, and no patch possible."""

import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, TypeAlias

from deployer.artefacts.sources.files import copy, sha256_of, writing
from deployer.artefacts.sources.paths import Platform
from deployer.artefacts.sources.transfer import download, shown
from deployer.errors import SourceError
from deployer.llama.build.archives import unpack_tar
from deployer.planning.events import Watch, unwatched
from deployer.planning.facts import RELEASES, Pin
from deployer.runtime.compile import SERVER, copy_server
from deployer.system.files import contained

Backend: TypeAlias = Literal["cpu", "vulkan"]

FIRST_TAR = 8000
"""Archives are `.tar.gz` since January 2026; older builds had other forms."""

_NAMES: Mapping[tuple[str, str, Backend], str] = {
    ("Linux", "x86_64", "cpu"): "ubuntu-x64",
    ("Linux", "x86_64", "vulkan"): "ubuntu-vulkan-x64",
    ("Linux", "aarch64", "cpu"): "ubuntu-arm64",
    ("Linux", "aarch64", "vulkan"): "ubuntu-vulkan-arm64",
    ("Darwin", "aarch64", "cpu"): "macos-arm64",
    ("Darwin", "x86_64", "cpu"): "macos-x64",
}
"""Upstream's words for a platform; the archives for macOS carry Metal."""

_NIGHTLY = re.compile(r"b\d+")


def pin(
    *,
    tag: str,
    backend: Backend,
    here: Platform,
    downloads: Path,
    progress: Watch,
    releases: str = RELEASES,
) -> Pin:
    """Pin the archive of ``tag`` for a platform by its digest; raises SourceError.

    A release `vX.Y.Z` has no archives: it names the nightly build that has.
    """
    downloads.mkdir(parents=True, exist_ok=True, mode=0o700)
    build = tag if _NIGHTLY.fullmatch(tag) else _nightly(tag, downloads, releases)
    url = f"{releases}/{build}/{_archive(build, backend, here)}"
    with tempfile.TemporaryDirectory(dir=downloads, prefix=".arriving-") as folder:
        arriving = Path(folder) / "archive"
        sha256 = _downloaded(url, arriving, None, progress, build)
        size = arriving.stat().st_size
        arriving.replace(downloads / sha256)
    return Pin(
        source="release",
        identity={"archive": sha256},
        where={"url": url},
        about={"number": int(build[1:]), "size": size, "backend": backend},
    )


def fetch(pin: Pin, into: Path, *, downloads: Path, progress: Watch) -> Path:
    """Put llama-server and its libraries into ``into``; where the server is.

    Raises SourceError where what arrives is not what was pinned.
    """
    match pin.where.get("url"), pin.identity.get("archive"):
        case str(url), str(sha256):
            pass
        case _:
            raise SourceError("the lock file has a release pin that is not one of ours")
    archive = contained(downloads, downloads / sha256)
    if not (archive.is_file() and sha256_of(archive, unwatched) == sha256):
        _downloaded(url, archive, sha256, progress, url.split("/")[-2])
    with (
        writing(into, purpose="llama-server"),
        tempfile.TemporaryDirectory(dir=into, prefix=".release-") as folder,
    ):
        unpack_tar(archive, Path(folder), progress)
        return _collect(Path(folder), into)


def refuse_patches(names: tuple[str, ...]) -> None:
    """Raise SourceError where a stack wants patches of what is compiled already."""
    if names:
        raise SourceError(
            "`llama_cpp.source: release` takes upstream's binary, which cannot be "
            f"patched; the stack wants `{names[0]}`",
            hint="leave `llama_cpp.source` out to build from source",
        )


def _archive(build: str, backend: Backend, here: Platform) -> str:
    name = _NAMES.get((here.system, here.machine, backend))
    if name is None:
        raise SourceError(
            f"upstream publishes no {backend} archive for {here.system} on "
            f"{here.machine}",
            hint="leave `llama_cpp.source` out to build from source",
        )
    if int(build[1:]) < FIRST_TAR:
        raise SourceError(
            f"`{build}` is older than the archives that deployer can read",
            hint=f"pin `b{FIRST_TAR}` or later, or build from source",
        )
    return f"llama-{build}-bin-{name}.tar.gz"


def _nightly(tag: str, downloads: Path, releases: str) -> str:
    """The nightly build that a release names."""
    url = f"{releases}/{tag}/nightly-tag.txt"
    with tempfile.TemporaryDirectory(dir=downloads, prefix=".arriving-") as folder:
        into = Path(folder) / "nightly-tag.txt"
        _downloaded(url, into, None, unwatched, tag)
        said = into.read_text(encoding="utf-8", errors="replace").strip()
    if not _NIGHTLY.fullmatch(said):
        raise SourceError(f"`{shown(url)}` does not name a build")
    return said


def _downloaded(
    url: str, into: Path, sha256: str | None, progress: Watch, tag: str
) -> str:
    try:
        return download(url, into, sha256=sha256, size=None, progress=progress)
    except SourceError as error:
        if "(HTTP 404)" not in error.message:
            raise
        raise SourceError(
            f"upstream has no archive for `{tag}`: `{shown(url)}` is not there",
            hint="not every build is published: see the releases page of llama.cpp",
        ) from error


def _collect(unpacked: Path, into: Path) -> Path:
    found = sorted(p for p in unpacked.rglob("llama-server") if p.is_file())
    if not found:
        raise SourceError("the archive contains no `llama-server`")
    copy_server(found[0], into, copy)
    return into / SERVER
