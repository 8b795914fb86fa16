"""Unpacking tar archives: nothing lands outside, nothing special is made.

Every member is judged before the first is made, and each name once, with the links of
the archive followed.  So no link exists at any moment that leads out of the folder, and
nothing is written through one.
"""

import lzma
import re
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Literal, TypeAlias

from deployer.artefacts.sources.files import (
    copy,
    ensure_room,
    most_bytes,
    sha256_of,
    writing,
)
from deployer.artefacts.sources.paths import Platform
from deployer.artefacts.sources.transfer import download
from deployer.artefacts.sources.transfer import shown as shown_url
from deployer.errors import SourceError
from deployer.planning.facts import RELEASES, Pin
from deployer.planning.progress import Progress, Watch, unwatched
from deployer.runtime.compile import SERVER, copy_server
from deployer.spelling import shown
from deployer.stack.fields.values import is_inner_path, is_path, show_bytes
from deployer.system.files import contained

_REFUSED = "do not use this archive; report it to its publisher"
_BLOCK = 1024 * 1024
_MOST_MEMBERS = 200_000
"""llama.cpp has about 3,000 files."""
_DEEPEST = 40
"""Links on the way to a file, as the kernel allows."""
_LONGEST_NAME = 1024
"""Characters of a name with its folders, or of where a link leads."""
_LONGEST_HEADER = 16 * 1024
"""Bytes of what stands before a member: a long name, times, a comment."""
_DAMAGED = (
    *(tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, OSError),
    *(ValueError, OverflowError, MemoryError, RecursionError),
)
"""Errors of the library for archives that are truncated or crafted."""


def unpack_tar(archive: Path, into: Path, progress: Watch, called: str) -> None:
    """Unpack ``archive`` into the folder ``into``, keeping executable bits.

    People know it as ``called``: the store names what it fetches by its digest.
    Raises SourceError, before anything is written, where a member would land outside
    the folder, points outside of it, or is neither file, folder nor symbolic link.
    """
    with _opened(archive, called) as tar:
        members = _members(tar, most_bytes(archive), called)
        total = sum(member.size for member in members.values())
        ensure_room(into, total, purpose=called)
        try:
            with writing(into, purpose=called, needed=total):
                _extract(tar, members, into)
        except _DAMAGED as error:
            raise _damaged(called, error) from error
        progress(Progress(f"unpacking {called}", total, total))


def read_early(beginning: bytes, ending: str) -> str:
    """The first member with this end of a name, out of the first bytes of an archive.

    Empty where it is not among them.
    """
    try:
        with tarfile.open(
            fileobj=BytesIO(beginning), mode="r|gz", tarinfo=_Member
        ) as tar:
            for member in tar:
                if member.name.endswith(ending) and (found := tar.extractfile(member)):
                    return found.read(_LONGEST_NAME).decode(errors="replace").strip()
    except _DAMAGED:  # it ends in the middle
        pass
    return ""


def refuse_links_outside(tree: Path) -> None:
    """Raise SourceError where a symbolic link below ``tree`` leaves it."""
    root = tree.resolve()
    for path in tree.rglob("*"):
        if path.is_symlink() and not path.resolve().is_relative_to(root):
            raise SourceError(
                f"`{path.relative_to(tree)}` is a symbolic link that leaves the source",
                hint="replace it by what it points to",
            )


