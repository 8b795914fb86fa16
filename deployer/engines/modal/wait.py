"""Waiting for something on Modal: what is logged meanwhile is shown, Ctrl-C ends it.

A request that is not answered within 150 seconds is answered with 303 and goes on
under another address, which has to be asked with GET; `endpoint: server` answers 503
until a container is ready.
"""

import http.client
import re
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import Final, TypeVar
from urllib.parse import urljoin, urlsplit

from deployer.engines.modal.drive import SYSTEM, Account, Call, Line
from deployer.errors import DeployerError, EngineError, TimedOutError
from deployer.llama.known.symptoms import Symptom, likely_cause
from deployer.planning.events import Say, Talk
from deployer.planning.progress import Progress
from deployer.runtime.serve import READY, Ready, ready_of
from deployer.stack.fields.values import show_seconds
from deployer.system.children import growing

_Result = TypeVar("_Result")

_TICK: Final = 0.2
"""Seconds that a call is waited for between two looks at its log."""
_FIRST_PAUSE: Final = 0.01
_LONGEST_PAUSE: Final = 0.5
_LOG_PAUSES: Final = (0.05, 1.0)
"""The first and the longest between two looks at a log, in seconds."""
_LATE: Final = timedelta(seconds=120)
"""How much later than a line that was said after it a line may arrive."""
_KEPT: Final = 200
_COUNTED: Final = re.compile(r"\[(\d+)/(\d+)\] ")
"""How ninja begins a line."""


class Log:
    """The lines of an app that nobody has seen yet: read whenever it is looked at.

    It is fetched and not streamed: a stream of the client cannot be closed from
    outside, and one that is left open complains when the program ends.  Lines arrive
    late and out of order, with the time of Modal's clock: so a window that ends with
    the newest is read again, and what was seen in it is counted.
    """

    def __init__(
        self, account: Account, app: str, since: datetime | None = None
    ) -> None:
        """``app`` is a name or an id; without ``since``, from now on."""
        self._account = account
        self._log = account.log(app)
        self._seen: Counter[Line] = Counter()
        self._pauses = growing(*_LOG_PAUSES)
        self._next = 0.0
        self.lines: deque[Line] = deque(maxlen=_KEPT)
        """The last lines that were taken."""
        self.failure: DeployerError | None = None
        """Why the last look saw nothing; what it missed comes with the next."""
        self._window: list[Line] = []
        """Lines that were there when it was opened, and count as seen."""
        if since is not None:
            self._since = since
            return
        newest = patiently(account, lambda: self._log.last(1))
        at = newest[-1].at if newest else datetime.now(tz=UTC) - _LATE
        self._since = self._opened = at - _LATE
        self._window = patiently(account, self._new)

    def before(self, count: int) -> list[Line]:
        """The last lines before it was opened, once; none of them arrives again."""
        window, self._window = self._window, []
        if count <= len(window):
            return window[len(window) - count :]
        last = patiently(self._account, lambda: self._log.last(count))
        older = [it for it in last if it.at < self._opened]
        return [*older, *window][-count:]

    def arrived(self, take: Callable[[Line], bool]) -> list[Line]:
        """Lines since the last time, as far as they are asked for; not too often."""
        if time.monotonic() < self._next:
            return []
        return self.now(take)

    def now(self, take: Callable[[Line], bool]) -> list[Line]:
        """The same at once; a log that is not to be had is no error."""
        found: list[Line] = []
        self.failure = None
        try:
            found = [line for line in self._new() if take(line)]
        except DeployerError as error:
            self.failure = error
        self.lines.extend(found)
        self._next = time.monotonic() + next(self._pauses)
        return found

    def _new(self) -> list[Line]:
        read = self._log.since(self._since)
        unseen = Counter(read) - self._seen
        self._seen = Counter(read)
        if read:
            self._since = max(self._since, max(line.at for line in read) - _LATE)
        found = []
        for line in read:
            if unseen[line] > 0:
                unseen[line] -= 1
                found.append(line)
        return found


