"""Everything that a stack is read from: if any of it changes, it is read anew.

Absence counts: a repository, a project file or a lock that appears may mean another
plan, and so may a program that a gate names and that was not there before.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

from deployer.answers import inputs as ways
from deployer.answers.inputs import Input
from deployer.app.settings import Settings, patches_folder
from deployer.core.facts import HEADER, Facts
from deployer.core.gate_files import files_of
from deployer.core.model import Stack
from deployer.core.resources import Graph, Kind
from deployer.engines import machine_inputs
from deployer.load.roots import PROJECT_FILE, root_of
from deployer.load.stack import Loaded
from deployer.lockfile import lock_path


def stack_inputs(
    loaded: Loaded, stack_file: Path, settings: Settings, facts: Facts, graph: Graph
) -> tuple[Input, ...] | None:
    """What a stack was read, checked and resolved from; None for too much to look at.

    That is a source tree, which has too many files.
    """
    stack, folder = loaded.stack, stack_file.parent
    if stack.llama_cpp.source == "path":
        return None
    found = (
        *_both(ways.TEXT, (*loaded.sources, lock_path(stack_file))),
        *_both(ways.TEXT, _patch_files(stack, stack_file)),
        *_both(ways.TEXT, _named_template(stack, folder)),
        *_both(ways.STAMP, _artefacts(stack, folder)),
        *_libraries(stack, folder),
        *_gate_files(stack, folder),
        *_around(stack_file),
        *_weights_in_store(facts, graph, settings),
        *_machine(stack, settings),
    )
    return tuple(dict.fromkeys(found))


def _both(how: str, files: Iterable[Path]) -> Iterator[Input]:
    """What a file is, and where it really lies: a link may lead elsewhere."""
    for file in files:
        yield how, str(file)
        yield ways.REAL, str(file)


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
    if (repo := stack.llama_cpp.repo or "").startswith("file://"):
        yield folder / repo.removeprefix("file://")
    if stack.model.path is not None:
        from deployer.sources.paths import parts_of  # noqa: PLC0415 - few lie here

        yield from parts_of(folder / stack.model.path)
        if stack.model.mmproj is not None:
            yield folder / stack.model.mmproj
    for warmup in (stack.snapshot and stack.snapshot.warmup) or ():
        if warmup.image is not None:
            yield folder / warmup.image


def _libraries(stack: Stack, folder: Path) -> Iterator[Input]:
    """Beside a llama-server of the user lie the libraries that it loads."""
    if stack.llama_cpp.binary is not None:
        program = (folder / stack.llama_cpp.binary).resolve()
        yield ways.LIBRARIES, str(program.parent)


def _gate_files(stack: Stack, folder: Path) -> Iterator[Input]:
    """Files that gates name, there or not; a word of a command may become one."""
    for it in files_of(stack.gates):
        if it.certain or not Path(it.name).is_absolute():  # programs of the system
            yield from _both(ways.STAMP, (folder / it.name,))


def _around(stack_file: Path) -> Iterator[Input]:
    """What decides which folder the project is, and where its parts are."""
    root = root_of(stack_file)
    for folder in stack_file.resolve().parents:
        yield ways.KIND, str(folder / ".git")
        yield ways.KIND, str(folder / PROJECT_FILE)
        if folder == root and (root / ".git").exists():
            break
    yield ways.REAL, str(stack_file)
    for folder in stack_file.absolute().parents:
        yield ways.KIND, str(folder / "patches")


def _weights_in_store(
    facts: Facts, graph: Graph, settings: Settings
) -> Iterator[Input]:
    """Weights whose header the lock file lacks are read once they have arrived.

    That they are not there yet is no stamp: this very run writes to the folders above.
    """
    if facts.weights.about.get(HEADER) is not None:
        return
    for node in graph.values():
        if node.kind is Kind.WEIGHTS:
            entry = settings.home / "weights" / node.key
            yield ways.KIND, str(entry / "manifest.json")
            files = entry.iterdir() if entry.is_dir() else ()
            yield from ((ways.STAMP, str(file)) for file in sorted(files))


def _machine(stack: Stack, settings: Settings) -> Iterator[Input]:
    """What of this machine decides: its memory, and whether it takes snapshots."""
    yield ways.MEMORY, ways.CGROUP
    if stack.snapshot is not None:
        yield from machine_inputs(stack.engine, settings.environment)
