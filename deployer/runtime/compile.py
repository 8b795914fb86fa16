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
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .volume import Volume, about, is_complete, room, sha256_of

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
    """What it must change."""
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
    run = Runner(volume.folder / "ccache")
    fetch_source(wanted.source, tree, run)
    for patch in wanted.patches:
        apply_patch(patch, tree, run)
    made = work / "build"
    definitions = [f"-D{definition}" for definition in wanted.definitions]
    configure = ["cmake", "-S", str(tree), "-B", str(made), "-G", "Ninja"]
    run([*configure, *definitions], work)
    compile_all = ["cmake", "--build", str(made), "--parallel", str(wanted.cores)]
    run([*compile_all, "--target", "llama-server"], work)
    # What it says of itself; it also proves that it starts.
    said = run([str(made / "bin" / "llama-server"), "--version"], made / "bin")
    version = next(it for it in said.splitlines() if it.startswith("version:"))
    with room():
        publish(made / "bin", tree / "models" / "templates", target, volume, version)
    shutil.rmtree(work)
    return about(target)


def fetch_source(source: GitSource | IndexSource, tree: Path, run: "Runner") -> None:
    """Fill the folder with exactly the pinned source."""
    if isinstance(source, IndexSource):
        unpack_archive(source, tree)
        # A repository of its own: else `git apply` may take it for a part of another.
        shutil.rmtree(tree / ".git", ignore_errors=True)
        run(["git", "init", "--quiet"], tree)
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
    roots = sorted(unpacked.rglob("llama.cpp"), key=lambda path: len(path.parts))
    root = next(path for path in roots if (path / "CMakeLists.txt").is_file())
    tree.rmdir()
    root.rename(tree)


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
    links = re.finditer(r"Found link (\S+?)(?:,? \(from |, version: )", asked.stdout)
    address = next((it[1] for it in links if source.archive in it[1]), None)
    if address is None:
        raise RuntimeError(
            f"no {source.archive} of {source.name} {source.version} is there:\n"
            + asked.stdout[-2000:]
        )
    return address


def apply_patch(patch: Patch, tree: Path, run: "Runner") -> None:
    """Apply a patch without fuzz, and prove that it is in."""
    text = "".join(patch.lines).encode()
    if hashlib.sha256(text).hexdigest() != patch.sha256:
        raise RuntimeError(f"patch {patch.name} is not what was locked")
    file = tree.parent / f"{patch.name}.patch"
    file.write_bytes(text)
    before = [content(tree / name) for name in patch.files]
    run(["git", "apply", "--whitespace=nowarn", "-p1", str(file)], tree)
    after = [content(tree / name) for name in patch.files]
    # `git apply` may skip a file and still end well.
    for name, old, new in zip(patch.files, before, after, strict=True):
        if old == new:
            raise RuntimeError(f"patch {patch.name} left {name} unchanged")
    if patch.marker is not None:
        files, wanted = patch.marker
        found = (path for path in tree.glob(files) if path.is_file())
        texts = (path.read_text(errors="replace") for path in found)
        if not any(re.search(wanted, text, re.MULTILINE) for text in texts):
            raise RuntimeError(f"patch {patch.name} is in, and its marker is not")
    print(f"patch {patch.name} is in", flush=True)


def content(path: Path) -> bytes | None:
    """Return what a file holds; None where there is none."""
    return path.read_bytes() if path.is_file() else None


def publish(
    binaries: Path, templates: Path, target: Path, volume: Volume, version: str
) -> None:
    """Copy what was made to the volume; the file that makes it count comes last."""
    # Another container may have finished the same build: its files are in use then.
    volume.reload()
    if is_complete(target):
        return
    (target / "bin").mkdir(parents=True, exist_ok=True)
    for file in [binaries / "llama-server", *sorted(binaries.glob("lib*.so*"))]:
        shutil.copy(file, target / "bin" / file.name)
    if templates.is_dir():
        (target / "templates").mkdir(exist_ok=True)
        for file in sorted(templates.glob("*.jinja")):
            shutil.copy(file, target / "templates" / file.name)
    volume.complete(target, version)


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
            # The source alone decides: no settings of git, and no question.
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_TERMINAL_PROMPT": "0",
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
