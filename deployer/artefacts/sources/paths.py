"""Files of this machine: weights that stay where they are, and a llama-server.

A lock file is committed, so it must not name the folders of one machine.
"""

import hashlib
import json
import os
import platform
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from deployer.artefacts.sources.files import (
    DigestCache,
    File,
    copy,
    sha256_of,
    stamped,
    writing,
)
from deployer.errors import SourceError
from deployer.planning.facts import Pin
from deployer.planning.progress import Watch, unwatched
from deployer.stack.fields.values import JsonValue
from deployer.system.files import open_regular

_SHARD = re.compile(r"(?P<stem>.+)-\d{5}-of-(?P<count>\d{5})\.gguf")
_LIBRARIES = ("lib*.so", "lib*.so.*", "lib*.dylib")

_ELF_MACHINES = {
    3: "i686",
    21: "ppc64le",
    22: "s390x",
    40: "armv7l",
    62: "x86_64",
    183: "aarch64",
    243: "riscv64",
    258: "loongarch64",
}
_MACHO_CPUS = {0x01000007: "x86_64", 0x0100000C: "aarch64"}
_SAME_MACHINE = {"amd64": "x86_64", "arm64": "aarch64"}


@dataclass(frozen=True, slots=True)
class Platform:
    """The system (``Linux``, ``Darwin``) and the processor of this machine."""

    system: str
    machine: str


def this_platform() -> Platform:
    """The platform of this machine."""
    machine = platform.machine().lower()
    return Platform(platform.system(), _SAME_MACHINE.get(machine, machine))


def pin_file(
    path: Path,
    *,
    sha256: str | None,
    mmproj: Path | None,
    cache: DigestCache,
    progress: Watch,
) -> Pin:
    """Pin a GGUF file (all parts of a split one), and its projector if any.

    ``sha256`` is what the first file must have.  Raises SourceError.
    """
    model = parts_of(_gguf(path))
    projector = [] if mmproj is None else [_gguf(mmproj)]
    if mmproj is not None and mmproj.name == path.name:
        raise SourceError(
            f"`{path}` and `{mmproj}` have the same name", hint="rename one of them"
        )
    digests = [_digest(file, cache, progress) for file in (*model, *projector)]
    if sha256 is not None and digests[0] != sha256:
        raise SourceError(
            f"`{path}` is not the pinned file: sha256 is {digests[0]}, "
            f"expected {sha256}",
            hint="correct `sha256`, or put the right file there",
        )
    identity: dict[str, JsonValue] = {"model": list(digests[: len(model)])}
    where: dict[str, JsonValue] = {"model": [str(file) for file in model]}
    about: dict[str, JsonValue] = {
        "model": [file.name for file in model],
        "size": sum(file.stat().st_size for file in (*model, *projector)),
    }
    if mmproj is not None:
        identity["mmproj"] = digests[-1]
        where["mmproj"] = str(mmproj)
        about["mmproj"] = mmproj.name
    return Pin(source="path", identity=identity, where=where, about=about)


def referred(pin: Pin, *, cache: DigestCache, progress: Watch) -> dict[str, File]:
    """The pinned files as `Store.refer` takes them, each one verified.

    Raises SourceError where a file is gone or is not what was pinned.
    """
    files = {}
    for path, expected in _pinned(pin):
        found = _digest(path, cache, progress)
        if found != expected:
            raise SourceError(
                f"`{path}` changed since it was locked: sha256 is {found}, "
                f"locked was {expected}",
                hint="lock again to take the new file, or put the old one back",
            )
        real = os.path.realpath(path)
        file = File(path.stat().st_size, found, external=real)
        files[path.name] = stamped(file, path)
    return files


def pin_binary(
    path: Path, *, here: Platform, cache: DigestCache, progress: Watch
) -> Pin:
    """Pin a llama-server of the user, with the shared libraries beside it.

    Raises SourceError where it is missing, or cannot run ``here``.
    """
    check_binary(path, here=here)
    files = _binary_files(path)
    digest = _binary_digest(files, lambda file: cache.sha256_of(file, progress))
    unique = {Path(os.path.realpath(file)) for file in files.values()}
    return Pin(
        source="path",
        identity={"binary": digest},
        where={"path": str(path)},
        about={
            "binary": Path(os.path.realpath(path)).name,
            "files": len(files),
            "size": sum(file.stat().st_size for file in unique),
        },
    )


def fetch_binary(pin: Pin, into: Path, *, here: Platform) -> Path:
    """Copy the pinned llama-server and its libraries into ``into``.

    A release keeps running, and can be rolled back to, while the user builds the
    next one.  Returns the copied executable.  Raises SourceError where the files
    are not what was pinned.
    """
    path = Path(str(pin.where.get("path")))
    check_binary(path, here=here)
    files = _binary_files(path)
    with writing(into, purpose=path.name):
        for name, file in files.items():
            target = file.readlink() if file.is_symlink() else None
            if target is not None and str(target) in files:
                (into / name).symlink_to(target)
            else:
                copy(Path(os.path.realpath(file)), into / name)
    copied = into / Path(os.path.realpath(path)).name
    found = _binary_digest(
        _binary_files(copied), lambda file: sha256_of(file, unwatched)
    )
    if found != pin.identity.get("binary"):
        raise SourceError(
            f"`{path}` or a library beside it changed since it was locked",
            hint="lock again to take the new build, or put the old one back",
        )
    return copied


