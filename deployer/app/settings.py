"""What a run gets from outside, once: environment, folders, clocks."""

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from deployer.core.values import JsonValue
from deployer.errors import UsageError
from deployer.home import home_of
from deployer.state.files import FileStateStore

if TYPE_CHECKING:
    from deployer.engines import Engine, Place
    from deployer.store import Store

STATE_FOLDER = Path(".deployer") / "state"
"""Beside the stacks; not committed."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The outside world of one run of the command line."""

    environment: Mapping[str, str]
    home: Path
    """Artefact store, run directories, caches."""

    @property
    def store(self) -> "Store":
        """The artefact store."""
        from deployer.store import Store  # noqa: PLC0415 - plan rarely needs it

        return Store(self.home)

    def states(self, stack_file: Path, name: str) -> FileStateStore:
        """Where the state of a stack is kept."""
        return FileStateStore(stack_file.parent / STATE_FOLDER, name)

    def engine(self, name: str, stack_file: Path) -> "Engine":
        """The engine of a stack; raises UsageError for one that is not there."""
        from deployer.engines import engine_of  # noqa: PLC0415 - as above

        try:
            return engine_of(name, self.place(stack_file))
        except KeyError:
            raise UsageError(
                f"engine `{name}` is not part of this version of deployer",
                hint="run the stack here with `--engine local`",
            ) from None

    def place(self, stack_file: Path) -> "Place":
        """Where an engine finds the things of a stack."""
        from deployer.engines import Place  # noqa: PLC0415 - as above

        folder = stack_file.parent.absolute()
        patches = patches_folder(stack_file)
        return Place(self.home, folder, self.variables(folder), patches)

    def machine_stamp(self, stack_file: Path, engine: str) -> str:
        """What the abilities of an engine on this machine depend on."""
        from deployer.engines import machine_stamp  # noqa: PLC0415 - as above

        return machine_stamp(engine, self.variables(stack_file.parent.absolute()))

    def variables(self, folder: Path) -> Mapping[str, str]:
        """The environment over what `.env` beside the stack says."""
        file = folder / ".env"
        if not file.is_file():
            return self.environment
        from dotenv import dotenv_values  # noqa: PLC0415 - only where there is one

        stated = {k: v for k, v in dotenv_values(file).items() if v is not None}
        return {**stated, **self.environment}


def settings_of(environment: Mapping[str, str] | None = None) -> Settings:
    """The settings of this process."""
    found = dict(os.environ) if environment is None else environment
    return Settings(environment=found, home=home_of(found))


def patches_folder(stack_file: Path) -> Path:
    """The folder `patches/` of the project: beside the stack, or above it."""
    folders = stack_file.absolute().parents
    found = (f / "patches" for f in folders if (f / "patches").is_dir())
    return next(found, folders[0] / "patches")


def utc_now() -> str:
    """The time as the state keeps it."""
    from datetime import UTC, datetime  # noqa: PLC0415 - plan does not need it

    return datetime.now(tz=UTC).isoformat(timespec="seconds")


def monotonic() -> float:
    """Seconds that never run backwards."""
    return time.monotonic()


def whole(value: JsonValue, default: int) -> int:
    """A whole number from a record, where it holds one."""
    return value if isinstance(value, int) and not isinstance(value, bool) else default
