"""A state store that remembers everything it was given."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from deployer.errors import (
    LockedError,
    StalePlanError,
    StateError,
)
from deployer.planning.state import State
from deployer.state.holder import Holder, this_process
from deployer.testing.faults import Fuse


class MemoryStateStore:
    """A `StateStore` that remembers every state it was given."""

    def __init__(self, state: State | None = None, *, fuse: Fuse | None = None) -> None:
        self.history: list[State] = [] if state is None else [state]
        self.fuse = fuse or Fuse()
        self._holder: Holder | None = None

    def read(self) -> State | None:
        """The last state."""
        return self.history[-1] if self.history else None

    def write(self, state: State, *, expect: int) -> None:
        """Keep a state; raises StalePlanError when the last one is not as expected."""
        before = self.read()
        if before == state:
            return
        if before is not None and (before.serial, before.lineage) != (
            expect,
            state.lineage,
        ):
            raise StalePlanError(
                f"expected serial {expect}, the state is now at {before.serial}"
            )
        self.fuse.run(lambda: self.history.append(state))

    @property
    def stack(self) -> str:
        """The name of the stack; empty before the first state."""
        return self.history[-1].stack if self.history else ""

    @property
    def place(self) -> str:
        """Nowhere that lasts."""
        return "memory"

    def mend(self, state: State) -> None:
        """Do nothing: what is remembered is never damaged."""
        raise StateError(f"the state of `{state.stack}` is not damaged")

    @contextmanager
    def lock(self, *, operation: str) -> Iterator[None]:
        """Hold the lock; raises LockedError while it is held."""
        if self._holder is not None:
            raise LockedError(f"`{self._holder}` holds the lock")
        self._holder = this_process(operation, now=lambda: datetime.now(UTC))
        try:
            yield
        finally:
            self._holder = None

    def holder(self) -> Holder | None:
        """Who holds the lock."""
        return self._holder

    def unlock(self, holder_id: str) -> Holder:
        """Break the lock of the holder with this ID."""
        if self._holder is None or self._holder.id != holder_id:
            raise LockedError(f"nobody with the ID `{holder_id}` holds the lock")
        broken, self._holder = self._holder, None
        return broken

    def serials(self) -> tuple[int, ...]:
        """The serials of all states before the last one."""
        return tuple(state.serial for state in self.history[:-1])

    def kept(self, serial: int) -> State:
        """The state with this serial."""
        return next(state for state in self.history if state.serial == serial)
