"""States that are read while the stacks before them are planned.

An object store answers after some tens of milliseconds, so a plan of a thousand stacks
would wait for most of a minute; side by side the answers are there when they are asked
for.  Files of this machine are read when it is their turn.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from deployer.app.settings import Settings
from deployer.app.subjects import Subject, name_in, text_of
from deployer.core.state import State
from deployer.errors import DeployerError
from deployer.state import StateStore
from deployer.state.places import store_at

if TYPE_CHECKING:
    from concurrent.futures import Executor, Future

AT_ONCE = 16
"""Requests on their way at the same time."""
WINDOW = 64
"""States that are kept before their turn."""


class StatesAhead:
    """Reads states in the order in which they will be asked for."""

    def __init__(self, stores: Sequence[StateStore], pool: "Executor") -> None:
        self._stores = stores
        self._turns = {store.place: turn for turn, store in enumerate(stores)}
        self._pool = pool
        self._coming: dict[int, Future[State | None]] = {}

    def read(self, store: StateStore) -> State | None:
        """The stored state, as it was read ahead; raises StateError."""
        if (turn := self._turns.get(store.place)) is None:
            return store.read()
        for passed in [it for it in self._coming if it < turn]:
            self._coming.pop(passed)
        for coming in range(turn, min(turn + WINDOW, len(self._stores))):
            if coming not in self._coming:
                self._coming[coming] = self._pool.submit(self._stores[coming].read)
        return self._coming.pop(turn).result()


@contextmanager
def states_ahead(subjects: Sequence[Subject], settings: Settings) -> Iterator[Settings]:
    """Settings under which the states of these stacks are read ahead of their turn.

    They are what they were when this began: for plans, never for an apply.
    """
    stores = _stores(subjects, settings) if len(subjects) > 1 else ()
    if not stores:
        yield settings
        return
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415 - for many only

    with ThreadPoolExecutor(AT_ONCE) as pool:
        try:
            yield replace(settings, ahead=StatesAhead(stores, pool).read)
        finally:
            pool.shutdown(cancel_futures=True)


def _stores(subjects: Sequence[Subject], settings: Settings) -> tuple[StateStore, ...]:
    """The stores of the stacks whose state is far away, and whose name is plain."""
    found = []
    for subject in subjects:
        try:
            place = settings.state_place(subject.file)
        except DeployerError:  # told when it is the turn of the stack
            continue
        if place.scheme == "file":
            continue
        name = subject.gone or name_in(text_of(subject.file))
        if name is not None:
            found.append(store_at(place, name, stack_file=subject.file))
    return tuple(found)
