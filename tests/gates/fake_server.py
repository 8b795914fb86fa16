"""A llama-server in miniature on loopback, whose answers can be broken one by one.

Left alone it answers as llama-server b10434 does, as far as gates look; a test breaks
one thing by replacing the answer of one route, or what the model says.
"""

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

KEY = "sk-fake-0123456789"
COMMIT = "7e4c0a9"
Body = Mapping[str, Any]


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


@dataclass(frozen=True)
class Said:
    """What the model says to a request."""

    content: str = " The answer is 42."
    reasoning: str = ""
    calls: tuple[tuple[str, str], ...] = ()
    finish: str = "stop"


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
    says: Callable[[Body], Said] = lambda _body: Said()
    routes: Mapping[str, Responder] = field(default_factory=dict)
    peer: Callable[[str], None] = lambda _address: None
    """Is told where each request comes from."""
    busy_seconds: float = 0.15
    """How long a slot works on an answer whose length is forced."""


def as_json(value: object, status: int = 200) -> Reply:
    return Reply((json.dumps(value).encode(),), status)


def error(status: int, message: str, kind: str = "server_error") -> Reply:
    detail = {"message": message, "type": kind, "code": status}
    return as_json({"error": detail}, status)


def html(status: int = 200) -> Reply:
    page = b"<!DOCTYPE html><html><body>Welcome to nginx!</body></html>"
    return Reply((page,), status, "text/html")


class FakeServer:
    """The running server: counters, slots, and a log of what was asked."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.asked: list[str] = []
        self.prompt_tokens = 0
        self.predicted_tokens = 0
        self.busy = 0
        self.stopped = threading.Event()
        self.lock = threading.Lock()
        self.room = threading.Semaphore(script.slots)
        self._http = _Http(self)

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
        standard = _ROUTES.get(f"{method} {path}")
        return standard(request) if standard else error(404, "File Not Found")

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


@contextmanager
def fake_server(script: Script) -> Iterator[FakeServer]:
    with FakeServer(script).running() as server:
        yield server


def health(_request: Request) -> Reply:
    return as_json({"status": "ok"})


def props(request: Request) -> Reply:
    return as_json(props_value(request.server.script.slots))


def props_value(slots: int = 2) -> dict[str, Any]:
    return {
        "build_info": f"b10434-{COMMIT}",
        "total_slots": slots,
        "model_alias": "tiny",
        "default_generation_settings": {"n_ctx": 2048},
        "modalities": {"vision": False, "audio": False},
        "endpoint_slots": True,
        "endpoint_metrics": True,
        "chat_template": "",
        "chat_template_caps": {"supports_tools": True, "supports_tool_calls": True},
    }


def models(_request: Request) -> Reply:
    return as_json({"object": "list", "data": [{"id": "tiny", "aliases": ["tiny"]}]})


def tokenize(_request: Request) -> Reply:
    return as_json({"tokens": [352, 353]})


def metrics(request: Request) -> Reply:
    server = request.server
    return metrics_text(server.prompt_tokens, server.predicted_tokens)


def metrics_text(prompt: float | str, predicted: float | str) -> Reply:
    text = "".join(
        f"# HELP {name} tokens\n# TYPE {name} counter\n{name} {value}\n"
        for name, value in (
            ("llamacpp:prompt_tokens_total", prompt),
            ("llamacpp:tokens_predicted_total", predicted),
        )
    )
    return Reply((text.encode(),), content_type="text/plain; version=0.0.4")


def slots(request: Request) -> Reply:
    server = request.server
    return as_json(
        [
            {"id": n, "is_processing": n < server.busy}
            for n in range(server.script.slots)
        ]
    )


def chat(request: Request) -> Reply:
    server, body = request.server, request.body
    said = server.script.says(body)
    tokens = min(len(said.content.split()) + 1, body.get("max_tokens", 10**6))
    with server.room:
        _work(server, server.script.busy_seconds if body.get("ignore_eos") else 0)
    with server.lock:
        server.prompt_tokens += 11
        server.predicted_tokens += tokens
    if body.get("stream"):
        return events(*chunks(said, tokens), "[DONE]")
    return as_json(completion(said, tokens))


def _work(server: FakeServer, seconds: float) -> None:
    with server.lock:
        server.busy += 1
    server.stopped.wait(seconds)
    with server.lock:
        server.busy -= 1


def usage(tokens: int) -> dict[str, int]:
    return {
        "prompt_tokens": 11,
        "completion_tokens": tokens,
        "total_tokens": 11 + tokens,
    }


def completion(said: Said, tokens: int = 5) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": said.content}
    if said.reasoning:
        message["reasoning_content"] = said.reasoning
    if said.calls:
        message["tool_calls"] = [
            {"id": f"c{n}", "type": "function", "function": _function(call)}
            for n, call in enumerate(said.calls)
        ]
    choice = {"index": 0, "message": message, "finish_reason": said.finish}
    return {"id": "chatcmpl-1", "choices": [choice], "usage": usage(tokens)}


def chunks(said: Said, tokens: int = 5) -> list[dict[str, Any]]:
    """The stream of an answer, as llama-server cuts it."""
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": None}]
    deltas += [{"reasoning_content": word} for word in _pieces(said.reasoning)]
    deltas += [{"content": word} for word in _pieces(said.content)]
    for n, call in enumerate(said.calls):
        head = {"index": n, "id": f"c{n}", "type": "function"}
        function = {"name": call[0], "arguments": ""}
        deltas.append({"tool_calls": [{**head, "function": function}]})
        tail = {"index": n, "function": {"arguments": call[1]}}
        deltas.append({"tool_calls": [tail]})
    found = [chunk(delta) for delta in deltas]
    found.append(chunk({}, finish=said.finish))
    found.append({"id": "chatcmpl-1", "choices": [], "usage": usage(tokens)})
    return found


def chunk(delta: Body, *, finish: str | None = None, index: int = 0) -> dict[str, Any]:
    choice = {"index": index, "delta": dict(delta), "finish_reason": finish}
    return {"id": "chatcmpl-1", "choices": [choice]}


def events(*items: object) -> Reply:
    """A stream of server-sent events; bytes and parts go out as they are."""
    return Reply(tuple(_event(item) for item in items), content_type=EVENT_STREAM)


EVENT_STREAM = "text/event-stream"


def _event(item: object) -> bytes | Part:
    match item:
        case bytes() | Part():
            return item
        case str():
            return f"data: {item}\n\n".encode()
        case _:
            return f"data: {json.dumps(item)}\n\n".encode()


def _pieces(text: str) -> list[str]:
    return [f" {word}" for word in text.split()]


def _function(call: tuple[str, str]) -> dict[str, str]:
    return {"name": call[0], "arguments": call[1]}


_ROUTES: Mapping[str, Responder] = {
    "GET /health": health,
    "GET /props": props,
    "GET /v1/models": models,
    "POST /tokenize": tokenize,
    "GET /metrics": metrics,
    "GET /slots": slots,
    "POST /v1/chat/completions": chat,
}


class _Http(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, fake: FakeServer) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.fake = fake


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        self._answer({})

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        self._answer(json.loads(self.rfile.read(length) or b"{}"))

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
            self.close_connection = True

    def _send(self, reply: Reply) -> None:
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
