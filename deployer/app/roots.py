"""Which stacks use an artefact: the states that keep the store from being cleared.

Stacks live in many projects, the store is one; so every run that makes something
leaves the place of its state beside the store.  A state that is gone frees what it
used; one that cannot be read keeps everything.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from deployer.app.settings import Settings
from deployer.core.resources import Kind
from deployer.core.state import Record, State
from deployer.errors import StateError, UsageError
from deployer.state import StateStore
from deployer.state.places import StatePlace, place_at, store_at

_FOLDER = "roots"


def register(settings: Settings, place: StatePlace, stack: str) -> None:
    """Remember where the state of a stack lies; before anything is made for it."""
    folder = settings.home / _FOLDER
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    url = _url(place)
    name = _named(url, stack)
    content = json.dumps({"url": url, "stack": stack})
    new = folder / f".{name}.new"
    new.write_text(content, encoding="utf-8")
    new.replace(folder / name)


def users(settings: Settings) -> Mapping[str, tuple[str, ...]]:
    """The stacks that need each artefact, by its key.

    Needed is what a state names as live, kept for a rollback, or on its way.
    Raises StateError for a state or a root that cannot be read.
    """
    found: dict[str, set[str]] = {}
    for _, states in _registered(settings.home / _FOLDER):
        state = states.read()
        for record in _records(state) if state is not None else ():
            found.setdefault(record.key, set()).add(states.stack)
    return {key: tuple(sorted(stacks)) for key, stacks in found.items()}


def only_used_by(
    settings: Settings, place: StatePlace, stack: str, kind: Kind
) -> frozenset[str]:
    """The keys of one kind that the state of a stack names, and no other one does."""
    here = _named(_url(place), stack)
    mine: set[str] = set()
    others: set[str] = set()
    for name, known in _registered(settings.home / _FOLDER):
        state = known.read()
        found = mine if name == here else others
        records = () if state is None else _records(state)
        found.update(record.key for record in records if record.kind is kind)
    return frozenset(mine - others)


def _url(place: StatePlace) -> str:
    """A place that means the same from every folder of this machine."""
    here = place.scheme == "file"
    where = str(Path(place.where).absolute()) if here else place.where
    return replace(place, where=where).url


def _named(url: str, stack: str) -> str:
    found = hashlib.sha256(f"{url}\n{stack}".encode()).hexdigest()
    return f"{found[:24]}.json"


def _registered(folder: Path) -> Iterator[tuple[str, StateStore]]:
    for file in sorted(folder.glob("*.json")):
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            place, stack = place_at(content["url"]), str(content["stack"])
        except (OSError, ValueError, KeyError, TypeError, UsageError) as error:
            raise StateError(
                f"`{file}` does not name a state", hint=f"remove it: `rm {file}`"
            ) from error
        yield file.name, store_at(place, stack, stack_file=Path(stack))


def _records(state: State) -> Iterator[Record]:
    yield from state.live.values()
    yield from state.made.values()
    yield from (loose.record for loose in state.loose)
    for release in (*state.releases, state.promoting):
        if release is not None:
            yield from release.records.values()
