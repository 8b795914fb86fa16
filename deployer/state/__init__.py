"""Where the state of a stack lives between two commands, and who may change it.

Every store raises

* StateError       the state cannot be read or written; what a run knew and could
                   not write is put somewhere safe first, and the message says where
* StalePlanError   the stored state moved on, and was left as it is
* LockedError      somebody else works on the stack
"""

from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol

from deployer.planning.state import State

if TYPE_CHECKING:
    from deployer.state.lock import Holder

KEPT = 10
"""Versions before the stored one that every store keeps."""
SEGMENT = 250
"""Lines of a part of the log."""
SEGMENTS = 40
"""Parts of the log that are kept: 10,000 lines."""


class StateStore(Protocol):
    """Keeps the state of one stack."""

    @property
    def stack(self) -> str:
        """The name of the stack."""
        ...

    @property
    def place(self) -> str:
        """Where the state lies, for people."""
        ...

    def read(self) -> State | None:
        """The stored state, as a value of the caller's own; None before the first."""
        ...

    def write(self, state: State, *, expect: int) -> None:
        """Replace the stored state, if its serial is still ``expect``.

        Durable on return, and never half done.  Writing what is stored already
        changes nothing.  Where nothing is stored there is nothing to lose, and any
        ``expect`` (0 for the first state) is fine.
        """
        ...

    def mend(self, state: State) -> None:
        """Put a state in the place of one that cannot be read, or is gone.

        Raises StateError where the stored one can be read: it is left as it is.
        """
        ...

    def lock(self, *, operation: str) -> AbstractContextManager[None]:
        """Keep everybody else from applying until the block ends, however it ends.

        ``operation`` tells others what is going on: ``apply``.
        """
        ...

    def holder(self) -> "Holder | None":
        """Who holds the lock; None where it is free."""
        ...

    def unlock(self, holder_id: str) -> "Holder":
        """Break the lock of the holder with this ID, and return who that was."""
        ...

    def serials(self) -> tuple[int, ...]:
        """The serials of the kept versions before the stored one, oldest first."""
        ...

    def kept(self, serial: int) -> State:
        """The version with this serial; StateError where it is not kept whole."""
        ...

    def log(self, line: str) -> None:
        """Add a line to the log of the stack, beside the state; the oldest part goes.

        Lines are only ever added.  Raises StateError where it cannot be written.
        """
        ...

    def logged(self, newest: int | None = None) -> tuple[str, ...]:
        """The lines of the log, oldest first; ``newest``: at least so many, if any."""
        ...


class Parts(Protocol):
    """The parts of a log, by number from 1, as a store keeps them."""

    def numbers(self) -> tuple[int, ...]:
        """The parts that there are, oldest first."""
        ...

    def lines(self, number: int) -> list[str]:
        """The lines of a part; a line that was not written whole is one, too."""
        ...


def newest_of(parts: Parts, newest: int | None) -> tuple[str, ...]:
    """Return the last lines of a log, reading no more parts than that takes."""
    found: list[str] = []
    for number in reversed(parts.numbers()):
        found = [*parts.lines(number), *found]
        if newest is not None and len(found) >= newest:
            break
    return tuple(found)


def log_parts(files: Iterable[str]) -> tuple[int, ...]:
    """Return the numbers of the parts of a log with these names, oldest first."""
    names = (name.removesuffix(".jsonl") for name in files if name.endswith(".jsonl"))
    return tuple(sorted(int(name) for name in names if name.isdecimal()))
