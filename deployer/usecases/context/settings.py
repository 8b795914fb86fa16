"""The surroundings of a run, read once: environment, folders, clocks."""

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from deployer.engines.place import Keys
from deployer.errors import UsageError
from deployer.stack.project_root import (
    allowed_in,
    how_to_allow,
    may_read,
    project_file,
    root_of,
    trusted_in,
)
from deployer.state import StateStore
from deployer.state.places import StatePlace, place_at, store_at

if TYPE_CHECKING:
    from concurrent.futures import Future

    from deployer.artefacts.store import Store
    from deployer.engines.contract import Engine
    from deployer.engines.place import Place
    from deployer.planning.state import State


def home_of(environment: dict[str, str]) -> str:
    """The store of this user: DEPLOYER_HOME, or below the XDG data directory."""
    if chosen := environment.get("DEPLOYER_HOME"):
        folder = os.path.expanduser(chosen)
        return folder if os.path.isabs(folder) else f"{os.getcwd()}/{folder}"
    data = environment.get("XDG_DATA_HOME", "")
    if not data.startswith("/"):  # the standard: a relative path is to be ignored
        home = environment.get("HOME") or os.path.expanduser("~")
        data = f"{home}/.local/share"
    return f"{data}/deployer"


STATE_FOLDER = Path(".deployer") / "state"
"""Beside the stacks; not committed."""
STATE_URL = "DEPLOYER_STATE_URL"
"""Where the states are instead, whatever the project says."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The outside world of one run of the command line."""

    environment: Mapping[str, str]
    home: Path
    """Artefact store, run directories, caches."""
    lock_timeout: float = 0.0
    """Seconds that a run waits for the lock of a stack."""
    coming: "dict[str, Future[State | None]]" = field(default_factory=dict)
    """States that were asked for already, by the place of their store."""
    base: str = ""
    """Revision that the work is compared with, as the user names it."""
    begun: int = field(default_factory=time.time_ns)
    """When this run began to read, in nanoseconds since the epoch."""
    _places: dict[tuple[Path, Path], StatePlace] = field(
        default_factory=dict, compare=False, repr=False
    )
    """Where the states of the stacks of a folder are, once somebody asked."""

    @property
    def advisories(self) -> str:
        """The file or address of further advisories; empty for none."""
        return self.environment.get("DEPLOYER_ADVISORIES", "")

    @property
    def store(self) -> "Store":
        """The artefact store."""
        from deployer.artefacts.store import Store  # noqa: PLC0415 - plan rarely needs it

        return Store(self.home)

    def allowed(self, stack_file: Path) -> tuple[Path, ...]:
        """Folders outside of its project that a stack may read."""
        trusted = trusted_in(self.home, root_of(stack_file))
        return (*allowed_in(self.environment), *trusted)

    def states(
        self,
        stack_file: Path,
        name: str,
        *,
        notify: Callable[[str], None] | None = None,
    ) -> StateStore:
        """Where the state of a stack is kept."""
        place = self.state_place(stack_file)
        return store_at(place, name, stack_file=stack_file, notify=notify)

    def state(self, stack_file: Path, name: str) -> "State | None":
        """The stored state of a stack, for those who change nothing."""
        store = self.states(stack_file, name)
        coming = self.coming.pop(store.place, None)  # held no longer than needed
        return store.read() if coming is None else coming.result()

    def state_place(self, stack_file: Path) -> StatePlace:
        """The place that DEPLOYER_STATE_URL or `deployer.yaml` names, or the folder.

        Stacks of another folder of the project have another one.
        """
        folder = (stack_file.parent, Path(os.path.realpath(stack_file)).parent)
        if (known := self._places.get(folder)) is None:
            known = self._places[folder] = self._state_place(stack_file)
        return known

    def _state_place(self, stack_file: Path) -> StatePlace:
        place: StatePlace | None = None
        if url := self.environment.get(STATE_URL):
            place = place_at(url).below(_below(stack_file))
        elif (file := project_file(stack_file)) is not None:
            from deployer.usecases.context.state_places import state_place  # noqa: PLC0415 - slow

            below, variables = _below(stack_file), self.environment
            place = state_place(file, below, variables, self.base)
        return place or StatePlace("file", str(self._beside(stack_file)))

    def _beside(self, stack_file: Path) -> Path:
        """The folder beside the stacks; raises UsageError where a link leads out."""
        folder = stack_file.parent / STATE_FOLDER
        if not may_read(folder, root_of(stack_file), allowed_in(self.environment)):
            raise UsageError(
                f"`{folder}` leads out of the project of the stack",
                hint=how_to_allow(folder),
            )
        return folder

    def engine(self, name: str, stack_file: Path) -> "Engine":
        """The engine of a stack; raises UsageError for one that is not there."""
        from deployer.engines.place import engine_of  # noqa: PLC0415 - as above

        try:
            return engine_of(name, self.place(stack_file))
        except KeyError:
            raise UsageError(
                f"engine `{name}` is not part of this version of deployer",
                hint="run the stack here with `--engine local`",
            ) from None

    def place(self, stack_file: Path) -> "Place":
        """Where an engine finds the things of a stack."""
        from deployer.engines.place import Place  # noqa: PLC0415 - as above

        folder = stack_file.parent.absolute()
        patches = patches_folder(stack_file)
        return Place(self.home, folder, self.environment, self.keys(folder), patches)

    def keys(self, folder: Path | None = None) -> Keys:
        """The API keys of the environment, and of `.env` in the folder of a stack."""
        return Keys(self.environment, None if folder is None else folder / ".env")


