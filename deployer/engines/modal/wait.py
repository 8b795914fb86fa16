"""Waiting for something on Modal: what is logged meanwhile is shown, Ctrl-C ends it.

A request that is not answered within 150 seconds is answered with 303 and goes on
under another address, which has to be asked with GET; `endpoint: server` answers 503
until a container is ready.
"""

import http.client
import re
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Final, TypeVar
from urllib.parse import urljoin, urlsplit

from deployer.engines.modal.drive import Account, Call
from deployer.engines.modal.types import SYSTEM, Line
from deployer.errors import DeployerError, EngineError, TimedOutError
from deployer.llama.known.symptoms import likely_cause
from deployer.planning.events import Progress, Say, Talk
from deployer.stack.fields.values import show_seconds
from deployer.system.children import growing

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


_REQUEST_SECONDS: Final = 200.0
"""Longer than Modal takes to answer with a redirect."""
_PAUSES: Final = (0.1, 1.0)
"""The first and the longest between two requests."""


def knock(url: str, limit: float) -> "Future[float]":
    """Ask /health in a thread until it is 200; the seconds that took.

    The future ends in TimeoutError after ``limit`` seconds, and in ConnectionError
    when the answer is one that waiting does not change.
    """
    future: Future[float] = Future()

    def ask() -> None:
        try:
            future.set_result(_ask(url, limit))
        except Exception as error:  # noqa: BLE001 - handed to whoever waits
            future.set_exception(error)

    threading.Thread(target=ask, daemon=True).start()
    return future


def _ask(url: str, limit: float) -> float:
    begun = time.monotonic()
    target = f"{url.rstrip('/')}/health"
    last, pauses = "no answer", growing(*_PAUSES)
    while time.monotonic() - begun < limit:
        try:
            status, location = _get(target)
        except (OSError, http.client.HTTPException) as error:
            last = str(error) or type(error).__name__
            threading.Event().wait(next(pauses))
            continue
        if status == HTTPStatus.OK:
            return time.monotonic() - begun
        if status == HTTPStatus.SEE_OTHER and location:
            target = urljoin(target, location)
            continue
        if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.NOT_FOUND):
            raise ConnectionError(f"`{target}` answers {status}")
        last = f"status {status}"
        target = f"{url.rstrip('/')}/health"
        threading.Event().wait(next(pauses))
    raise TimeoutError(f"not healthy within {limit:.0f} s: {last}")


def _get(target: str) -> tuple[int, str | None]:
    parts = urlsplit(target)
    secure = parts.scheme == "https"
    kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
    connection = kind(parts.netloc, timeout=_REQUEST_SECONDS)
    try:
        query = f"?{parts.query}" if parts.query else ""
        connection.request("GET", f"{parts.path}{query}")
        answer = connection.getresponse()
        answer.read()
        return answer.status, answer.getheader("Location")
    finally:
        connection.close()


RESTORED: Final = "Restoring Function from memory snapshot."
QUEUE_SECONDS: Final = 900
"""How long a container with its GPU may be waited for."""
_RAISED: Final = "Traceback (most recent call last):"
_LAST_WORDS: Final = 15
_WORDS_SECONDS: Final = 1.0
"""How long the last words of a failed start may take to arrive."""


def wake(
    account: Account, app: str, url: str, say: Say, *, about: str, limit: float
) -> tuple[float, bool]:
    """Ask until the server is healthy; a start that fails stops the app.

    Modal starts a container whose hook raised again, for as long as a request waits:
    so the first failure that the log tells is the last one.  Returns the seconds, and
    whether it came from a snapshot that was there.
    """
    log = Log(account, app)
    answer = knock(url, limit)
    try:
        wait = Wait(about, "a start on Modal", limit, show=is_ours)
        seconds = wait_for(lambda: _answered(answer, log), log, say, wait)
    except (EngineError, TimedOutError) as error:
        last_words(log, say, about)
        account.stop(app)
        raise not_started(log, error.message, f"app `{app}` was stopped") from None
    except BaseException:
        with suppress(DeployerError):
            account.stop(app)
        raise
    restored = any(line.text == RESTORED for line in log.lines)
    how = "restored from its snapshot" if restored else "started"
    say(Talk(about, f"{how} in {show_seconds(seconds)}"))
    return seconds, restored


def last_words(log: Log, say: Say, about: str) -> None:
    """Tell what of the log is still on its way."""
    threading.Event().wait(_WORDS_SECONDS)
    for line in log.now(any_line):
        if is_ours(line):
            say(Talk(about, line.text))


def is_ours(line: Line) -> bool:
    """Not a line of llama-server, which says much: the app's own, and Modal's."""
    return line.source != "stderr"


def _answered(answer: "Future[float]", log: Log) -> float | None:
    """The seconds it took; raises EngineError once the log tells of a failed start."""
    if answer.done():
        error = answer.exception()
        if error is not None:
            raise EngineError(str(error))
        return answer.result()
    if any(line.text.startswith(_RAISED) for line in log.lines):
        raise EngineError("its start failed")
    return None


def not_started(log: Log, why: str, aftermath: str) -> EngineError:
    """Return what went wrong with a start, by what was logged."""
    texts = [line.text for line in log.lines if line.source != SYSTEM]
    cause = likely_cause(texts, None)
    if cause is not None:
        return EngineError(
            f"llama-server did not start: {cause.meaning}",
            hint=f"{cause.hint}; {aftermath}",
        )
    words = [text for text in texts if text.strip()][-_LAST_WORDS:]
    said = "\n".join(["", *words]) if words else ""
    return EngineError(f"llama-server did not start: {why}{said}", hint=aftermath)
