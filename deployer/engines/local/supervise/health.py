"""How a server process is: healthy, silent, hung.

llama-server listens long before its model is loaded and answers 503 until then
(all builds from b8672 to b11434).  On a shared port an answer proves nothing by
itself: until the candidate listens, the kernel gives its requests to the live
server.  So an answer counts only from the process that is waited for.

A server whose threads all wait for slow clients, or that computes on every core, may
leave ``/health`` unanswered for a while, and ending it would cut its clients.  So
silence alone proves nothing: a server counts as hung when it leaves every question
unanswered for `PROOF_SECONDS` and uses next to no processor time meanwhile.
llama-server closes an idle connection after 5 s, which the proof outlasts.

A deadlock in the loop that computes leaves ``/health`` alone, which other threads
answer (seen with a main thread that was stopped, b10434).  ``/slots`` is answered by
that loop itself, and so is asked where the server does not sleep: that would wake it.
"""

import http.client
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import psutil

from deployer.engines.local.logs import last_lines
from deployer.engines.local.ports import (
    accepted_by,
    in_use,
    listeners,
    listens,
    refused,
)
from deployer.engines.local.supervise.process import Ended, Running, wait_for_end
from deployer.errors import EngineError, TimedOutError
from deployer.llama.known.symptoms import Symptom, likely_cause
from deployer.system.children import growing

_FIRST_PAUSE: Final = 0.005
_LONGEST_PAUSE: Final = 0.1
_GROWTH: Final = 1.05
"""A server is found healthy at most a twentieth of its start late."""
_REQUEST_SECONDS: Final = 5.0
_SAY_SECONDS: Final = 2.0
_EXCERPT_LINES: Final = 15
_SEARCHED_LINES: Final = 200
_BODY_BYTES: Final = 400

# The kernel's table of sockets is read in pieces while it changes: one look may
# miss a connection.
_LOOKS: Final = 3


class Answer(Enum):
    """The answer to a request for /health; STRANGE: from another process."""

    HEALTHY = auto()
    UNHEALTHY = auto()
    STRANGE = auto()
    NONE = auto()


def wait_healthy(
    running: Running,
    url: str,
    *,
    limit: float,
    source_address: str,
    say: Callable[[str], None],
    heard: Callable[[int, str], None] = lambda _status, _body: None,
) -> None:
    """Wait up to `limit` seconds until `url`/health is 200 from this very process.

    Requests come from `source_address` (empty: any).  Status and body of the first of
    its answers that is not 200 are `heard`: what it says while it loads.  Raises
    `EngineError` with the likely cause and the end of the log as soon as the process is
    gone or another one answers, `TimedOutError` when the limit runs out.
    """
    begun = said = time.monotonic()
    listening, ear = False, _Ear(heard)
    pauses = growing(_FIRST_PAUSE, _LONGEST_PAUSE, _GROWTH)
    while True:
        listening = listening or listens(running.pid, running.port)
        answer = _answer(running, url, source_address, ear) if listening else None
        if answer is Answer.HEALTHY:
            return
        if answer is Answer.STRANGE:
            _refuse_stranger(running)
        left = begun + limit - time.monotonic()
        ended = wait_for_end(running, max(0.0, min(next(pauses), left)))
        if ended is not None:
            raise _died(running, ended, url)
        now = time.monotonic()
        if now >= begun + limit:
            raise _too_slow(running, limit)
        if now - said >= _SAY_SECONDS:
            say(f"the server loads its model, {now - begun:.0f} s so far")
            said = now


def is_healthy(running: Running, url: str, source_address: str) -> bool:
    """Return whether `url`/health is 200 now, and answered by this very process.

    A request from an address that is steered to another server is a no.
    """
    return health_now(running, url, source_address) is Answer.HEALTHY


def health_now(
    running: Running, url: str, source_address: str, limit: float = _REQUEST_SECONDS
) -> Answer:
    """Ask `url`/health once, for `limit` seconds at most."""
    if not listens(running.pid, running.port):
        return Answer.NONE
    return _answer(running, url, source_address, None, limit)


HEALTH: Final = "/health"
"""Answered by the threads that speak HTTP."""
SLOTS: Final = "/slots"
"""Answered by the loop that computes; needs a key where the server has one, and is
refused by the threads that speak HTTP where the server does not offer it."""


def answers(
    running: Running,
    url: str,
    source_address: str,
    limit: float,
    ask: tuple[str, str | None] = (HEALTH, None),
) -> bool:
    """Return whether a page is answered within `limit` seconds, whatever with."""
    if not listens(running.pid, running.port):
        return False
    found = _answer(running, url, source_address, None, limit, ask)
    return found is not Answer.NONE


@dataclass(slots=True)
class _Ear:
    """Hears what a server says first while it loads, and no more."""

    heard: Callable[[int, str], None] | None

    def hear(self, status: int, body: str) -> None:
        if self.heard is not None:
            self.heard(status, body)
            self.heard = None


