"""A real S3 server on loopback, behind a proxy that breaks answers as it is told.

The server is moto's, which checks `If-Match` and `If-None-Match` as S3 does.  The proxy
lets one request through at a time, so that a check and its write are one.
"""

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from email.message import Message
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from deployer.state.objects import ObjectBucket, open_bucket

REGION = "us-east-1"

Answer = tuple[int, list[tuple[str, str]], bytes]


class Proxy:
    """What stands between the store and the server, and the faults it has in store."""

    def __init__(self, server: tuple[str, int]) -> None:
        self.faults: deque[str] = deque()
        """Taken one a request; ``""`` lets one through as it is."""
        self.seen: list[str] = []
        """Method and path of every request."""
        self.carried: list[tuple[int, int]] = []
        """Bytes of the body of each, and of its answer."""
        self.connections = 0
        self._server = server
        self._one = threading.Lock()
        self._before: dict[str, list[Answer]] = {}

    def answer(
        self, method: str, path: str, headers: Message, body: bytes
    ) -> tuple[Answer | None, str]:
        """What to say, and how to spoil it; None: hang up without a word."""
        with self._one:
            self.seen.append(f"{method} {path.partition('?')[0]}")
            fault = self.faults.popleft() if self.faults else ""
            if fault in ("500", "503", "409", "412"):
                return (int(fault), [], _problem(fault)), ""
            if fault == "refused":
                return None, ""
            real = self._real(method, path, headers, body)
            self.carried.append((len(body), len(real[2]) if real[0] == 200 else 0))
            if fault == "stale" and method == "GET":
                return self._older(path, real), ""
            self._remember(method, path, real)
            if fault == "500 after":
                return (500, [], _problem("500")), ""
            if fault == "lost":
                return None, ""
            return real, fault if method == "GET" else ""

    def _real(self, method: str, path: str, headers: Message, body: bytes) -> Answer:
        connection = HTTPConnection(*self._server)
        connection.request(method, path, body or None, dict(headers.items()))
        with connection.getresponse() as response:
            content = response.read()
            dropped = ("transfer-encoding", "connection", "content-length")
            kept = [
                (name, value)
                for name, value in response.getheaders()
                if name.lower() not in dropped
            ]
        connection.close()
        return response.status, kept, content

    def _remember(self, method: str, path: str, real: Answer) -> None:
        if method == "GET" and real[0] == 200 and "?" not in path:
            known = self._before.setdefault(path, [])
            if not known or known[-1] != real:
                known.append(real)

    def _older(self, path: str, real: Answer) -> Answer:
        """The version of an object before the one that is there."""
        known = [it for it in self._before.get(path, []) if it[2] != real[2]]
        return known[-1] if known else real


@contextmanager
def proxied(server: tuple[str, int]) -> Iterator[tuple[Proxy, str]]:
    """A proxy before a server, and its URL."""
    proxy = Proxy(server)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # an answer in one piece: else each waits for an old timer

        def setup(self) -> None:
            proxy.connections += 1
            super().setup()

        def _any(self) -> None:
            length = int(self.headers.get("content-length") or 0)
            body = self.rfile.read(length)
            answer, spoil = proxy.answer(self.command, self.path, self.headers, body)
            if answer is None:
                self.close_connection = True
                return
            status, headers, content = answer
            self.send_response(status)
            for name, value in headers:
                self.send_header(name, value)
            if self.command != "HEAD":
                self.send_header("content-length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                cut = len(content) // 2 if spoil == "truncated" else len(content)
                self.wfile.write(content[:cut])
                self.close_connection = spoil == "truncated"

        do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = _any  # noqa: N815 - theirs

        def log_message(self, *_words: Any) -> None:
            """Stay quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        thread = threading.Thread(target=listening.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield proxy, f"http://127.0.0.1:{listening.server_address[1]}"
        finally:
            listening.shutdown()
            thread.join()


def bucket_at(url: str, folder: str) -> ObjectBucket:
    """A folder of the bucket `states` behind a URL."""
    options = {"endpoint": url, "region": REGION}
    return open_bucket(f"s3://states/{folder}", options)


def _problem(status: str) -> bytes:
    codes = {
        "409": "ConditionalRequestConflict",
        "412": "PreconditionFailed",
        "503": "SlowDown",
    }
    code = codes.get(status, "InternalError")
    return f"<Error><Code>{code}</Code></Error>".encode()
