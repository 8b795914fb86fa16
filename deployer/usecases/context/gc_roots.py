"""Which stacks use an artefact: the states that keep the store from being cleared.

Stacks live in many projects, the store is one; so every run that makes something
leaves the place of its state beside the store.  What a state needs that cannot be
read, or that is not there, is unknown: nothing is taken for unused then, until the
user says that the state is gone for good.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from deployer.errors import DeployerError, UsageError
from deployer.planning.resources import Kind
from deployer.planning.state import Record, State
from deployer.state import StateStore
from deployer.state.places import StatePlace, place_at, store_at
from deployer.usecases.context.settings import Settings

_FOLDER = "roots"


@dataclass(frozen=True, slots=True)
class Unreachable:
    """A state that cannot be read, so that what it needs is unknown."""

    stack: str
    """Empty where even that is not known."""
    place: str
    """Where it lies, as `forget` takes it."""
    why: str


@dataclass(frozen=True, slots=True)
class Users:
    """Who needs what lies in the store."""

    of: Mapping[str, tuple[str, ...]]
    """The stacks that need an artefact or a server, by its key."""
    unreachable: tuple[Unreachable, ...]
    """The states whose needs are unknown."""


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


def users(settings: Settings) -> Users:
    """Read every registered state.

    Needed is what a state names as live, retained for a rollback, or on its way.
    """
    found: dict[str, set[str]] = {}
    unreachable: list[Unreachable] = []
    for file in _files(settings):
        match _read(file):
            case Unreachable() as lost:
                unreachable.append(lost)
            case state:
                for record in _records(state):
                    found.setdefault(record.key, set()).add(state.stack)
    needed = {key: tuple(sorted(stacks)) for key, stacks in found.items()}
    return Users(needed, tuple(unreachable))


def only_used_by(
    settings: Settings, place: StatePlace, stack: str, kind: Kind
) -> frozenset[str]:
    """The keys of one kind that the state of a stack names, and no other one does.

    None while another state cannot be read.
    """
    here = _named(_url(place), stack)
    mine: set[str] = set()
    others: set[str] = set()
    for file in _files(settings):
        state = _read(file)
        if isinstance(state, Unreachable):
            return frozenset()
        found = mine if file.name == here else others
        found.update(it.key for it in _records(state) if it.kind is kind)
    return frozenset(mine - others)


def forget(settings: Settings, place: str) -> tuple[str, ...]:
    """Forget the unreachable states at or below a place; returns their places.

    Raises UsageError where there is none: one that can be read is not forgotten.
    """
    lost = {file: found for file in _files(settings) if (found := _lost(_read(file)))}
    gone = {file: it for file, it in lost.items() if _is_at(it.place, place)}
    if not gone:
        known = ", ".join(f"`{it.place}`" for it in lost.values()) or "none"
        raise UsageError(
            f"`{place}` names no state that cannot be read",
            hint=f"those that cannot be read: {known}",
        )
    for file in gone:
        file.unlink(missing_ok=True)
    return tuple(it.place for it in gone.values())


def _lost(found: State | Unreachable) -> Unreachable | None:
    return found if isinstance(found, Unreachable) else None


def _is_at(place: str, wanted: str) -> bool:
    """Return whether a place is what was named, or lies in the folder that was."""
    if place == wanted.rstrip("/"):
        return True
    return "://" not in place and Path(place).is_relative_to(Path(wanted).absolute())


def _url(place: StatePlace) -> str:
    """A place that means the same from every folder of this machine."""
    here = place.scheme == "file"
    where = str(Path(place.where).absolute()) if here else place.where
    return replace(place, where=where).url


def _named(url: str, stack: str) -> str:
    found = hashlib.sha256(f"{url}\n{stack}".encode()).hexdigest()
    return f"{found[:24]}.json"


def _files(settings: Settings) -> tuple[Path, ...]:
    return tuple(sorted((settings.home / _FOLDER).glob("*.json")))


def _read(file: Path) -> State | Unreachable:
    """The state that a root names, or why it cannot be read."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        place, stack = place_at(content["url"]), str(content["stack"])
    except (OSError, ValueError, KeyError, TypeError, UsageError):
        return Unreachable("", str(file), "it does not name a state")
    where = place.where if place.scheme == "file" else place.url
    try:
        states = store_at(place, stack, stack_file=Path(stack))
        state = states.read()
    except (DeployerError, OSError) as error:
        return Unreachable(stack, where, str(error))
    if state is None:
        return Unreachable(stack, where, _why_absent(place, states))
    return state


def _why_absent(place: StatePlace, states: StateStore) -> str:
    if place.scheme != "file":
        return f"there is no state at `{states.place}`"
    folder = Path(place.where)
    gone = next(
        (it for it in (*reversed(folder.parents), folder) if not it.exists()), None
    )
    return f"`{gone or states.place}` is gone, or not mounted"


def _records(state: State) -> Iterator[Record]:
    yield from state.live.values()
    yield from state.made.values()
    yield from (loose.record for loose in state.loose)
    for release in (*state.releases, state.promoting):
        if release is not None:
            yield from release.records.values()
