"""F12: servers that answer wrongly in a hundred ways, and none of them is promoted.

The gates and the loop of an apply are the real ones; only the server lies.  It is right
in everything but one or more faults, drawn anew for each server.
"""

import json
import os
import random
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from deployer.errors import GateError
from deployer.gates.harness.client import Target
from deployer.gates.harness.runner import run_gates
from deployer.planning.events import Outcome, Verdict
from deployer.planning.state import Record
from deployer.stack.fields.values import JsonValue
from deployer.testing import FakeJudge
from deployer.usecases.check import requests_of
from tests.applying import SERVER, Desk, graph
from tests.planning.checking import LOCAL, but

pytestmark = pytest.mark.trust

SERVERS = 300 if os.environ.get("DEPLOYER_LONG") else 24
LIMIT = "1s"
GATES = (
    "gates: {chat: {timeout: LIMIT}, stream: {timeout: LIMIT},"
    " models: {timeout: LIMIT}}\n"
).replace("LIMIT", LIMIT)
GATED = LOCAL + GATES
EXPECTS: dict[str, JsonValue] = {"model.alias": "tiny", "server.parallel": 4}
"""What the stack states: so no time is lost in asking for the number of slots."""
USAGE = {"usage": {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}}
FAULTS = (
    *("503", "silent", "empty", "half a stream", "a page"),
    *(
        "another model",
        "thoughts",
        "half a body",
        "reset",
        "not json",
    ),
)


class Liar(BaseHTTPRequestHandler):
    """Answers in the protocol, but for its faults."""

    faults: Sequence[str] = ()
    hold: threading.Event
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer(self.path, {})

    def do_POST(self) -> None:
        length = int(self.headers.get("content-length") or 0)
        self._answer(self.path, json.loads(self.rfile.read(length) or b"{}"))

    def log_message(self, *_words: Any) -> None:
        """Stay quiet."""

    def _answer(self, path: str, asked: dict[str, Any]) -> None:
        if path == "/health":
            self._send(200, b'{"status":"ok"}')
        elif "503" in self.faults:
            self._send(503, b'{"error":{"message":"busy"}}')
        elif "silent" in self.faults:
            self.hold.wait(30)
            self.close_connection = True
        elif "reset" in self.faults:
            self.close_connection = True
        elif "empty" in self.faults:
            self._send(200, b"")
        elif "a page" in self.faults:
            self._send(200, b"<html>It works!</html>", "text/html")
        elif "not json" in self.faults:
            self._send(200, b'{"choices":[')
        else:
            self._sound(path, asked)

    def _sound(self, path: str, asked: dict[str, Any]) -> None:
        if path == "/v1/models":
            name = "other" if "another model" in self.faults else "tiny"
            self._send(200, json.dumps({"data": [{"id": name}]}).encode())
        elif asked.get("stream"):
            self._send(200, self._stream(), "text/event-stream")
        else:
            self._send(200, json.dumps(self._completion()).encode())

    def _completion(self) -> dict[str, Any]:
        text = "</think>Hello" if "thoughts" in self.faults else "Hello"
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return {**self._head("chat.completion"), "choices": [choice], **USAGE}

    def _stream(self) -> bytes:
        head = self._head("chat.completion.chunk")
        deltas = [{"role": "assistant"}, *[{"content": "Hello"}] * 4, {}]
        ends = [None] * 5 + ["stop"]
        choices = [
            {"index": 0, "delta": delta, "finish_reason": end}
            for delta, end in zip(deltas, ends, strict=True)
        ]
        events = [{**head, "choices": [choice]} for choice in choices]
        events.append({**head, "choices": [], **USAGE})
        text = "".join(f"data: {json.dumps(event)}\n\n" for event in events)
        whole = f"{text}data: [DONE]\n\n".encode()
        return whole[: len(whole) // 2] if "half a stream" in self.faults else whole

    def _head(self, kind: str) -> dict[str, Any]:
        model = "other" if "another model" in self.faults else "tiny"
        return {"id": "chatcmpl-1", "object": kind, "created": 1, "model": model}

    def _send(self, status: int, body: bytes, kind: str = "application/json") -> None:
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        if "half a body" in self.faults and self.path != "/health":
            body = body[: len(body) // 2]
            self.close_connection = True
        self.wfile.write(body)


@contextmanager
def lying(faults: Sequence[str]) -> Iterator[str]:
    """A server with these faults, and its URL."""
    hold = threading.Event()
    handler = type("Handler", (Liar,), {"faults": faults, "hold": hold})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            hold.set()
            server.shutdown()
            thread.join()


class RealJudge(FakeJudge):
    """The real gates, against a server of the test's."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self._url = url
        self.verdicts: tuple[Verdict, ...] = ()

    def __call__(
        self, record: Record, gates: Sequence[str], *, candidate: bool
    ) -> tuple[Verdict, ...]:
        del candidate
        target = Target(self._url, expects=EXPECTS)
        requests = requests_of(gates, record.fields)
        self.verdicts = run_gates(requests, target, say=lambda _: None, jobs=4)
        return self.verdicts


@pytest.fixture(name="desk", scope="module")
def _desk() -> Desk:
    desk = Desk()
    desk.apply(LOCAL)
    return desk


@pytest.mark.parametrize("seed", range(SERVERS))
def test_a_server_that_lies_is_not_promoted(desk: Desk, seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311 - the same servers in every run
    first = FAULTS[seed % len(FAULTS)]
    faults = {first, *chance.sample(FAULTS, k=chance.choice((0, 0, 1, 2)))}
    before = desk.state
    live = graph(LOCAL)[SERVER].key
    with lying(tuple(faults)) as url:
        desk.judge = RealJudge(url)
        with pytest.raises(GateError):
            desk.apply(but(GATED, "4096", "8192"))
    assert desk.engine.traffic == {SERVER: live}
    assert set(desk.engine.running) == {(SERVER, live)}
    assert desk.state.live == before.live
    assert desk.state.loose == ()
    assert desk.engine.outages == []
    assert desk.judge.verdicts[0].outcome is Outcome.PASS, "the server was reached"


def test_one_that_tells_the_truth_passes_what_it_can(desk: Desk) -> None:
    """Else the test above would show nothing."""
    with lying(()) as url:
        desk.judge = RealJudge(url)
        desk.apply(but(GATED, "4096", "2048"))
    assert desk.engine.traffic != {SERVER: graph(LOCAL)[SERVER].key}