class _Member(tarfile.TarInfo):
    """A member that is refused where the library would loop or read without end."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> "_Member":
        """One header, before anything behind it is read."""
        member = super().frombuf(buf, encoding, errors)
        if not 0 <= member.size < 2**63:
            raise tarfile.ReadError("the size of a member is no size")
        if member.type not in _PLAIN and member.size > _LONGEST_HEADER:
            raise tarfile.ReadError("the header of a member is too long")
        if member.type == tarfile.GNUTYPE_SPARSE:
            raise tarfile.ReadError("a member has holes")
        return member

    @classmethod
    def fromtarfile(cls, tar: tarfile.TarFile) -> "_Member":
        """The next member; one that leads back to itself would be met for ever."""
        before = tar.offset
        member = super().fromtarfile(tar)
        if member.size < 0 or tar.offset <= before:
            raise tarfile.ReadError("the size of a member is no size")
        if member.issparse():
            raise tarfile.ReadError("a member has holes")
        return member

    def _proc_gnusparse_10(self, *_: object) -> None:
        """Refuse at once: the library reads on for ever behind the end of a file."""
        raise tarfile.ReadError("a member has holes")


_PLAIN = (*tarfile.REGULAR_TYPES, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE)


def _opened(archive: Path, called: str) -> tarfile.TarFile:
    try:
        return tarfile.open(archive, tarinfo=_Member)
    except FileNotFoundError:
        raise
    except _DAMAGED as error:
        raise _damaged(called, error) from error


def _members(
    tar: tarfile.TarFile, most: int, called: str
) -> Mapping[str, tarfile.TarInfo]:
    """Return the members by name; raises SourceError for the first bad one."""
    found: dict[str, tarfile.TarInfo] = {}
    total = 0
    try:
        for member in tar:
            if len(found) == _MOST_MEMBERS:
                raise SourceError(f"`{called}` has over {_MOST_MEMBERS} members")
            if (total := total + member.size) > most:
                raise SourceError(
                    f"`{called}` unpacks to over {show_bytes(most)}", _REFUSED
                )
            name = member.name.removeprefix("./").rstrip("/")
            if name not in ("", "."):
                _refuse(called, name, member, found.get(name))
                found[name] = member
    except _DAMAGED as error:
        raise _damaged(called, error) from error
    links = {name: it.linkname for name, it in found.items() if it.issym()}
    for name in found:
        _refuse_way(called, name, found)
        if name in links and not _stays(name, links):
            raise SourceError(
                f"`{called}` has a link that leaves it: `{shown(name)}`",
                hint=_REFUSED,
            )
    return found


def _damaged(called: str, error: BaseException) -> SourceError:
    why = shown(str(error) or type(error).__name__)
    return SourceError(f"`{called}` is damaged: {why}")


def _refuse(
    called: str, name: str, member: tarfile.TarInfo, before: tarfile.TarInfo | None
) -> None:
    place = f"`{called}`"
    if not is_inner_path(name) or len(name) > _LONGEST_NAME:
        raise SourceError(
            f"{place} would write outside its folder: `{shown(member.name)}`",
            hint=_REFUSED,
        )
    if not (member.isfile() or member.isdir() or member.issym()):
        raise SourceError(
            f"{place} has `{shown(name)}`, which is not a plain file", hint=_REFUSED
        )
    if before is not None and not (member.isdir() and before.isdir()):
        raise SourceError(f"{place} has `{shown(name)}` twice", hint=_REFUSED)


def _refuse_way(called: str, name: str, found: Mapping[str, tarfile.TarInfo]) -> None:
    """Raise SourceError for what lies below a file, or below a link.

    It would be written where the link leads.
    """
    for above in map(str, PurePosixPath(name).parents):
        if above in found and not found[above].isdir():
            raise SourceError(
                f"`{called}` has `{shown(name)}` below `{shown(above)}`, which"
                " is no folder",
                hint=_REFUSED,
            )


def _stays(name: str, links: Mapping[str, str]) -> bool:
    """Return whether a link leads below the root, followed as the kernel would."""
    at: list[str] = []
    left = name.split("/")
    followed = 0
    while left:
        part = left.pop(0)
        if part in ("", "."):
            continue
        if part == "..":
            if not at:
                return False
            at.pop()
            continue
        at.append(part)
        if (target := links.get("/".join(at))) is not None:
            followed += 1
            odd = not is_path(target) or len(target) > _LONGEST_NAME
            if followed > _DEEPEST or target.startswith("/") or odd:
                return False
            at.pop()
            left = [*target.split("/"), *left]
    return True


def _extract(
    tar: tarfile.TarFile, members: Mapping[str, tarfile.TarInfo], into: Path
) -> None:
    """Files first: no link is there yet that a file could be written through."""
    for name, member in members.items():
        target = contained(into, into / name)
        if member.isdir():
            target.mkdir(parents=True, exist_ok=True)
        elif member.isfile():
            _write(tar, member, target)
    for name, member in members.items():
        if member.issym():
            target = contained(into, into / name)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(member.linkname)


def _write(tar: tarfile.TarFile, member: tarfile.TarInfo, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    source = tar.extractfile(member)
    if source is None:
        raise SourceError(f"`{member.name}` cannot be read from the archive")
    with source, target.open("xb") as stream:
        shutil.copyfileobj(source, stream, _BLOCK)
    target.chmod(0o755 if member.mode & 0o100 else 0o644)


class NoArchiveError(SourceError):
    """Upstream answers, and has no archive of a tag."""


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


def pin_release(
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
    if not (tag.startswith("v") or _NIGHTLY.fullmatch(tag)):
        raise SourceError(
            f"`{tag}` is a commit, and upstream publishes archives of tags alone",
            hint="write the tag of the build, or build from source",
        )
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


def fetch_release(pin: Pin, into: Path, *, downloads: Path, progress: Watch) -> Path:
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
        unpack_tar(archive, Path(folder), progress, url.split("/")[-1])
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
        raise SourceError(f"`{shown_url(url)}` does not name a build")
    return said


def _downloaded(
    url: str, into: Path, sha256: str | None, progress: Watch, tag: str
) -> str:
    try:
        return download(url, into, sha256=sha256, size=None, progress=progress)
    except SourceError as error:
        if "(HTTP 404)" not in error.message:
            raise
        raise NoArchiveError(
            f"upstream has no archive for `{tag}`: `{shown_url(url)}` is not there",
            hint="not every build is published: see the releases page of llama.cpp",
        ) from error


def _collect(unpacked: Path, into: Path) -> Path:
    found = sorted(p for p in unpacked.rglob("llama-server") if p.is_file())
    if not found:
        raise SourceError("the archive contains no `llama-server`")
    copy_server(found[0], into, copy)
    return into / SERVER
