"""The stacks that a command is about, by the paths that were named, and their states.

An object store answers after some tens of milliseconds, so a plan of a thousand stacks
would wait for most of a minute: states far away are read side by side.
"""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from deployer.errors import DeployerError, UsageError
from deployer.planning.state import State
from deployer.stack.project_root import PROJECT_FILE, leads_out
from deployer.state import StateStore
from deployer.system.files import read_regular
from deployer.usecases.context.settings import Settings

if TYPE_CHECKING:
    from concurrent.futures import Executor, Future


_YAML = (".yaml", ".yml")
_NAMED = (".deployer.yaml", ".deployer.yml")
"""Ends of names that say by themselves that a file is a stack."""
_FOLDER = "stacks"
_NAME = re.compile(
    r"^name:[ \t]*[\"']?([a-z][a-z0-9-]*)[\"']?[ \t]*(#.*)?$", re.MULTILINE
)


class Subject(NamedTuple):
    """A stack to plan."""

    file: Path
    gone: str | None = None
    """Name of a stack that the file no longer asks for; None: plan the file."""
    note: str = ""
    """The file that could not be read."""


def stack_files(paths: Sequence[Path]) -> tuple[Path, ...]:
    """The stack files among the paths; a folder stands for the stacks in it.

    A nameless file of a folder that others there extend is a base, no stack.
    """
    found: list[Path] = []
    for path in paths:
        files = yaml_files(path) if path.is_dir() else (path,)
        bases = _bases(files) if path.is_dir() else set()
        found += [file for file in files if file not in bases]
    return tuple(dict.fromkeys(found))


def recognised(folder: Path) -> tuple[Path, ...]:
    """Return the stacks where none is named: `stacks`, and every `*.deployer.yaml`.

    Hidden folders are left out.  Raises UsageError where there is neither.
    """
    named: list[Path] = []
    for place, below, files in os.walk(folder):
        below[:] = sorted(name for name in below if not name.startswith("."))
        named += [Path(place, name) for name in sorted(files) if name.endswith(_NAMED)]
    stacks = (folder / _FOLDER,) if (folder / _FOLDER).is_dir() else ()
    bases = _bases(named)
    if not stacks and not named:
        raise UsageError(
            "there is no folder `stacks` here, and no `*.deployer.yaml`",
            hint="name the stack files; `deployer init` writes one",
        )
    return (*stacks, *(file for file in named if file not in bases))


def yaml_files(folder: Path) -> tuple[Path, ...]:
    """The YAML files right in a folder, by name; none where it is no folder.

    Hidden ones are other tools', and `deployer.yaml` is the project's.
    """
    if not folder.is_dir():
        return ()
    files = (file for file in folder.iterdir() if file.suffix in _YAML)
    ours = (f for f in files if f.name != PROJECT_FILE and not f.name.startswith("."))
    return tuple(sorted(ours))


def name_in(text: str) -> str | None:
    """The name in the text of a stack, even of one with mistakes elsewhere."""
    found = _NAME.search(text)
    return found[1] if found else None


def text_of(file: Path) -> str:
    """The text of a file; empty where it cannot be read, or is a link out of here."""
    try:
        if leads_out(file):
            return ""
        return read_regular(file).decode("utf-8")
    except (OSError, UnicodeDecodeError):
        return ""


def _bases(files: Sequence[Path]) -> set[Path]:
    """The files without a name that one of the others extends."""
    nameless = {file for file in files if name_in(text_of(file)) is None}
    if not nameless:
        return set()
    from deployer.stack.yaml12 import read_layers  # noqa: PLC0415 - rarely needed

    others = [file for file in files if file not in nameless]
    extended = {
        os.path.realpath(s) for file in others for s in read_layers(file).sources[1:]
    }
    return {file for file in nameless if os.path.realpath(file) in extended}


AT_ONCE = 16
"""Requests on their way at the same time."""


@contextmanager
def concurrent_states(
    subjects: Sequence[Subject], settings: Settings
) -> Iterator[Settings]:
    """Yield settings under which the states of these stacks are on their way.

    They are what they were when this began: for plans, never for an apply.
    """
    far = [it for it in subjects if _is_far(it, settings)]
    if len(far) < 2:
        yield settings
        return
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415 - for many only

    with ThreadPoolExecutor(AT_ONCE) as pool:
        names = ((it, it.gone or name_in(text_of(it.file))) for it in far)
        stores = [settings.states(it.file, name) for it, name in names if name]
        try:
            yield replace(settings, coming=begin_reading(stores, pool))
        finally:
            pool.shutdown(cancel_futures=True)


def _is_far(subject: Subject, settings: Settings) -> bool:
    """Return whether a state is in a bucket; errors are reported in their turn."""
    with suppress(DeployerError):
        return settings.state_place(subject.file).scheme != "file"
    return False


def begin_reading(
    stores: Sequence[StateStore], pool: "Executor"
) -> "dict[str, Future[State | None]]":
    """Ask for the state of every store; returns what comes, by the store's place."""
    return {store.place: pool.submit(store.read) for store in stores}
