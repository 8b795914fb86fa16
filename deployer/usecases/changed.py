"""Which stacks changed since a revision, for the plan of a pull request.

A stack changed when what it resolves to did: the values of the file laid over its
bases, its lock file, its patches, or another file it names.  Comments and order do
not count.  A stack of the revision that no file asks for any more is gone: the plan
of it removes what is live.
"""

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import NamedTuple

from deployer.artefacts import lock_file
from deployer.engines.registry import UNRECORDED
from deployer.planning.plan import Drift, make_plan
from deployer.planning.state import State
from deployer.stack.fields.values import JsonValue
from deployer.stack.files import named_in
from deployer.stack.yaml12 import plain, read_layers
from deployer.usecases.context.git import base_of
from deployer.usecases.context.hosts import elsewhere, reconciled
from deployer.usecases.context.settings import Settings
from deployer.usecases.context.stack_files import (
    Subject,
    name_in,
    stack_files,
    text_of,
    yaml_files,
)
from deployer.usecases.plan import Planned
from deployer.usecases.reading.inputs import patch_files
from deployer.usecases.reading.prepared import Prepared

_LONGEST_NAME = 255
"""Characters; a longer text names no file."""


class Selection(NamedTuple):
    """The stacks that changed, and those that did not."""

    subjects: tuple[Subject, ...]
    unchanged: tuple[Path, ...]


def changed_since(paths: Sequence[Path], revision: str) -> Selection:
    """The stacks among the paths that changed; UsageError where git cannot say."""
    base = base_of(_existing(paths[0]), revision)
    root = base.root.resolve()
    changed = {os.path.realpath(place) for place in base.changed}
    # A folder that a stack names changed where a file in it did.
    touched = frozenset(
        changed | {str(up) for it in changed for up in Path(it).parents}
    )
    files = stack_files(paths)
    with tempfile.TemporaryDirectory(prefix="deployer-base-") as folder:
        then = Path(os.path.realpath(folder))
        base.export([f for f in base.files() if f.suffix in (".yaml", ".yml")], then)
        (then / ".git").touch()  # the root that bases may not lie outside of
        gone = tuple(_gone(paths, root, then))
        removed = {subject.file for subject in gone}
        found: list[Subject] = []
        unchanged: list[Path] = []
        for file in files:
            if not file.exists():
                found += [Subject(file)] if file not in removed else []
            elif (subject := _compared(file, touched, root, then)) is not None:
                found.append(subject)
            else:
                unchanged.append(file)
    subjects = (*gone, *found)
    if base.note and subjects:
        first = subjects[0]._replace(note=subjects[0].note or base.note)
        subjects = (first, *subjects[1:])
    return Selection(subjects, tuple(unchanged))


def plan_gone(
    subject: Subject, settings: Settings, *, without_state: bool = False
) -> Planned:
    """A plan that removes what is live of a stack that nothing asks for."""
    name = subject.gone or ""
    found = None if without_state else settings.state(subject.file, name)
    state = found or State(name, UNRECORDED, lineage="")
    drift: tuple[Drift, ...] = ()
    if not without_state and not elsewhere(state, settings, subject.file):
        state, drift = reconciled(state, settings, subject.file, {}, thoroughly=False)
    made = make_plan({}, state, drift=drift)
    note = f"no file asks for `{name}` any more"
    if without_state:
        note += ": what is live of it would be destroyed, and was not looked at"
    elif made.is_empty:
        note += "; nothing live of it is recorded here"
    prepared = Prepared(name, state.engine, {}, {}, ())
    return Planned(made, prepared, state, None, (note,), without_state)


def _compared(
    file: Path, touched: frozenset[str], root: Path, then: Path
) -> Subject | None:
    """The subject of a stack that changed; None for one that did not."""
    layers = read_layers(file)
    if layers.tree is None or layers.problems:
        return Subject(file)  # planning it tells what is wrong
    values = plain(layers.tree)
    beside = {os.path.realpath(path) for path in _beside(file, values)}
    if any(path in beside or _below(path, beside) for path in touched):
        return Subject(file)
    if not touched.intersection(os.path.realpath(source) for source in layers.sources):
        return None
    before = then / Path(os.path.realpath(file)).relative_to(root)
    if not before.exists():
        return Subject(file)
    old = read_layers(before)
    if old.tree is None or old.problems:
        note = (
            f"{file}: the base revision of it cannot be read, so it counts as changed"
        )
        return Subject(file, note=note)
    return None if plain(old.tree) == values else Subject(file)


def _below(path: str, folders: AbstractSet[str]) -> bool:
    return any(path.startswith(f"{folder}{os.sep}") for folder in folders)


def _beside(file: Path, values: JsonValue) -> Iterator[Path]:
    """Yield the files besides its layers that decide what a stack resolves to."""
    yield lock_file.lock_path(file)
    match values:
        case {"llama_cpp": {"patches": [*names]}}:
            yield from patch_files(file, (it for it in names if isinstance(it, str)))
        case _:
            pass
    for it in named_in(values):
        if it.name and "\0" not in it.name and len(it.name) <= _LONGEST_NAME:
            yield file.parent / it.name


def _gone(paths: Sequence[Path], root: Path, then: Path) -> Iterator[Subject]:
    """Stacks of the revision whose name no file of their folder has any more."""
    for path in paths:
        place = then / Path(os.path.realpath(path)).relative_to(root)
        known = yaml_files(place) or ((place,) if place.is_file() else ())
        folder = path if path.is_dir() or place.is_dir() else path.parent
        names = _names(folder)
        for file in known:
            name = name_in(text_of(file))
            if name is not None and name not in names:
                yield Subject(folder / file.name, gone=name)


def _names(folder: Path) -> Mapping[str, Path]:
    found = ((name_in(text_of(file)), file) for file in yaml_files(folder))
    return {name: file for name, file in found if name is not None}


def _existing(path: Path) -> Path:
    """The nearest folder that is there."""
    folder = path.absolute()
    while not folder.is_dir():
        folder = folder.parent
    return folder
