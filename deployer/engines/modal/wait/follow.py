"""Waiting for something on Modal: what is logged meanwhile is shown, Ctrl-C ends it."""

import re
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final, TypeVar

from deployer.engines.modal.drive import Account, Call
from deployer.engines.modal.types import Line
from deployer.errors import DeployerError, TimedOutError
from deployer.planning.events import Say, Talk
from deployer.planning.progress import Progress
from deployer.system.pauses import growing

_Result = TypeVar("_Result")

_TICK: Final = 0.2
"""Seconds that a call is waited for between two looks at its log."""
_FIRST_PAUSE: Final = 0.01
_LONGEST_PAUSE: Final = 0.5
_LOG_SECONDS: Final = 1.0
"""Between two looks at the log."""
_FETCHED: Final = 500
_KEPT: Final = 200
_COUNTED: Final = re.compile(r"\[(\d+)/(\d+)\] ")
"""How ninja begins a line."""


class Log:
    """The log of an app, from now on: read whenever it is looked at.

    It is fetched and not streamed: a stream of the client cannot be closed from
    outside, and one that is left open complains when the program ends.
    """

    def __init__(self, account: Account, app: str) -> None:
        """``app`` is a name or an id."""
        self._read = account.log(app)
        self._begun = datetime.now(tz=UTC)
        self._known: set[Line] = set()
        self._next = 0.0
        self.lines: deque[Line] = deque(maxlen=_KEPT)
        """What was taken, the last lines of it."""

    def arrived(self, take: Callable[[Line], bool]) -> list[Line]:
        """Lines since the last time, as far as they are asked for; not too often."""
        if time.monotonic() < self._next:
            return []
        return self.now(take)

    def now(self, take: Callable[[Line], bool]) -> list[Line]:
        """The same at once; a log that is not to be had is no error."""
        found: list[Line] = []
        with suppress(DeployerError):
            for line in self._read(_FETCHED):
                if line.at >= self._begun and line not in self._known:
                    self._known.add(line)
                    if take(line):
                        found.append(line)
        self.lines.extend(found)
        self._next = time.monotonic() + _LOG_SECONDS
        return found


def any_line(_line: Line) -> bool:
    """Takes every line."""
    return True


def _tell(text: str, about: str, say: Say) -> None:
    """A line of the log; what counts objects becomes a bar."""
    if counted := _COUNTED.match(text):
        done, total = (int(number) for number in counted.groups())
        say(Progress(about, done, total, unit="objects"))
    elif text.strip():
        say(Talk(about, text))


def no_line(_line: Line) -> bool:
    """Takes none."""
    return False


@dataclass(frozen=True, slots=True)
class Wait:
    """What is waited for, and what of the log is told meanwhile."""

    about: str
    """Address of the resource."""
    what: str
    limit: float
    """Seconds."""
    take: Callable[[Line], bool] = any_line
    show: Callable[[Line], bool] = any_line
    pause: float = _LONGEST_PAUSE
    """The longest between two looks; 0 where looking waits by itself."""


def result_of(call: Call, log: Log, say: Say, wait: Wait) -> object:
    """Wait for a call, telling what it logs; it is cancelled when we are.

    Raises EngineError with what the function raised, and TimedOutError.
    """

    def look() -> tuple[object] | None:
        try:
            return (call.result(_TICK),)
        except TimeoutError:
            return None

    mine = replace(wait, take=lambda line: call.id in line.where, pause=0)
    try:
        return wait_for(look, log, say, mine)[0]
    except BaseException:
        with suppress(DeployerError):
            call.cancel()
        raise


def wait_for(
    look: Callable[[], _Result | None], log: Log, say: Say, wait: Wait
) -> _Result:
    """What ``look`` finds, once it finds something; the log is told meanwhile."""
    begun = time.monotonic()
    pauses = growing(_FIRST_PAUSE, wait.pause)
    while True:
        found = look()
        lines = log.arrived(wait.take) if found is None else log.now(wait.take)
        for line in filter(wait.show, lines):
            _tell(line.text, wait.about, say)
        if found is not None:
            return found
        waited = time.monotonic() - begun
        if waited > wait.limit:
            raise TimedOutError(f"{wait.what} took longer than {wait.limit:.0f} s")
        say(Progress(wait.what, int(waited), None, unit="s"))
        if wait.pause:
            threading.Event().wait(next(pauses))
