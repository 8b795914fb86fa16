"""Validating a stack without planning it."""

from dataclasses import dataclass
from pathlib import Path

from deployer import lockfile
from deployer.app.prepared import Cache
from deployer.app.settings import Settings
from deployer.core.notices import Notice


@dataclass(frozen=True, slots=True)
class Valid:
    """What is to be said of a stack file that is right."""

    notes: tuple[str, ...]
    notices: tuple[Notice, ...]
    """Known traps that it is in."""


def validate(
    stack_file: Path, settings: Settings, engine: str | None, *, cached: bool = True
) -> Valid:
    """Check a stack file offline; raises StackError with every problem."""
    cache = Cache(settings.home / "cache" / "stacks", settings.allowed)
    machine = settings.machine_stamp
    known = cache.find(stack_file, engine, machine) if cached else None
    if known is not None:
        return Valid(known.notes, known.notices)
    from deployer.app.reading import (  # noqa: PLC0415 - slow to import
        refuse_build,
        refuse_options,
    )
    from deployer.app.trapped import (  # noqa: PLC0415 - as above
        number_of,
        refuse_traps,
    )
    from deployer.app.weighing import known_offline  # noqa: PLC0415 - as above
    from deployer.load.stack import load  # noqa: PLC0415 - the model is slow to import

    loaded = load(stack_file, engine=engine, allowed=settings.allowed)
    refuse_options(loaded)
    refuse_build(loaded)
    locked = lockfile.read(lockfile.lock_path(stack_file))
    notices = refuse_traps(loaded, number_of(loaded.stack, locked))
    return Valid((*loaded.notes, *known_offline(loaded, stack_file)), notices)
