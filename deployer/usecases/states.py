"""States as things to look at, to carry elsewhere and to mend."""

from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from deployer.errors import DeployerError, StalePlanError, StateError, UsageError
from deployer.planning.state import State
from deployer.state import StateStore
from deployer.state.files import from_json, rescued, to_json
from deployer.state.places import place_at, stacks_at, store_at
from deployer.system.files import guarded, read_regular, replace_file
from deployer.usecases.context.deployed import name_of
from deployer.usecases.context.hosts import elsewhere, taken_over
from deployer.usecases.context.settings import Settings


@dataclass(frozen=True, slots=True)
class Version:
    """One version of a state that is kept."""

    serial: int
    release: int
    """The newest release it knows of; 0 for none."""
    whole: bool
    """It can be read."""


def states_in(folder: Path, settings: Settings) -> tuple[str, ...]:
    """The stacks of a folder that have a state."""
    return stacks_at(settings.state_place(folder / "stack.yaml"))


def store_of(stack_file: Path, settings: Settings) -> StateStore:
    """Where the state of a stack is kept."""
    return settings.states(stack_file, name_of(stack_file, settings))


def pull(stack_file: Path, settings: Settings, serial: int | None) -> State:
    """The stored state, or a kept version of it; raises UsageError for neither."""
    store = store_of(stack_file, settings)
    if serial is not None and serial in store.serials():
        return store.kept(serial)
    found = store.read()
    if found is None:
        raise UsageError(
            f"stack `{store.stack}` has no state in `{store.place}`",
            hint=f"run `deployer apply {stack_file}`",
        )
    if serial not in (None, found.serial):
        kept = ", ".join(map(str, (*store.serials(), found.serial)))
        raise UsageError(f"serial {serial} is not retained", hint=f"retained: {kept}")
    return found


def write_copy(out: Path, state: State) -> None:
    """Write a state into a file; raises UsageError where that fails."""
    try:
        with guarded(out.parent):
            replace_file(out, to_json(state).encode())
    except OSError as error:
        raise UsageError(f"cannot write `{out}`: {error.strerror}") from error


def push(stack_file: Path, settings: Settings, file: Path, *, force: bool) -> State:
    """Store the state in a file; returns what is stored then.

    Raises StalePlanError for another lineage, an older serial, or the same serial
    with another content.  With ``force`` what is in the file becomes the next version
    of what is stored, which stays in the history.
    """
    try:
        new = from_json(read_regular(file), str(file))
    except OSError as error:
        raise UsageError(f"cannot read `{file}`: {error.strerror}") from error
    store = store_of(stack_file, settings)
    if new.stack != store.stack:
        raise UsageError(
            f"`{file}` is the state of `{new.stack}`, not of `{store.stack}`"
        )
    with store.lock(operation="state push"):
        stored = store.read()
        if stored is None or stored == new:
            store.write(new, expect=0)
            return new
        if force:
            new = replace(new, lineage=stored.lineage, serial=stored.serial + 1)
        elif told := _no_successor(stored, new):
            raise StalePlanError(
                told, hint="`--force` stores it as the next version all the same"
            )
        store.write(new, expect=stored.serial)
        return new


def migrate(stack_file: Path, settings: Settings, url: str) -> StateStore:
    """Copy state and history to another place; returns the store there.

    Both are locked meanwhile.  Raises StateError where another state lies there.
    """
    here = store_of(stack_file, settings)
    there = store_at(place_at(url), here.stack, stack_file=stack_file)
    if there.place == here.place:
        raise UsageError(f"the state lies in `{here.place}` already")
    with ExitStack() as locks:
        for store in (here, there):
            locks.enter_context(store.lock(operation="state migrate"))
        state = here.read()
        if state is None:
            raise UsageError(f"there is no state in `{here.place}`")
        lies = there.read()
        if lies is not None:
            _refuse_target(lies, state, there)
        for serial in here.serials():
            _copy(here.kept(serial), there)
        _copy(state, there)
    return there


def take_over(stack_file: Path, settings: Settings, host: str) -> State:
    """Forget what another machine ran, so that this one can deploy the stack.

    Nothing is stopped there.  Raises UsageError unless it is that machine, by its
    name, that the stack runs on.
    """
    store = store_of(stack_file, settings)
    with store.lock(operation="state take-over"):
        stored = store.read()
        found = "" if stored is None else elsewhere(stored, settings, stack_file)
        if stored is None or not found:
            raise UsageError(f"stack `{store.stack}` runs on no other machine")
        if host != found:
            raise UsageError(
                f"stack `{store.stack}` runs on host `{found}`, not on `{host}`",
                hint=f"`deployer state take-over {stack_file} {found}`",
            )
        new = taken_over(stored, settings)
        store.write(new, expect=stored.serial)
        return new


def repair(stack_file: Path, settings: Settings) -> State | None:
    """Put the newest whole version in the place of a state that cannot be read.

    None where it can be.  Raises StateError where nothing whole is left.
    """
    store = store_of(stack_file, settings)
    with store.lock(operation="state repair"):
        try:
            store.read()
        except StateError as error:
            found = max(_whole(store), key=lambda state: state.serial, default=None)
            if found is None:
                raise StateError(
                    f"{error.message}; and no version of it is whole",
                    hint="bring it back from a copy with `deployer state push`",
                ) from error
            store.mend(found)
            return found
        return None


def versions(stack_file: Path, settings: Settings) -> tuple[Version, ...]:
    """Every kept version of a state, oldest first, the stored one last."""
    store = store_of(stack_file, settings)
    found = [_version(store, serial) for serial in store.serials()]
    stored = store.read()
    if stored is not None:
        found.append(Version(stored.serial, stored.released, whole=True))
    return tuple(found)


def _version(store: StateStore, serial: int) -> Version:
    try:
        return Version(serial, store.kept(serial).released, whole=True)
    except StateError:
        return Version(serial, 0, whole=False)


def _no_successor(stored: State, new: State) -> str:
    if stored.lineage != new.lineage:
        return "the file is of another state: their lineages differ"
    if new.serial < stored.serial:
        return f"the file is older: serial {new.serial}, stored is {stored.serial}"
    if new.serial == stored.serial:
        return f"both are at serial {new.serial}, and say different things"
    return ""


def _refuse_target(lies: State, state: State, there: StateStore) -> None:
    if lies.lineage == state.lineage and lies.serial <= state.serial:
        return
    raise StateError(
        f"`{there.place}` already contains another state (serial {lies.serial})",
        hint="migrate to an empty place",
    )


def _copy(state: State, there: StateStore) -> None:
    lies = there.read()
    if lies is None or lies.serial < state.serial:
        there.write(state, expect=0 if lies is None else lies.serial)


def _whole(store: StateStore) -> Iterator[State]:
    """Every whole version that is left: kept, or put aside by a run that failed.

    What was put aside counts where it is this user's, and goes on from what is kept:
    anybody may lay a file among temporary ones.
    """
    kept = [*_kept(store)]
    yield from kept
    lineages = {state.lineage for state in kept}
    for file in rescued(store.stack, None):
        try:
            found = from_json(read_regular(file), str(file))
        except (OSError, DeployerError):
            continue
        if found.stack == store.stack and found.lineage in lineages:
            yield found


def _kept(store: StateStore) -> Iterator[State]:
    """The kept versions that can be read."""
    for serial in store.serials():
        with suppress(StateError):
            yield store.kept(serial)
