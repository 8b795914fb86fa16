"""What a restored server has to be like, asked of a program in llama-server's place."""

import http.server
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from deployer.runtime.serve import (
    Program,
    Ready,
    Running,
    digest_of_key,
    greedy,
    prove,
    ready_of,
    say_ready,
)

KEY = "LLAMA_API_KEY"


class Answers(http.server.BaseHTTPRequestHandler):
    text: str | None = "Paris, and"

    def do_GET(self) -> None:
        self._send(200, {"status": "ok"})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        if Answers.text is None:
            self._send(501, {"error": "embeddings only"})
        else:
            self._send(200, {"content": Answers.text})

    def log_message(self, *_: object) -> None:
        pass

    def _send(self, status: int, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def serving(text: str | None) -> Iterator[tuple[Program, Running]]:
    """A server that was captured when it gave this answer."""
    Answers.text = text
    words = [sys.executable, "-c", "input()"]
    with (
        http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server,
        subprocess.Popen(words, stdin=subprocess.PIPE) as process,
    ):
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        port = server.server_address[1]
        here = Path()
        program = Program(here, here, here, (), port, 5, (KEY,), captures=True)
        yield (
            program,
            Running(process, "ta-1", greedy(program, 5), digest_of_key(program)),
        )
        server.shutdown()
        process.kill()


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY, "sk-one")


def test_the_same_answer_proves_it() -> None:
    with serving("Paris, and") as (program, running):
        prove(running, program)


def test_another_answer_does_not() -> None:
    with serving("Paris, and") as (program, running):
        Answers.text = "!!!!!!"
        with pytest.raises(RuntimeError, match="its answer differs"):
            prove(running, program)


def test_no_answer_does_not() -> None:
    with serving("Paris, and") as (program, running):
        Answers.text = None
        with pytest.raises(RuntimeError, match="its answer differs"):
            prove(running, program)


def test_a_key_that_was_rotated_since_the_capture_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with serving("Paris, and") as (program, running):
        monkeypatch.setenv(KEY, "sk-two")
        with pytest.raises(RuntimeError, match="the API key or a secret was changed"):
            prove(running, program)


def test_a_server_that_answers_no_questions_is_asked_for_its_health_alone() -> None:
    with serving(None) as (program, running):
        assert running.answer is None
        prove(running, program)


def test_a_container_says_in_one_line_what_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MODAL_TASK_ID", "ta-2")
    here = Path()
    program = Program(here, here, here, (), 1, 1, server="abc", run="def")
    say_ready(replace(program), restored=True)
    line = capsys.readouterr().out
    assert ready_of(line) == Ready("abc", "def", "ta-2", restored=True)
    assert ready_of("deployer: ready {}") is None
    assert ready_of("llama-server is ready") is None
