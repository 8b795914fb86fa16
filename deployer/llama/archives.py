"""Unpacking tar archives: nothing lands outside, nothing special is made."""

import shutil
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from deployer.core.progress import Progress, Watch
from deployer.errors import SourceError
from deployer.sources.space import ensure_room, writing

_REFUSED = "do not use this archive; tell whoever publishes it"
_BLOCK = 1024 * 1024


def unpack_tar(archive: Path, into: Path, progress: Watch) -> None:
    """Unpack ``archive`` into the folder ``into``, keeping executable bits.

    Raises SourceError, before anything is written, where a member would land outside
    the folder, points outside of it, or is neither file, folder nor symbolic link.
    """
    try:
        with tarfile.open(archive) as tar:
            members = tar.getmembers()
            for member in members:
                _refuse(archive, member)
            total = sum(member.size for member in members)
            ensure_room(into, total, purpose=archive.name)
            with writing(into, purpose=archive.name, needed=total):
                _extract(tar, members, into)
            progress(Progress(f"unpacking {archive.name}", total, total))
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise SourceError(f"`{archive.name}` is damaged: {error}") from error


def refuse_links_outside(tree: Path) -> None:
    """Raise SourceError where a symbolic link below ``tree`` leaves it."""
    root = tree.resolve()
    for path in tree.rglob("*"):
        if path.is_symlink() and not path.resolve().is_relative_to(root):
            raise SourceError(
                f"`{path.relative_to(tree)}` is a symbolic link that leaves the source",
                hint="replace it by what it points to",
            )


def _refuse(archive: Path, member: tarfile.TarInfo) -> None:
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts or "\\" in member.name:
        raise SourceError(
            f"`{archive.name}` would write outside its folder: `{member.name}`",
            hint=_REFUSED,
        )
    if member.issym():
        if not _stays(path.parent, member.linkname):
            raise SourceError(
                f"`{archive.name}` has a link that leaves it: `{member.name}`",
                hint=_REFUSED,
            )
    elif not (member.isfile() or member.isdir()):
        raise SourceError(
            f"`{archive.name}` has `{member.name}`, which is not a plain file",
            hint=_REFUSED,
        )


def _stays(folder: PurePosixPath, target: str) -> bool:
    """Whether a link in ``folder`` points below the root, judged by names alone."""
    if PurePosixPath(target).is_absolute():
        return False
    depth = len(folder.parts)
    for part in PurePosixPath(target).parts:
        depth += -1 if part == ".." else 1
        if depth < 0:
            return False
    return True


def _extract(tar: tarfile.TarFile, members: list[tarfile.TarInfo], into: Path) -> None:
    """Files first: no link is there yet that a file could be written through."""
    for member in members:
        target = into / member.name
        if member.isdir():
            target.mkdir(parents=True, exist_ok=True)
        elif member.isfile():
            _write(tar, member, target)
    for member in _links(members):
        target = into / member.name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        target.symlink_to(member.linkname)
    refuse_links_outside(into)


def _links(members: list[tarfile.TarInfo]) -> Iterator[tarfile.TarInfo]:
    return (member for member in members if member.issym())


def _write(tar: tarfile.TarFile, member: tarfile.TarInfo, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    source = tar.extractfile(member)
    if source is None:
        raise SourceError(f"`{member.name}` cannot be read from the archive")
    with source, target.open("wb") as stream:
        shutil.copyfileobj(source, stream, _BLOCK)
    target.chmod(0o755 if member.mode & 0o100 else 0o644)
