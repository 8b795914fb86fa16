"""States of many stacks in an object store, read side by side.

It answers after some tens of milliseconds, so a plan of a thousand stacks would wait
for most of a minute.  Files of this machine are read when it is their turn.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from deployer.errors import DeployerError
from deployer.planning.state import State
from deployer.state import StateStore
from deployer.usecases.context.settings import Settings
from deployer.usecases.context.stack_files import Subject, name_in, text_of

if TYPE_CHECKING:
    from concurrent.futures import Executor, Future

AT_ONCE = 16
"""Requests on their way at the same time."""


@contextmanager
def concurrent_states(
    subjects: Sequence[Subject], settings: Settings
) -> Iterator[Settings]:
    """Yield settings under which the states of these stacks are on their way.

    They are what they were when this began: for plans, never for an apply.
    """
    far = [it for it in subjects if _is_far(it, settings)]
    if len(far) < 2:
        yield settings
        return
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415 - for many only

    with ThreadPoolExecutor(AT_ONCE) as pool:
        names = ((it, it.gone or name_in(text_of(it.file))) for it in far)
        stores = [settings.states(it.file, name) for it, name in names if name]
        try:
            yield replace(settings, coming=begin_reading(stores, pool))
        finally:
            pool.shutdown(cancel_futures=True)


def _is_far(subject: Subject, settings: Settings) -> bool:
    """Whether a state is in a bucket; what is wrong there is reported in its turn."""
    with suppress(DeployerError):
        return settings.state_place(subject.file).scheme != "file"
    return False


def begin_reading(
    stores: Sequence[StateStore], pool: "Executor"
) -> "dict[str, Future[State | None]]":
    """Ask for the state of every store; returns what comes, by the store's place."""
    return {store.place: pool.submit(store.read) for store in stores}
