"""Validating a stack without planning it."""

from functools import partial
from pathlib import Path

from deployer.app.prepared import Cache
from deployer.app.settings import Settings


def validate(
    stack_file: Path, settings: Settings, engine: str | None
) -> tuple[str, ...]:
    """Check a stack file offline; returns notes, raises StackError with problems."""
    cache = Cache(settings.home / "cache" / "stacks", settings.allowed)
    machine = partial(settings.machine_stamp, stack_file)
    if (known := cache.find(stack_file, engine, machine)) is not None:
        return known.notes
    from deployer.app.reading import (  # noqa: PLC0415 - slow to import
        refuse_build,
        refuse_options,
    )
    from deployer.app.weighing import known_offline  # noqa: PLC0415 - as above
    from deployer.load.stack import load  # noqa: PLC0415 - the model is slow to import

    loaded = load(stack_file, engine=engine, allowed=settings.allowed)
    refuse_options(loaded)
    refuse_build(loaded)
    return (*loaded.notes, *known_offline(loaded, stack_file))
