"""Waiting for something on Modal: what is logged meanwhile is shown, Ctrl-C ends it."""

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Final, TypeVar

from deployer.core.events import Say, Talk
from deployer.core.progress import Progress
from deployer.engines.modal.drive import Account, Call, Line
from deployer.errors import DeployerError, TimedOutError

_Result = TypeVar("_Result")

_TICK: Final = 0.2
"""Seconds between two looks at what is waited for."""
_KEPT: Final = 200
_STRAGGLERS: Final = 1.0
"""Seconds that the last lines may be late."""


@dataclass(slots=True)
class Log:
    """The log of an app while it is followed."""

    lines: deque[Line] = field(default_factory=lambda: deque(maxlen=_KEPT))
    """The last ones, in the order of coming."""
    arriving: "queue.SimpleQueue[Line]" = field(default_factory=queue.SimpleQueue)

    def drain(self, take: Callable[[Line], bool]) -> Iterator[Line]:
        """Lines that arrived since the last time, as far as they are asked for."""
        with suppress(queue.Empty):
            while True:
                line = self.arriving.get_nowait()
                if take(line):
                    self.lines.append(line)
                    yield line


@contextmanager
def followed(account: Account, app: str) -> Iterator[Log]:
    """The log of an app, read beside what the block does; not getting it is no error.

    It is read by a thread that nothing waits for: a stream ends when Modal ends it.
    """
    log, done = Log(), threading.Event()

    def read() -> None:
        with suppress(DeployerError):
            for line in account.lines(app, lambda: not done.is_set()):
                log.arriving.put(line)

    threading.Thread(target=read, daemon=True).start()
    try:
        yield log
    finally:
        done.set()


def any_line(_line: Line) -> bool:
    """Takes every line."""
    return True


def result_of(
    call: Call, log: Log, say: Say, *, about: str, what: str, limit: float
) -> object:
    """Wait for a call, telling what it logs; it is cancelled when we are.

    Raises EngineError with what the function raised, and TimedOutError.
    """

    def look() -> object | None:
        try:
            return (call.result(_TICK),)
        except TimeoutError:
            return None

    def mine(line: Line) -> bool:
        return call.id in line.where

    try:
        done = wait_for(
            look, log, say, about=about, what=what, limit=limit, take=mine, pause=0
        )
    except BaseException:
        with suppress(DeployerError):
            call.cancel()
        raise
    assert isinstance(done, tuple)
    return done[0]


def wait_for(
    look: Callable[[], _Result | None],
    log: Log,
    say: Say,
    *,
    about: str,
    what: str,
    limit: float,
    take: Callable[[Line], bool] = any_line,
    pause: float = _TICK,
) -> _Result:
    """What ``look`` finds, once it finds something; the log is told meanwhile."""
    begun = time.monotonic()
    while True:
        found = look()
        for line in log.drain(take):
            if line.text.strip():
                say(Talk(about, line.text))
        if found is not None:
            return found
        waited = time.monotonic() - begun
        if waited > limit:
            raise TimedOutError(f"{what} took longer than {limit:.0f} s")
        say(Progress(what, int(waited), None, unit="s"))
        if pause:
            threading.Event().wait(pause)


def stragglers(log: Log, say: Say, about: str) -> None:
    """Tell the lines that come just after the end."""
    ends = time.monotonic() + _STRAGGLERS
    while time.monotonic() < ends:
        for line in log.drain(any_line):
            if line.text.strip():
                say(Talk(about, line.text))
        threading.Event().wait(_TICK)
