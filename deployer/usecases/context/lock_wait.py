"""Locks that a command is willing to wait for."""

import os
import time
from contextlib import AbstractContextManager

from deployer.planning.events import Say, Talk
from deployer.planning.progress import Progress
from deployer.stack.fields.units import show_seconds
from deployer.state import StateStore
from deployer.state.lock_wait import Patience, lock_in_time
from deployer.usecases.context.settings import Settings, monotonic


def locked(
    store: StateStore, settings: Settings, say: Say, *, operation: str
) -> AbstractContextManager[None]:
    """Hold the lock of a stack; LockedError where others do for too long.

    Who holds it is said once, and how long it was waited for again and again, so that
    the waiting can be ended.
    """
    patience = Patience(settings.lock_timeout, monotonic, time.sleep, _chance)
    told: set[str] = set()

    def tell(holder: str, waited: float) -> None:
        if holder not in told:
            told.add(holder)
            limit = show_seconds(patience.seconds)
            say(Talk(store.stack, f"{holder}: waiting, for {limit} at most"))
        total = round(patience.seconds)
        say(Progress("the lock", round(waited), total, unit="s"))

    return lock_in_time(store, patience, operation=operation, tell=tell)


def _chance() -> float:
    return int.from_bytes(os.urandom(2)) / 0xFFFF
