"""One request that starts a container, followed through Modal's redirects.

A request that is not answered within 150 seconds is answered with 303 and goes on
under another address, which has to be asked with GET; `endpoint: server` answers 503
until a container is ready.
"""

import http.client
import threading
import time
from concurrent.futures import Future
from http import HTTPStatus
from typing import Final
from urllib.parse import urljoin, urlsplit

from deployer.system.pauses import growing

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
