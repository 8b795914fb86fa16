"""Everything that a stack is read from: if any of it changes, it is read again.

Absence counts: a repository, a project file or a lock that appears may mean another
plan, and so may a program that a gate names and that was not there before.
"""

import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from stat import S_ISLNK

from deployer.artefacts.lock_file import lock_path
from deployer.engines.registry import machine_inputs
from deployer.planning.facts import HEADER, Facts
from deployer.planning.resources import Graph, Kind
from deployer.stack.fields.model import Stack
from deployer.stack.gate_files import files_of
from deployer.stack.load import Loaded
from deployer.stack.project_root import PROJECT_FILE, root_of
from deployer.stack.repository_addresses import folder_of, places_of
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
    stack, folder = loaded.stack, stack_file.parent
    if around is None or stack.llama_cpp.source == "path":
        return None
    paths = (
        *map(str, (*loaded.sources, lock_path(stack_file))),
        *map(str, _patch_files(stack, stack_file)),
        *map(str, _named_template(stack, folder)),
        *map(str, _artefacts(stack, folder)),
        *map(str, _gate_files(stack, folder)),
        *map(str, _weights_in_store(facts, graph, settings)),
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
    root = root_of(stack_file)
    for folder in Path(os.path.realpath(stack_file)).parents:
        yield str(folder / ".git")
        yield str(folder / PROJECT_FILE)
        if folder == root and (root / ".git").exists():
            break
    for folder in stack_file.absolute().parents:
        yield str(folder / "patches")
    yield str(stack_file)
    yield _MEMORY_LIMIT


def _patch_files(stack: Stack, stack_file: Path) -> Iterator[Path]:
    """Every file of the patches that a stack names."""
    folder = patches_folder(stack_file)
    for name in stack.llama_cpp.patches or ():
        yield folder / name / "patch.yaml"
        yield folder / name / f"{name}.patch"


def _named_template(stack: Stack, folder: Path) -> Iterator[Path]:
    """The chat template of the user's."""
    name = stack.server.chat_template if stack.server is not None else None
    if name is not None and name.endswith(".jinja"):
        yield folder / name


def _artefacts(stack: Stack, folder: Path) -> Iterator[Path]:
    """Files of this machine that the plan depends on."""
    if stack.llama_cpp.binary is not None:
        yield folder / stack.llama_cpp.binary
        # Beside a llama-server of the user lie the libraries that it loads.
        beside = Path(os.path.realpath(folder / stack.llama_cpp.binary)).parent
        yield beside
        yield from sorted(beside.glob("lib*"))
    if (place := folder_of(stack.llama_cpp.repo or "")) is not None:
        yield from places_of(place)
    if stack.model.path is not None:
        from deployer.artefacts.sources.paths import parts_of  # noqa: PLC0415 - few lie here

        yield from parts_of(folder / stack.model.path)
        if stack.model.mmproj is not None:
            yield folder / stack.model.mmproj
    for warmup in (stack.snapshot and stack.snapshot.warmup) or ():
        if warmup.image is not None:
            yield folder / warmup.image


def _gate_files(stack: Stack, folder: Path) -> Iterator[Path]:
    """Files that gates name, there or not; a word of a command may become one."""
    for it in files_of(stack.gates):
        if it.certain or not Path(it.name).is_absolute():  # programs of the system
            yield folder / it.name


def _weights_in_store(facts: Facts, graph: Graph, settings: Settings) -> Iterator[Path]:
    """Weights whose header the lock file lacks are read once they have arrived."""
    if facts.weights.about.get(HEADER) is not None:
        return
    for node in graph.values():
        if node.kind is Kind.WEIGHTS:
            entry = settings.home / "weights" / node.key
            yield entry / "manifest.json"
            yield from sorted(entry.iterdir()) if entry.is_dir() else ()


def _programs(stack: Stack, settings: Settings) -> Iterator[str]:
    """Programs of this machine that decide whether it takes snapshots."""
    if stack.snapshot is not None:
        yield from machine_inputs(stack.engine, settings.environment)
