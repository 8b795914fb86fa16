"""A client of a server: so many requests a second, and what came of each."""

import http.client
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

RATE = 20
"""Requests a second."""
_SECONDS = 60.0


@dataclass
class Counts:
    """Requests by what they came to: a status, or the name of an error."""

    found: Counter[str] = field(default_factory=Counter)
    servers: list[str] = field(default_factory=list)
    """Keys of the servers that answered, in the order of their first answer."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def failed(self) -> int:
        return sum(count for what, count in self.found.items() if what != "200")

    def add(self, what: str, server: str) -> None:
        with self._lock:
            self.found[what] += 1
            if server and server not in self.servers:
                self.servers.append(server)

    def __str__(self) -> str:
        return ", ".join(f"{what}: {n}" for what, n in sorted(self.found.items()))


@contextmanager
def clients(url: str, *, path: str = "/health", rate: float = RATE) -> Iterator[Counts]:
    """Ask beside the block, until it ends; answers that are under way are awaited."""
    counts, stop = Counts(), threading.Event()

    def ask() -> None:
        parts = urlsplit(url)
        connection = http.client.HTTPConnection(parts.netloc, timeout=_SECONDS)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            answer.read()
            counts.add(str(answer.status), answer.getheader("x-emulated-server") or "")
        except (OSError, http.client.HTTPException) as error:
            counts.add(type(error).__name__, "")
        finally:
            connection.close()

    def loop(pool: ThreadPoolExecutor) -> None:
        while not stop.wait(1 / rate):
            pool.submit(ask)

    with ThreadPoolExecutor(max_workers=64) as pool:
        thread = threading.Thread(target=loop, args=(pool,), daemon=True)
        thread.start()
        try:
            yield counts
        finally:
            stop.set()
            thread.join()