def _answer(
    running: Running,
    url: str,
    source_address: str,
    ear: _Ear | None,
    limit: float = _REQUEST_SECONDS,
    ask: tuple[str, str | None] = (HEALTH, None),
) -> Answer:
    page, key = ask
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    place = urlsplit(url)
    connection = http.client.HTTPConnection(
        place.hostname or "",
        place.port,
        timeout=limit,
        source_address=(source_address, 0) if source_address else None,
    )
    try:
        connection.connect()
        client = connection.sock.getsockname()[:2]
        path = f"{place.path.rstrip('/')}{page}"
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        if answer.status != http.HTTPStatus.OK:
            if ear is not None and ear.heard is not None and _accepted(running, client):
                text = answer.read(_BODY_BYTES).decode(errors="replace")
                ear.hear(answer.status, text)
            return Answer.UNHEALTHY
        own = _accepted(running, client)
    except (OSError, http.client.HTTPException):
        return Answer.NONE
    finally:
        connection.close()
    return Answer.HEALTHY if own else Answer.STRANGE


def _accepted(running: Running, client: tuple[str, int]) -> bool:
    """Tell if this very process has the connection: it keeps it open till then."""
    return any(accepted_by(running.pid, running.port, client) for _ in range(_LOOKS))


def _refuse_stranger(running: Running) -> None:
    """Raise, unless the process is just ending, which explains another's answer."""
    if not listens(running.pid, running.port):
        return
    others = [one for one in listeners(running.port) if one.pid != running.pid]
    raise EngineError(
        f"the answer on port {running.port} is not from the server that was started,"
        f" pid {running.pid}: {in_use(running.port, others)}",
        hint="stop the other server on this port, then run `deployer apply` again",
    )


def _died(running: Running, ended: Ended, url: str) -> EngineError:
    log = Path(running.log)
    cause = likely_cause(last_lines(log, _SEARCHED_LINES), ended.exit_code)
    if cause is None and (
        reason := refused(urlsplit(url).hostname or "", running.port)
    ):
        # A llama-server that ends at once may lose its last words (1 of 40 did).
        hint = "free the port, or set `local.port`"
        cause = Symptom("port-in-use", "", reason, hint)
    why = f": {cause.meaning}" if cause else ""
    how = how_ended(ended.exit_code)
    return EngineError(
        f"the server ended {how} before it was healthy{why}{_excerpt(log)}",
        hint=cause.hint if cause else f"the whole log is in `{log}`",
    )


def _too_slow(running: Running, limit: float) -> TimedOutError:
    log = Path(running.log)
    return TimedOutError(
        f"the server is not healthy after {limit:g} s{_excerpt(log)}",
        hint="a large model needs more time from a slow disk; raise the limit",
    )


def how_ended(exit_code: int | None) -> str:
    """Return how a process ended, by its exit code; negative for a signal."""
    match exit_code:
        case None:
            return "(exit code unknown)"
        case code if code < 0:
            return f"by signal {-code}"
        case code:
            return f"with exit code {code}"


def _excerpt(log: Path) -> str:
    lines = last_lines(log, _EXCERPT_LINES)
    if not lines:
        return ""
    return "".join(f"\n    {line}" for line in (f"last lines of {log}:", *lines))


PROOF_SECONDS: Final = 8.0
_ASK_SECONDS: Final = 2.0
_LOOK_PAUSE: Final = 0.5
_IDLE_SHARE: Final = 0.02
"""Share of a core; a server that generates uses more, also with all layers on a GPU."""


def why_hung(
    running: Running,
    url: str,
    source_address: str,
    *,
    proof: float = PROOF_SECONDS,
    ask: tuple[str, str | None] = (HEALTH, None),
) -> str:
    """Return how a server hangs; empty where it answers, works or has ended.

    `ask` is a page and the key for it.  Returns at the first answer, and after `proof`
    seconds at the latest.
    """
    begun, used = time.monotonic(), _processor_seconds(running)
    while (left := begun + proof - time.monotonic()) > 0:
        if answers(running, url, source_address, min(left, _ASK_SECONDS), ask):
            return ""
        if wait_for_end(running, max(0.0, min(left, _LOOK_PAUSE))) is not None:
            return ""
    if _processor_seconds(running) - used > _IDLE_SHARE * proof:
        return ""
    state = "stopped by a signal" if _is_stopped(running) else "without any work"
    return f"pid {running.pid} hangs: no answer on {ask[0]} for {proof:g} s, {state}"


def _processor_seconds(running: Running) -> float:
    with suppress(psutil.Error):
        times = psutil.Process(running.pid).cpu_times()
        return float(times.user + times.system)
    return 0.0


def _is_stopped(running: Running) -> bool:
    with suppress(psutil.Error):
        status: str = psutil.Process(running.pid).status()
        return status == psutil.STATUS_STOPPED
    return False
