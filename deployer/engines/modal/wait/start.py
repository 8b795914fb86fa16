"""A start on Modal, followed until the server is healthy or has failed once."""

import threading
from concurrent.futures import Future
from contextlib import suppress
from typing import Final

from deployer.engines.modal.drive import Account
from deployer.engines.modal.types import SYSTEM, Line
from deployer.engines.modal.wait.first_request import knock
from deployer.engines.modal.wait.follow import Log, Wait, any_line, wait_for
from deployer.errors import DeployerError, EngineError, TimedOutError
from deployer.llama.known.symptoms import likely_cause
from deployer.planning.events import Say, Talk
from deployer.stack.fields.units import show_seconds

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