def _below(stack_file: Path) -> Path:
    """The folder of a stack, from that of its project."""
    return Path(os.path.realpath(stack_file)).parent.relative_to(root_of(stack_file))


def settings_of(environment: Mapping[str, str] | None = None) -> Settings:
    """The settings of this process."""
    found = dict(os.environ if environment is None else environment)
    return Settings(environment=found, home=Path(home_of(found)))


def patches_folder(stack_file: Path) -> Path:
    """The folder `patches/` of the project: beside the stack, or above it."""
    root = root_of(stack_file)
    inside = [
        f for f in Path(os.path.realpath(stack_file)).parents if f.is_relative_to(root)
    ]
    folders = stack_file.absolute().parents[: len(inside)]
    found = (f / "patches" for f in folders if (f / "patches").is_dir())
    return next(found, folders[0] / "patches")


def utc_now() -> str:
    """The time as the state keeps it."""
    from datetime import UTC, datetime  # noqa: PLC0415 - plan does not need it

    return datetime.now(tz=UTC).isoformat(timespec="seconds")


class Pending(StrEnum):
    """The future of steps that an earlier run began and did not end."""

    ADOPT = "adopt"
    """It is settled first, and the plan goes on from there."""
    CLEAR = "clear"
    """It is settled, and nothing new is begun."""
    FAIL = "fail"
    """Nothing is done while there is any."""


class Options(NamedTuple):
    """How a stack is to be read and compared."""

    engine: str | None = None
    """Instead of the engine that the file names."""
    locked: bool = False
    """Refuse to resolve anything that the lock file does not hold."""
    refresh: bool | None = None
    """Observe all that is live, also where that takes requests to somebody else.

    None: what one look shows, on this machine; False: nothing is looked at.
    """
    observe: bool = False
    """Observe all that is live on this machine, as before an apply."""
    pending: Pending = Pending.ADOPT
    without_state: bool = False
    """Ask nobody what is deployed: all of the stack counts as new."""
    cached: bool = True
    """Take what earlier runs read of the same files."""
    again: bool = False
    """Promote again a release that was rolled back."""
    workspace: str = ""
    """Where a stack moves to that runs in another workspace; empty: it stays."""
