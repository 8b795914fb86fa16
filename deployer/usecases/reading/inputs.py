"""Every path that a stack was prepared from, as it was when it was read.

Absence counts: a repository, a project file or a lock that appears may mean another
plan, and so may a program that a gate names and that was not there before.
"""

import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from stat import S_ISLNK

from deployer.artefacts import lock_file
from deployer.engines.place import machine_inputs
from deployer.planning.facts import HEADER, Facts
from deployer.planning.resources import Graph, Kind
from deployer.stack import project_root
from deployer.stack.addresses import places_of
from deployer.stack.fields.model import Stack
from deployer.stack.fields.values import HERE, Folder
from deployer.stack.files import named_by
from deployer.stack.load import Loaded
from deployer.usecases.context.settings import Settings, patches_folder
from deployer.usecases.reading.prepared import look

_TICK = 20_000_000
"""Nanoseconds that the clock of a file system may be behind."""
_MEMORY_LIMIT = "/sys/fs/cgroup/memory.max"


def look_around(stack_file: Path) -> Mapping[str, str] | None:
    """Look, before a stack is read, at what decides where its project is.

    None where not all of it may be looked at.
    """
    return _look_at(_around(stack_file))


def look_at_all(
    around: Mapping[str, str] | None,
    loaded: Loaded,
    stack_file: Path,
    settings: Settings,
    facts: Facts,
    graph: Graph,
) -> Mapping[str, str] | None:
    """Look, beside what is ``around``, at every path that a stack was prepared from.

    None where one changed since this run began: what is there now may not be what was
    read.  None, too, for a source tree, which has too many files.
    """
    from deployer.llama import description  # noqa: PLC0415 - not for a known stack

    stack, folder = loaded.stack, stack_file.parent
    if around is None or "path" in stack.llama_cpp.sources:
        return None
    paths = (
        *map(str, (*loaded.sources, lock_file.lock_path(stack_file))),
        *map(str, patch_files(stack_file, stack.llama_cpp.patches or ())),
        *map(str, _named_paths(stack, folder)),
        *map(str, _weights_in_store(facts, graph, settings)),
        str(description.place(settings.home, facts.build)),
        *_programs(stack, settings),
    )
    seen = _look_at(path for path in paths if path not in around)
    latest = settings.begun - _TICK
    if seen is None or any(_changed(Path(path)) >= latest for path in seen):
        return None
    return {**around, **seen}


def _look_at(paths: Iterable[str]) -> Mapping[str, str] | None:
    try:
        return {path: look(path) for path in paths}
    except OSError:
        return None


def _changed(path: Path) -> int:
    """When it changed last, or a link to it; if it is gone, its folder."""
    try:
        link = path.lstat()
        of_link = link.st_ctime_ns if S_ISLNK(link.st_mode) else 0
        return max(path.stat().st_ctime_ns, of_link)
    except (FileNotFoundError, NotADirectoryError):
        return path.parent.stat().st_ctime_ns if path.parent.is_dir() else 0
    except OSError:
        return sys.maxsize


def _around(stack_file: Path) -> Iterator[str]:
    root = project_root.root_of(stack_file)
    for folder in Path(os.path.realpath(stack_file)).parents:
        yield str(folder / ".git")
        yield str(folder / project_root.PROJECT_FILE)
        if folder == root and (root / ".git").exists():
            break
    for folder in stack_file.absolute().parents:
        yield str(folder / "patches")
    yield str(stack_file)
    yield _MEMORY_LIMIT


def patch_files(stack_file: Path, names: Iterable[str]) -> Iterator[Path]:
    """Yield every file of the patches of a stack."""
    folder = patches_folder(stack_file)
    for name in names:
        yield folder / name / "patch.yaml"
        yield folder / name / f"{name}.patch"


def _named_paths(stack: Stack, folder: Path) -> Iterator[Path]:
    """Yield every path that a stack names, there or not, and what belongs to it."""
    for it in named_by(stack):
        repository = it.mark == Folder(scheme=HERE)
        yield from places_of(it.name) if repository else (folder / it.name,)
        if it.served and (folder / it.name).is_dir():
            yield from (folder / it.name).rglob("*")
    if stack.llama_cpp.binary is not None:
        # Beside a llama-server of the user lie the libraries that it loads.
        beside = Path(os.path.realpath(folder / stack.llama_cpp.binary)).parent
        yield beside
        yield from sorted(beside.glob("lib*"))
    if stack.model.path is not None:
        from deployer.artefacts.sources.paths import parts_of  # noqa: PLC0415 - few lie here

        yield from parts_of(folder / stack.model.path)


def _weights_in_store(facts: Facts, graph: Graph, settings: Settings) -> Iterator[Path]:
    """Weights whose header the lock file lacks are read once they have arrived."""
    for node in graph.values():
        pin = facts.by_role.get(node.role)
        if node.kind is Kind.WEIGHTS and pin and pin.about.get(HEADER) is None:
            entry = settings.home / "weights" / node.key
            yield entry / "manifest.json"
            yield from sorted(entry.iterdir()) if entry.is_dir() else ()


def _programs(stack: Stack, settings: Settings) -> Iterator[str]:
    """Programs of this machine that decide whether it takes snapshots."""
    if stack.snapshot is not None:
        yield from machine_inputs(stack.engine, settings.environment)


def gate_files(
    stack: Stack, stack_file: Path, settings: Settings
) -> Mapping[str, Path]:
    """The files that gates name and that are there, by the field of their digest.

    A word of a command is one only where the stack may read it.
    """
    folder, root = stack_file.parent, project_root.root_of(stack_file)
    found = {it.digest: folder / it.name for it in named_by(stack) if it.judged}
    return {
        field: file
        for field, file in found.items()
        if _is_file(file, root, settings.allowed(stack_file))
    }


def _is_file(file: Path, root: Path, allowed: tuple[Path, ...]) -> bool:
    try:
        return project_root.may_read(file, root, allowed) and file.is_file()
    except (OSError, ValueError, RuntimeError):  # a word may be no name of a file
        return False