def patiently(account: Account, read: Callable[[], list[Line]]) -> list[Line]:
    """Read a log that cannot be done without; it is asked again where it ends.

    Raises EngineError where it stays away for longer than a line may be late.
    """
    begun, pauses = time.monotonic(), growing(*_LOG_PAUSES)
    while True:
        try:
            return read()
        except EngineError:
            if time.monotonic() - begun > account.log_seconds:
                raise
        threading.Event().wait(next(pauses))


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
    """One wait, with the lines of the log that are reported meanwhile."""

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
    """Return the result of ``look``, once there is one; report the log meanwhile."""
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


def knock(
    url: str, limit: float, headers: Mapping[str, str] | None = None
) -> "Future[float]":
    """Ask /health in a thread until it is 200; the seconds that took.

    The future ends in TimeoutError after ``limit`` seconds, and in ConnectionError
    when the answer is one that waiting does not change.
    """
    future: Future[float] = Future()

    def ask() -> None:
        try:
            future.set_result(_ask(url, limit, headers or {}))
        except Exception as error:  # noqa: BLE001 - handed to whoever waits
            future.set_exception(error)

    threading.Thread(target=ask, daemon=True).start()
    return future


def _ask(url: str, limit: float, headers: Mapping[str, str]) -> float:
    begun = time.monotonic()
    target = f"{url.rstrip('/')}/health"
    last, pauses = "no answer", growing(*_PAUSES)
    while time.monotonic() - begun < limit:
        try:
            status, location = _get(target, headers)
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


def _get(target: str, headers: Mapping[str, str]) -> tuple[int, str | None]:
    parts = urlsplit(target)
    secure = parts.scheme == "https"
    kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
    connection = kind(parts.netloc, timeout=_REQUEST_SECONDS)
    try:
        query = f"?{parts.query}" if parts.query else ""
        connection.request("GET", f"{parts.path}{query}", headers=dict(headers))
        answer = connection.getresponse()
        answer.read()
        return answer.status, answer.getheader("Location")
    finally:
        connection.close()


RESTORED: Final = "Restoring Function from memory snapshot."
_CAPTURES: Final = re.compile(r"Creating (\w+ )?memory snapshot")
_SNAPSHOT: Final = "memory snapshot"
"""In the lines of both."""
QUEUE_SECONDS: Final = 900
"""How long a container with its GPU may be waited for."""
_CONTAINER: Final = "ta-"
"""Beginning of the id of a container."""
_A_DAY: Final = timedelta(days=1)
_RAISED: Final = "Traceback (most recent call last):"
_ENDED: Final = "Runner failed with exit code"
_CRASHED: Final = re.compile(rf"{_ENDED}|Runner segmentation fault")
_CRASHES: Final = 3
"""Containers of one start that may crash at a restore before it counts as failed."""
_LAST_WORDS: Final = 15
_WORDS_SECONDS: Final = 1.0
"""How long the last words of a failed start may take to arrive."""
_KNOCKS: Final = 2.0
"""Seconds between two requests while a new version is waited for."""


@dataclass(frozen=True, slots=True)
class Target:
    """An app that is to answer, and what tells its version from the one before."""

    app: str
    url: str
    key: str
    """Key of the server, as its containers say it."""
    since: datetime | None
    """When this version was deployed, by Modal's clock."""
    known: frozenset[str] = frozenset()
    """Containers that were there before: what they say proves nothing."""
    alone: bool = True
    """No other version can answer, so that an answer is one of this version."""
    tells: bool = True
    """Its containers say that they are ready; those of older deployers do not."""
    restores: bool = False
    """A restore is expected: those that fail are counted, and end no wait."""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Headers for Modal's proxy."""


@dataclass(frozen=True, slots=True)
class Started:
    """A start that ended well."""

    seconds: float
    """Until it answered; for one beside an older version, until it was ready."""
    ready: Ready | None
    """Return the line of its container; None where none arrived."""
    captured: bool = False
    """Its container took a snapshot first."""
    failed: int = 0
    """Containers of this start that were restored and did not come up."""

    @property
    def really(self) -> bool:
        """It was a restore; unknown never counts as one."""
        return self.ready is not None and self.ready.restored

    @property
    def how(self) -> str:
        """Description of the start, for people."""
        if self.ready is None:
            return "started (whether from a snapshot is unknown)"
        many = "restore" if self.failed == 1 else "restores"
        before = f", after {self.failed} failed {many}" if self.failed else ""
        if self.ready.restored:
            return f"restored from its snapshot{before}"
        return f"started and captured{before}" if self.captured else f"started{before}"


