"""An HTTP server on loopback that answers by a script, down to the last byte."""

import json
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum, auto
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.gates.fake_model import Body, Said, usual_answer

KEY = "sk-fake-0123456789"
EVENT_STREAM = "text/event-stream"


class Part(Enum):
    """What can happen at the end of a body."""

    RESET = auto()
    """The connection is reset."""
    CLOSE = auto()
    """The connection is closed in order, but before the end."""
    DRIP = auto()
    """A comment a moment, until the client has enough."""
    SILENCE = auto()
    """Nothing, until the client has enough."""


@dataclass(frozen=True)
class Reply:
    """One HTTP answer, byte by byte."""

    parts: tuple[bytes | Part, ...]
    status: int = 200
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)


def as_json(value: object, status: int = 200) -> Reply:
    return Reply((json.dumps(value).encode(),), status)


def error(status: int, message: str, kind: str = "server_error") -> Reply:
    detail = {"message": message, "type": kind, "code": status}
    return as_json({"error": detail}, status)


PARSE_ERROR = error(500, "parse error at line 1")


@dataclass(frozen=True)
class Request:
    """What was asked."""

    server: "FakeServer"
    body: Body
    headers: Mapping[str, str]


Responder = Callable[[Request], Reply]


@dataclass(frozen=True)
class Script:
    """How the server answers."""

    key: str | None = KEY
    slots: int = 2
    says: Callable[[Body], Said] = usual_answer
    routes: Mapping[str, Responder] = field(default_factory=dict)
    peer: Callable[[str], None] = lambda _address: None
    """Is told where each request comes from."""
    busy_seconds: float = 0.15
    """How long a slot works on an answer whose length is forced."""
    timings: bool = True
    """Whether answers carry the server's own clock."""
    broken_json: Reply = PARSE_ERROR
    """The answer to a body that is no JSON."""
    rewrite: Callable[[Reply], Reply] = lambda reply: reply
    """Changes every answer on its way out."""


def html(status: int = 200) -> Reply:
    page = b"<!DOCTYPE html><html><body>Welcome to nginx!</body></html>"
    return Reply((page,), status, "text/html")


def events(*items: object) -> Reply:
    """A stream of server-sent events; bytes and parts go out as they are."""
    return Reply(tuple(_event(item) for item in items), content_type=EVENT_STREAM)


def named_events(*items: Mapping[str, Any]) -> Reply:
    """A stream of events that are named by their type."""
    return events(
        *(
            f"event: {item['type']}\ndata: {json.dumps(item)}\n\n".encode()
            for item in items
        )
    )


def _event(item: object) -> bytes | Part:
    match item:
        case bytes() | Part():
            return item
        case str():
            return f"data: {item}\n\n".encode()
        case _:
            return f"data: {json.dumps(item)}\n\n".encode()


class FakeServer:
    """The running server: counters, slots, and a log of what was asked."""

    def __init__(
        self, script: Script, usual: Mapping[str, Responder], port: int = 0
    ) -> None:
        """`port` is shared with others who share it; 0: one that the kernel gives."""
        self.script = script
        self.usual = usual
        self.asked: list[str] = []
        self.prompt_tokens = 0
        self.predicted_tokens = 0
        self.busy = 0
        self.slot = self.saved = ""
        """Prompt that slot 0 holds, and the one that was saved."""
        self.read: set[str] = set()
        """Prompts that were read before."""
        self.stopped = threading.Event()
        self.hung_up = threading.Event()
        """A client left before its answer was whole."""
        self.lock = threading.Lock()
        self.room = threading.Semaphore(script.slots)
        self._http = _Http(self, port)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    def answer(self, method: str, path: str, request: Request) -> Reply:
        with self.lock:
            self.asked.append(f"{method} {path}")
        responder = self.script.routes.get(f"{method} {path}")
        if responder is not None:
            return responder(request)
        if path not in {"/health", "/v1/models"} and not self._let_in(request):
            return error(401, "Invalid API Key", "authentication_error")
        standard = self.usual.get(f"{method} {path}")
        if standard is None:
            return error(404, "File Not Found", "not_found_error")
        return standard(request)

    def _let_in(self, request: Request) -> bool:
        key = self.script.key
        given = request.headers.get("Authorization", "").removeprefix("Bearer ")
        return key is None or key in {given, request.headers.get("X-Api-Key")}

    @contextmanager
    def running(self) -> Iterator["FakeServer"]:
        thread = threading.Thread(target=self._http.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield self
        finally:
            self.stopped.set()
            self._http.shutdown()
            thread.join()
            self._http.server_close()


class _Http(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, fake: FakeServer, port: int) -> None:
        self.allow_reuse_port = port != 0
        super().__init__(("127.0.0.1", port), _Handler)
        self.fake = fake


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        self._answer({})

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        try:
            self._answer(json.loads(self.rfile.read(length) or b"{}"))
        except json.JSONDecodeError:
            self._send(self._fake().script.broken_json)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing."""

    def _fake(self) -> FakeServer:
        assert isinstance(self.server, _Http)
        return self.server.fake

    def _answer(self, body: Body) -> None:
        self._fake().script.peer(self.client_address[0])
        request = Request(self._fake(), body, dict(self.headers))
        reply = self._fake().answer(self.command, self.path, request)
        try:
            self._send(reply)
        except (BrokenPipeError, ConnectionResetError):
            self._fake().hung_up.set()
            self.close_connection = True

    def _send(self, reply: Reply) -> None:
        reply = self._fake().script.rewrite(reply)
        parts = [part for part in reply.parts if isinstance(part, bytes) and part]
        strange = [part for part in reply.parts if isinstance(part, Part)]
        chunked = bool(strange) or reply.content_type == EVENT_STREAM
        self.send_response(reply.status)
        self.send_header("Content-Type", reply.content_type)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        if chunked:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", str(sum(map(len, parts))))
        self.end_headers()
        for part in parts:
            self._write(part, chunked=chunked)
        for end in strange:
            self._misbehave(end)
        if chunked and not strange:
            self.wfile.write(b"0\r\n\r\n")

    def _write(self, part: bytes, *, chunked: bool) -> None:
        framed = b"%x\r\n%s\r\n" % (len(part), part) if chunked else part
        self.wfile.write(framed)
        self.wfile.flush()

    def _misbehave(self, part: Part) -> None:
        self.close_connection = True
        match part:
            case Part.RESET:
                hard = struct.pack("ii", 1, 0)
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, hard)
                self.connection.close()
            case Part.CLOSE:
                """The handler closes the connection, without a last chunk."""
            case Part.SILENCE:
                self._fake().stopped.wait()
            case Part.DRIP:
                while not self._fake().stopped.wait(0.02):
                    self._write(b": still there\n\n", chunked=True)
