"""Writing the lock file."""

from dataclasses import dataclass
from pathlib import Path

from deployer.artefacts import lock_file
from deployer.errors import UsageError
from deployer.planning.facts import Facts, Pin
from deployer.planning.progress import unwatched
from deployer.show.words import show
from deployer.stack.load import load
from deployer.usecases.context.settings import Settings
from deployer.usecases.reading.read_stack import resolved


@dataclass(frozen=True, slots=True)
class Locked:
    """What `lock` did."""

    file: Path
    changed: bool
    changes: tuple[str, ...]
    """One line for each fact that moved."""


def lock(
    stack_file: Path, settings: Settings, engine: str | None, *, upgrade: bool
) -> Locked:
    """Resolve what is not pinned (all of it with ``upgrade``), and write the file."""
    loaded = load(stack_file, engine=engine, allowed=settings.allowed)
    file = lock_file.lock_path(stack_file)
    before = _before(file) if upgrade else lock_file.read(file)
    known = None if upgrade else before
    facts = resolved(loaded, stack_file, settings, known, unwatched)
    if facts != before:
        lock_file.write(file, facts, loaded.stack.name)
    return Locked(file, facts != before, tuple(_changes(before, facts)))


def _before(file: Path) -> Facts | None:
    """Return what a lock file pins that is about to be replaced, whatever it is now."""
    try:
        return lock_file.read(file)
    except UsageError:
        return None


def _changes(before: Facts | None, after: Facts) -> list[str]:
    found = []
    for name, old, new in (
        ("build", None if before is None else before.build, after.build),
        ("weights", None if before is None else before.weights, after.weights),
    ):
        if old != new:
            found.append(f"{name}: {_shown(old)} → {_shown(new)}")
    return found


def _shown(pin: Pin | None) -> str:
    return "nothing" if pin is None else show(dict(pin.identity))
