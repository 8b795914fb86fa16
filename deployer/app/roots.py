"""Which stacks use an artefact: the states that keep the store from being cleared.

Stacks live in many projects, the store is one; so every run that makes something
leaves the place of its state beside the store.  A state that is gone frees what it
used; one that cannot be read keeps everything.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from deployer.app.settings import Settings
from deployer.core.resources import Kind
from deployer.core.state import Record, State
from deployer.errors import StateError
from deployer.state.files import FileStateStore

_FOLDER = "roots"


def register(settings: Settings, states: FileStateStore) -> None:
    """Remember where the state of a stack lies; before anything is made for it."""
    folder = settings.home / _FOLDER
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    place = str(states.folder.absolute())
    name = hashlib.sha256(f"{place}\n{states.stack}".encode()).hexdigest()[:24]
    content = json.dumps({"folder": place, "stack": states.stack})
    new = folder / f".{name}.new"
    new.write_text(content, encoding="utf-8")
    new.replace(folder / f"{name}.json")


def users(settings: Settings) -> Mapping[str, tuple[str, ...]]:
    """The stacks that need each artefact, by its key.

    Needed is what a state names as live, kept for a rollback, or on its way.
    Raises StateError for a state or a root that cannot be read.
    """
    found: dict[str, set[str]] = {}
    for states in _registered(settings.home / _FOLDER):
        state = states.read()
        for record in _records(state) if state is not None else ():
            found.setdefault(record.key, set()).add(states.stack)
    return {key: tuple(sorted(stacks)) for key, stacks in found.items()}


def only_used_by(
    settings: Settings, states: FileStateStore, kind: Kind
) -> frozenset[str]:
    """The keys of one kind that the state of a stack names, and no other one does."""
    here = (states.folder.absolute(), states.stack)
    mine: set[str] = set()
    others: set[str] = set()
    for known in _registered(settings.home / _FOLDER):
        state = known.read()
        found = mine if (known.folder, known.stack) == here else others
        records = () if state is None else _records(state)
        found.update(record.key for record in records if record.kind is kind)
    return frozenset(mine - others)


def _registered(folder: Path) -> Iterator[FileStateStore]:
    for file in sorted(folder.glob("*.json")):
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            states = FileStateStore(Path(content["folder"]), str(content["stack"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StateError(
                f"`{file}` does not name a state", hint=f"remove it: `rm {file}`"
            ) from error
        if states.path.exists() or states.backup.exists():
            yield states


def _records(state: State) -> Iterator[Record]:
    yield from state.live.values()
    yield from state.made.values()
    yield from (loose.record for loose in state.loose)
    for release in (*state.releases, state.promoting):
        if release is not None:
            yield from release.records.values()
