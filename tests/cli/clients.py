"""Clients that ask a server at a steady pace, whatever happens to it."""

import http.client
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

PACE = 0.05
"""Seconds between two requests: 20 a second."""
PATIENCE = 20.0
"""Seconds after which a client gives up."""

BODY = json.dumps(
    {
        "messages": [{"role": "user", "content": "Hello"}],
        "chat_template_kwargs": {"enable_thinking": False},
    }
)


@dataclass
class Tally:
    """What the clients met."""

    answered: int = 0
    failures: list[str] = field(default_factory=list)
    slowest: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)


def chat(port: int, key: str) -> str:
    """What the model answers, asked on a new connection.

    Raises OSError, HTTPException, or ValueError for anything but an answer.
    """
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        connection.request("POST", "/v1/chat/completions", BODY, headers)
        answer = connection.getresponse()
        body = answer.read()
    finally:
        connection.close()
    if answer.status != http.HTTPStatus.OK:
        raise ValueError(f"HTTP {answer.status}: {body[:100]!r}")
    content: str = json.loads(body)["choices"][0]["message"]["content"]
    return content.strip()


@contextmanager
def clients(port: int, key: str) -> Iterator[Tally]:
    """Ask on a new connection every 50 ms until the block ends."""
    tally, ended = Tally(), threading.Event()
    asking: list[threading.Thread] = []

    def pace() -> None:
        next_one = time.monotonic()
        while not ended.wait(max(0.0, next_one - time.monotonic())):
            asking.append(threading.Thread(target=_ask, args=(port, key, tally)))
            asking[-1].start()
            next_one += PACE

    pacer = threading.Thread(target=pace)
    pacer.start()
    try:
        yield tally
    finally:
        ended.set()
        pacer.join()
        for one in asking:
            one.join()


def _ask(port: int, key: str, tally: Tally) -> None:
    begun = time.monotonic()
    trouble = _trouble(port, key)
    took = time.monotonic() - begun
    with tally.lock:
        tally.slowest = max(tally.slowest, took)
        if trouble:
            tally.failures.append(trouble)
        else:
            tally.answered += 1


def _trouble(port: int, key: str) -> str:
    """Why a request was not answered; empty if it was."""
    try:
        said = chat(port, key)
    except (OSError, http.client.HTTPException, ValueError) as error:
        return repr(error)
    return "" if said == "The answer is 42." else f"answered {said!r}"