def bring_up(
    account: Account, target: Target, say: Say, *, about: str, limit: float
) -> Started:
    """Ask until a container of this very version is ready.

    During a rolling deployment containers of the version before go on answering, so
    an answer proves nothing: the line that a container writes once its server has
    proven itself does, with the key of the server and a time after the deployment.
    Modal starts a container whose hook raised again, so the first failure that the log
    reports is the last one.  Raises EngineError, and leaves the app as it is.
    """
    log = Log(account, target.app, target.since)
    start = _Start(account, target, log, limit)
    wait = Wait(about, "a start on Modal", limit, show=is_ours)
    try:
        started = wait_for(start.look, log, say, wait)
    except (EngineError, TimedOutError) as error:
        last_words(log, say, about)
        raise not_started(log, error.message) from None
    say(Talk(about, f"{started.how} in {show_seconds(started.seconds)}"))
    return started


class _Start:
    """A start that is looked at again and again."""

    def __init__(
        self, account: Account, target: Target, log: Log, limit: float
    ) -> None:
        self._account = account
        self._target = target
        self._log = log
        self._limit = limit
        self._begun = time.monotonic()
        self._answer = knock(target.url, limit, target.headers)
        self._answered: float | None = None
        """When it answered first, in seconds since the first request."""
        self._knocked = self._begun
        self._pauses = growing(*_LOG_PAUSES)
        self._next = 0.0

    def look(self) -> Started | None:
        """Return the start once it is proven; raises EngineError once it failed."""
        self._ask()
        if self._answered is None or time.monotonic() < self._next:
            self._refuse_failure()
            return None
        self._next = time.monotonic() + next(self._pauses)
        late = self._passed() - self._answered > self._account.log_seconds
        found = proven(self._account, self._target)
        if found is not None and (found.settled or late):
            here = self._target.alone
            seconds = self._answered if here else self._passed()
            return Started(seconds, found.ready, found.captured, found.failed)
        self._refuse_failure()
        if not self._target.tells:
            return self._told_by_tasks()
        return Started(self._answered, None) if self._target.alone and late else None

    def _ask(self) -> None:
        if not self._answer.done():
            return
        if (error := self._answer.exception()) is not None:
            raise EngineError(str(error))
        if self._answered is None:
            self._answered = self._answer.result()
        if time.monotonic() - self._knocked > _KNOCKS:
            # What answered may be gone by now, and nothing starts without a request.
            self._knocked = time.monotonic()
            target = self._target
            self._answer = knock(target.url, self._limit, target.headers)

    def _passed(self) -> float:
        return time.monotonic() - self._begun

    def _told_by_tasks(self) -> Started | None:
        """Every container of before is gone, and another one answers."""
        if self._target.alone:
            return Started(self._answered or 0.0, None)
        tasks = set(self._account.tasks(self._target.app))
        gone = not tasks & self._target.known
        return Started(self._passed(), None) if tasks and gone else None

    def _refuse_failure(self) -> None:
        crashed: set[str] = set()
        for line in self._log.lines:
            if self._target.known.intersection(line.where):
                continue
            # A crash at a restore is followed by a start that captures again.
            signs = (_RAISED,) if self._target.restores else (_RAISED, _ENDED)
            if line.text.startswith(signs):
                raise EngineError("its start failed")
            if _CRASHED.match(line.text):
                crashed.update(_of(line))
        if len(crashed) >= _CRASHES:
            raise EngineError(
                f"{len(crashed)} containers in a row crashed at a restore"
            )


