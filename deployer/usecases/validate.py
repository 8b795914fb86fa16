"""Validating a stack without planning it."""

from dataclasses import dataclass
from pathlib import Path

from deployer.artefacts import lock_file
from deployer.diagnostics import Diagnostic
from deployer.usecases.context.settings import Settings
from deployer.usecases.reading.prepared import Cache


@dataclass(frozen=True, slots=True)
class Valid:
    """What is to be said of a stack file that is right."""

    notes: tuple[str, ...]
    notices: tuple[Diagnostic, ...]
    """Known traps that it is in."""


def validate(
    stack_file: Path, settings: Settings, engine: str | None, *, cached: bool = True
) -> Valid:
    """Check a stack file offline; raises StackError with every problem."""
    cache = Cache(settings.home, settings.environment)
    known = cache.find(stack_file, engine) if cached else None
    if known is not None:
        return Valid(known.notes, known.notices)
    from deployer.stack.load import load  # noqa: PLC0415 - the model is slow to import
    from deployer.usecases.reading.known_issues import number_of, refuse_traps  # noqa: PLC0415 - as above
    from deployer.usecases.reading.read_stack import (  # noqa: PLC0415 - as above
        refuse_build,
        refuse_options,
    )
    from deployer.usecases.reading.weights import known_offline  # noqa: PLC0415 - as above

    loaded = load(stack_file, engine=engine, allowed=settings.allowed)
    refuse_options(loaded)
    refuse_build(loaded)
    locked = lock_file.read(lock_file.lock_path(stack_file))
    notices = refuse_traps(loaded, number_of(loaded.stack, locked))
    return Valid((*loaded.notes, *known_offline(loaded, stack_file)), notices)
