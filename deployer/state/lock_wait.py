"""Waiting for the lock of a stack that somebody else holds.

How often to look follows from how long this holder was seen to hold it: the end of an
apply of seconds is noticed within a second, that of one of minutes within a tenth of
it, and five seconds at most.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from deployer.errors import LockedError
from deployer.stack.fields.values import show_seconds
from deployer.state import StateStore

SHORTEST, LONGEST = 0.5, 5.0
"""Seconds between two looks."""
SHARE = 0.1
"""Of the time that a holder was seen: what a look may come too late by."""

Tell = Callable[[str, float], None]
"""Told who holds the lock, and for how many seconds it was waited for by now.

Called at every look; what it raises ends the waiting.
"""


def pause_after(seen: float, chance: float) -> float:
    """Seconds to the next look at a lock whose holder was seen that long.

    ``chance`` spreads the looks of those who wait, so that they do not come at once.
    """
    return min(max(seen * SHARE, SHORTEST), LONGEST) * (0.5 + chance)


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a run waits for a lock, and what tells it the time."""

    seconds: float
    """0: not at all."""
    clock: Callable[[], float]
    """Monotonic seconds."""
    sleep: Callable[[float], None]
    chance: Callable[[], float]
    """A number between 0 and 1, another one each time."""
    pause: Callable[[float, float], float] = pause_after


@contextmanager
def lock_in_time(
    store: StateStore, patience: Patience, *, operation: str, tell: Tell
) -> Iterator[None]:
    """Hold the lock of a stack; LockedError where others do for all that time."""
    with ExitStack() as held:
        _wait(store, patience, operation, tell, held)
        yield


def _wait(
    store: StateStore, patience: Patience, operation: str, tell: Tell, held: ExitStack
) -> None:
    begun = since = patience.clock()
    holder = ""
    while True:
        try:
            return held.enter_context(store.lock(operation=operation))
        except LockedError as error:
            now = patience.clock()
            left = begun + patience.seconds - now
            if left <= 0:
                raise _refusal(error, patience) from error
            if error.message != holder:
                holder, since = error.message, now
            tell(holder, now - begun)
            pause = patience.pause(now - since, patience.chance())
            patience.sleep(min(pause, left))


def _refusal(error: LockedError, patience: Patience) -> LockedError:
    """The error as it is where nobody waited, else with how long it was."""
    if not patience.seconds:
        return error
    waited = show_seconds(patience.seconds)
    return LockedError(f"{error.message}, still after {waited}", error.hint)