def woken(
    account: Account, target: Target, ask: Callable[[], object], say: Say, about: str
) -> Started:
    """Ask a server that sleeps, and report how it came up once its log tells."""
    log = Log(account, target.app, target.since)
    begun = time.monotonic()
    ask()
    seconds = time.monotonic() - begun

    def look() -> Started | None:
        late = time.monotonic() - begun - seconds > account.log_seconds
        found = proven(account, target)
        if found is not None and (found.settled or late):
            return Started(seconds, found.ready, found.captured, found.failed)
        return Started(seconds, None) if late else None

    wait = Wait(about, "the log", 2 * account.log_seconds, show=no_line, pause=1.0)
    return wait_for(look, log, say, wait)


@dataclass(frozen=True, slots=True)
class Proven:
    """A start as the log has it."""

    ready: Ready
    captured: bool
    failed: int
    settled: bool
    """Modal's own lines say it as well, or nobody asked for them."""


def proven(account: Account, target: Target) -> Proven | None:
    """Return what the log tells of the newest start of this version, if anything.

    Restores are told by container, and by the order of entries alone: a container that
    Modal restored and that captured nothing itself either says that it is ready, or
    its restore failed.  One that captured goes on from its own snapshot: where it never
    says that it is ready, that restore failed.
    """
    with suppress(DeployerError):
        if not (found := readies(account, target)):
            return None
        ready = found[-1]
        if not target.restores:
            return Proven(ready, captured=False, failed=0, settled=True)
        since = target.since or datetime.now(tz=UTC) - _A_DAY
        lines = account.log(target.app).since(since, text=_SNAPSHOT)
        new = [line for line in lines if not target.known.intersection(line.where)]
        captured = {
            it for line in new if _CAPTURES.match(line.text) for it in _of(line)
        }
        tried = {it for line in new if line.text == RESTORED for it in _of(line)}
        restored = {it.task for it in found if it.restored}
        failed = (tried - captured - restored) | (captured - {it.task for it in found})
        return Proven(
            ready,
            captured=ready.task in captured,
            failed=len(failed),
            settled=ready.task in captured | tried
            or (not ready.restored and bool(failed)),
        )
    return None


def _of(line: Line) -> tuple[str, ...]:
    """The container that a line is about."""
    return tuple(it for it in line.where if it.startswith(_CONTAINER))


def seen(account: Account, target: Target) -> Target:
    """The same target, every container known that its log names by now."""
    since = target.since or datetime.now(tz=UTC) - _A_DAY
    log = account.log(target.app)
    lines = patiently(account, lambda: log.since(since))
    named = (it for line in lines for it in _of(line))
    return replace(target, known=target.known.union(named))


def readies(account: Account, target: Target) -> list[Ready]:
    """Return the lines of containers of this version that were not known before."""
    since = target.since or datetime.now(tz=UTC) - _A_DAY
    found = []
    for line in account.log(target.app).since(since, text=READY.strip()):
        said = ready_of(line.text)
        if said is None or line.at < since or said.task in target.known:
            continue
        if target.key.startswith(said.server):
            found.append(said)
    return found


def last_words(log: Log, say: Say, about: str) -> None:
    """Tell what of the log is still on its way, until it shows the cause."""
    deadline = time.monotonic() + _WORDS_SECONDS
    for pause in growing(*_LOG_PAUSES):
        for line in filter(is_ours, log.now(any_line)):
            say(Talk(about, line.text))
        if _cause(log) is not None or time.monotonic() > deadline:
            return
        threading.Event().wait(pause)


def is_ours(line: Line) -> bool:
    """Not a line of llama-server, which says much, nor one that is meant for us."""
    return line.source != "stderr" and not line.text.startswith(READY)


def not_started(log: Log, why: str) -> EngineError:
    """Return what went wrong with a start, by what was logged."""
    if (cause := _cause(log)) is not None:
        return EngineError(
            f"llama-server did not start: {cause.meaning}", hint=cause.hint
        )
    words = [text for text in _texts(log) if text.strip()][-_LAST_WORDS:]
    said = "\n".join(["", *words]) if words else ""
    return EngineError(f"llama-server did not start: {why}{said}")


def _cause(log: Log) -> Symptom | None:
    return likely_cause(_texts(log), None)


def _texts(log: Log) -> list[str]:
    """Lines that containers wrote, without the words of the platform."""
    return [line.text for line in log.lines if line.source != SYSTEM]