def check_binary(path: Path, *, here: Platform) -> None:
    """Raise SourceError where ``path`` is not a program that can run ``here``."""
    if not path.exists():
        raise SourceError(f"`{path}` does not exist", hint="build it, or fix the path")
    if path.is_dir():
        raise SourceError(
            f"`{path}` is a folder, not a program",
            hint=f"name the file, such as `{path / 'llama-server'}`",
        )
    if not path.stat().st_mode & 0o111:
        raise SourceError(f"`{path}` is not executable", hint=f"chmod +x {path}")
    with open_regular(path) as stream:
        head = stream.read(512)
    if head.startswith(b"#!"):
        return  # a script that starts the real one, as some distributions have
    built_for = _built_for(head)
    if not built_for:
        raise SourceError(f"`{path}` is not a program: it begins with {head[:4]!r}")
    if here not in built_for:
        names = ", ".join(f"{p.system} {p.machine}" for p in built_for)
        raise SourceError(
            f"`{path}` is built for {names}; this machine is {here.system} "
            f"{here.machine}",
            hint="use a build for this machine",
        )


def _built_for(head: bytes) -> list[Platform]:
    """The platforms of an executable, from its first bytes; empty if it is none."""
    magic = head[:4]
    if magic == b"\x7fELF" and len(head) >= 20:
        number = int.from_bytes(head[18:20], "little" if head[5] == 1 else "big")
        return [Platform("Linux", _ELF_MACHINES.get(number, f"machine {number}"))]
    if magic == b"\xcf\xfa\xed\xfe":
        return [_macho(int.from_bytes(head[4:8], "little"))]
    if magic == b"\xca\xfe\xba\xbe":
        count = min(int.from_bytes(head[4:8], "big"), 8)
        starts = range(8, 8 + 20 * count, 20)
        return [_macho(int.from_bytes(head[at : at + 4], "big")) for at in starts]
    if magic.startswith(b"MZ"):
        return [Platform("Windows", "x86_64")]
    return []


def _macho(cpu: int) -> Platform:
    return Platform("Darwin", _MACHO_CPUS.get(cpu, f"cpu {cpu:#x}"))


def _gguf(path: Path) -> Path:
    if not path.exists():
        raise SourceError(f"`{path}` does not exist", hint="fix the path")
    if path.is_dir():
        inside = ", ".join(f"`{f.name}`" for f in sorted(path.glob("*.gguf"))[:5])
        raise SourceError(
            f"`{path}` is a folder, not a GGUF file",
            hint=f"name one of its files: {inside}" if inside else "name the file",
        )
    try:
        with open_regular(path) as stream:
            magic = stream.read(4)
    except OSError as error:
        raise SourceError(f"`{path}` cannot be read: {error.strerror}") from error
    if magic != b"GGUF":
        raise SourceError(f"`{path}` is not a GGUF file: it begins with {magic!r}")
    return path


def parts_of(path: Path) -> list[Path]:
    """All files of a split model, in order; of any other just the one."""
    names = named_parts(path)
    return names if len(names) == 1 else [_gguf(name) for name in names]


def named_parts(path: Path) -> list[Path]:
    """The names that the files of a split model have; nothing is read."""
    found = _SHARD.fullmatch(path.name)
    if found is None:
        return [path]
    count = int(found["count"])
    names = [
        f"{found['stem']}-{index:05}-of-{count:05}.gguf"
        for index in range(1, count + 1)
    ]
    return [path.with_name(name) for name in names]


def _pinned(pin: Pin) -> list[tuple[Path, str]]:
    match dict(pin.where), dict(pin.identity):
        case {"model": list(paths), **more}, {"model": list(digests), **others}:
            pairs = list(zip(paths, digests, strict=True))
            if "mmproj" in more:
                pairs.append((more["mmproj"], others.get("mmproj")))
            return [(Path(str(path)), str(digest)) for path, digest in pairs]
        case _:
            raise SourceError("the lock file has a `path` pin that is not one of ours")


def _digest(path: Path, cache: DigestCache, progress: Watch) -> str:
    try:
        return cache.sha256_of(path, progress)
    except OSError as error:
        raise SourceError(f"`{path}` cannot be read: {error.strerror}") from error


def _binary_files(path: Path) -> dict[str, Path]:
    """The executable and the libraries beside it, by name."""
    program = Path(os.path.realpath(path))
    beside = {it.name: it for it in libraries_of(path) if it.is_file()}
    return {**beside, program.name: program}


def libraries_of(program: Path) -> list[Path]:
    """Return what lies beside a program and is named as shared libraries are."""
    folder = Path(os.path.realpath(program)).parent
    return [it for pattern in _LIBRARIES for it in sorted(folder.glob(pattern))]


def _binary_digest(files: Mapping[str, Path], sha256: Callable[[Path], str]) -> str:
    """One digest over names and contents; a link counts as what it leads to."""
    known: dict[Path, str] = {}
    for file in files.values():
        real = Path(os.path.realpath(file))
        if real not in known:
            known[real] = sha256(real)
    listing = {
        name: known[Path(os.path.realpath(file))] for name, file in files.items()
    }
    text = json.dumps(listing, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def relative(pin: Pin, folder: Path) -> Pin:
    """The pin with its paths relative to ``folder``."""
    return _mapped(pin, lambda path: Path(os.path.relpath(path, folder)).as_posix())


def absolute(pin: Pin, folder: Path) -> Pin:
    """The pin with its paths below ``folder``; absolute ones stay."""
    return _mapped(pin, lambda path: str((folder / path).absolute()))


def _mapped(pin: Pin, change: Callable[[str], str]) -> Pin:
    def each(value: JsonValue) -> JsonValue:
        match value:
            case str():
                return change(value)
            case list():
                return [each(item) for item in value]
            case _:
                return value

    return replace(pin, where={name: each(value) for name, value in pin.where.items()})
