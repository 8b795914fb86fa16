"""Promotion under load with the real llama-server: no request may fail."""

import http.client
import json
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest

from deployer.engines.local.reuseport import GATE_SOURCE, steer
from deployer.engines.local.supervise.health import wait_healthy
from deployer.engines.local.supervise.process import (
    Running,
    drain,
    is_alive,
    spawn,
    stop,
)

pytestmark = pytest.mark.real

HOST: Final = "127.0.0.1"
CHAT: Final = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4}
REQUESTS: Final[tuple[tuple[str, dict[str, object] | None], ...]] = (
    ("/health", None),
    ("/v1/models", None),
    ("/v1/chat/completions", CHAT),
    ("/v1/chat/completions", {**CHAT, "stream": True}),
)
# llama-server b10434 closes a connection after a stream, though it says keep-alive.
KEPT_ALIVE_REQUESTS: Final = REQUESTS[:3]


@dataclass(frozen=True, slots=True)
class Answer:
    sent: float
    seconds: float
    server: str
    kept_alive: bool


@dataclass(frozen=True, slots=True)
class Load:
    """Ten requests a second on new connections, and ten on one that stays open."""

    port: int
    ended: threading.Event = field(default_factory=threading.Event)
    answers: list[Answer] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def run(self) -> None:
        keeping = self._connection()
        with ThreadPoolExecutor(16) as pool:
            number = 0
            pending: list[Future[None]] = []
            while not self.ended.wait(0.1):
                pending.append(pool.submit(self._ask_once, number))
                number_kept = number % len(KEPT_ALIVE_REQUESTS)
                self._ask(keeping, number_kept, kept_alive=True)
                number += 1
            for future in pending:
                future.result()
        keeping.close()

    def _connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(HOST, self.port, timeout=15)

    def _ask_once(self, number: int) -> None:
        connection = self._connection()
        self._ask(connection, number, kept_alive=False)
        connection.close()

    def _ask(
        self, connection: http.client.HTTPConnection, number: int, *, kept_alive: bool
    ) -> None:
        sent = time.monotonic()
        try:
            server = ask(connection, *REQUESTS[number % len(REQUESTS)])
        except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
            self.failures.append(f"{REQUESTS[number % len(REQUESTS)]}: {error!r}")
            connection.close()
        else:
            seconds = time.monotonic() - sent
            self.answers.append(Answer(sent, seconds, server, kept_alive))


def ask(
    connection: http.client.HTTPConnection, path: str, body: dict[str, object] | None
) -> str:
    """Return the alias of the server that answered, empty where it does not tell."""
    headers = {"Content-Type": "application/json"}
    if body is None:
        connection.request("GET", path)
    else:
        connection.request("POST", path, json.dumps(body), headers)
    response = connection.getresponse()
    text = response.read().decode()
    if response.status != http.HTTPStatus.OK:
        raise ValueError(f"{response.status} {text}")
    match body:
        case None if path == "/health":
            return ""
        case {"stream": True}:
            events = [line[6:] for line in text.splitlines() if line[:6] == "data: "]
            if events[-1] != "[DONE]":
                raise ValueError(f"stream cut short: {text}")
            return str(json.loads(events[0])["model"])
        case None:
            return str(json.loads(text)["data"][0]["id"])
        case _:
            return str(json.loads(text)["model"])


@contextmanager
def server(
    binary: Path, model: Path, port: int, run_dir: Path, alias: str, ctx_size: int
) -> Iterator[Running]:
    argv = [
        *(str(binary), "--model", str(model), "--alias", alias),
        *("--host", HOST, "--port", str(port), "--reuse-port"),
        *("--ctx-size", str(ctx_size), "--threads", "1"),
    ]
    running = spawn(
        argv,
        run_dir=run_dir,
        address="stack/server",
        key=alias,
        port=port,
        environment={},
    )
    try:
        yield running
    finally:
        stop(running, grace=5)


@contextmanager
def load_on(port: int) -> Iterator[Load]:
    load = Load(port)
    thread = threading.Thread(target=load.run)
    thread.start()
    try:
        yield load
    finally:
        load.ended.set()
        thread.join()


def healthy(running: Running, source: str = "") -> None:
    wait_healthy(
        running,
        f"http://{HOST}:{running.port}",
        limit=60,
        source_address=source,
        say=ignore,
    )


def gate_request(port: int) -> str:
    connection = http.client.HTTPConnection(
        HOST, port, timeout=15, source_address=(GATE_SOURCE, 0)
    )
    try:
        return ask(connection, "/v1/chat/completions", dict(CHAT))
    finally:
        connection.close()


def answered(load: Load, count: int) -> None:
    """Wait until `count` more requests are answered."""
    target = len(load.answers) + count
    deadline = time.monotonic() + 20
    while len(load.answers) < target and not load.ended.wait(0.05):
        assert time.monotonic() < deadline, load.failures


def test_promotion_under_load_fails_no_request(
    llama_server: Path, tiny_model: Path, tmp_path: Path, port: int
) -> None:
    with (
        server(llama_server, tiny_model, port, tmp_path / "a", "old", 2048) as old,
        load_after_healthy(old) as load,
    ):
        steer(HOST, port, clients=0, gates=1)
        answered(load, 20)
        with server(llama_server, tiny_model, port, tmp_path / "b", "new", 4096) as new:
            healthy(new, GATE_SOURCE)
            gated = {gate_request(port) for _ in range(4)}
            answered(load, 20)
            before = Counter(answer.server for answer in load.answers)
            steer(HOST, port, clients=1, gates=0)
            promoted = time.monotonic()
            left = drain(old, limit=30, say=ignore)
            drained = time.monotonic()
            stop(old, grace=5)
            stopped = time.monotonic()
            answered(load, 20)
            steer(HOST, port, clients=0, gates=1)
            answered(load, 20)
            assert is_alive(new)
            load.ended.set()
            answers = list(load.answers)
    sys.stdout.write(report(answers, promoted, drained, stopped) + "\n")
    assert load.failures == []
    assert gated == {"new"}
    assert before["new"] == 0
    assert left == 0
    assert not is_alive(old)
    fresh = [one for one in answers if one.sent > promoted and not one.kept_alive]
    assert {one.server for one in fresh if one.server} == {"new"}
    assert {one.server for one in answers if one.sent > drained} <= {"new", ""}


def ignore(_text: str) -> None:
    """Say nothing."""


@contextmanager
def load_after_healthy(running: Running) -> Iterator[Load]:
    healthy(running)
    with load_on(running.port) as load:
        yield load


def report(
    answers: list[Answer], promoted: float, drained: float, stopped: float
) -> str:
    phases = Counter(
        (
            "before" if one.sent < promoted else "after",
            "kept alive" if one.kept_alive else "new connection",
            one.server or "(health)",
        )
        for one in answers
    )
    slowest = max(one.seconds for one in answers)
    lines = [f"{' · '.join(phase)}: {count}" for phase, count in sorted(phases.items())]
    times = (
        f"{len(answers)} requests, slowest {slowest:.2f} s,"
        f" drained in {drained - promoted:.1f} s, stopped in {stopped - drained:.1f} s"
    )
    return "\n".join([times, *lines])
