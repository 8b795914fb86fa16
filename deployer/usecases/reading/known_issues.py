"""The known issues of a stack, with their places: errors are refused."""

from deployer.diagnostics import Diagnostic, Place, Severity, placed
from deployer.errors import StackError
from deployer.llama.known.traps import traps_of
from deployer.planning.facts import Facts
from deployer.planning.graph import build_number, tag_number
from deployer.stack.fields.model import Stack
from deployer.stack.load import Loaded


def number_of(stack: Stack, locked: Facts | None) -> int | None:
    """The build that a stack pins, from its tag or from the lock file."""
    return tag_number(stack) if locked is None else build_number(stack, locked)


def notices_of(loaded: Loaded, build: int | None) -> tuple[Diagnostic, ...]:
    """Return every known issue of a stack on this build, sorted by place."""
    start = Place(str(loaded.sources[-1] if loaded.sources else "stack"))
    return tuple(placed(traps_of(loaded.stack, build), loaded.places, start))


def refuse_traps(loaded: Loaded, build: int | None) -> tuple[Diagnostic, ...]:
    """Return the warnings and notes; raises StackError for issues that are errors."""
    notices = notices_of(loaded, build)
    if fatal := [it for it in notices if it.severity is Severity.ERROR]:
        raise StackError(fatal)
    return notices
