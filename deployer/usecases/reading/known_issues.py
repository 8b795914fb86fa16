"""The known traps that a stack is in, with their places: errors are refused."""

from deployer.diagnostics import Place, Problem
from deployer.errors import StackError
from deployer.llama.known.traps import traps_of
from deployer.planning.facts import Facts
from deployer.planning.graph import build_number, tag_number
from deployer.stack.fields.model import Stack
from deployer.stack.load import Loaded
from deployer.stack.notices import Notice, Severity
from deployer.stack.yaml.yaml12 import place_of


def number_of(stack: Stack, locked: Facts | None) -> int | None:
    """The build that a stack pins, from its tag or from the lock file."""
    return tag_number(stack) if locked is None else build_number(stack, locked)


def notices_of(loaded: Loaded, build: int | None) -> tuple[Notice, ...]:
    """Every trap of a stack on this build, sorted by place."""
    start = Place(str(loaded.sources[-1] if loaded.sources else "stack"))
    found = (
        Notice(
            place_of(loaded.places, caught.path) or start,
            caught.severity,
            caught.id,
            caught.path,
            caught.what,
            caught.hint,
        )
        for caught in traps_of(loaded.stack, build)
    )
    return tuple(sorted(found, key=lambda notice: (notice.place, notice.id)))


def refuse_traps(loaded: Loaded, build: int | None) -> tuple[Notice, ...]:
    """The warnings and notes; raises StackError where a trap is an error."""
    notices = notices_of(loaded, build)
    fatal = [
        Problem(n.place, n.path, f"{n.what} [{n.id}]", n.hint)
        for n in notices
        if n.severity is Severity.ERROR
    ]
    if fatal:
        raise StackError(fatal)
    return notices
