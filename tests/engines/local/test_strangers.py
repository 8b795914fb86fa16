"""A process that has the address of a server passes for it nowhere."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import cast

import pytest

from deployer.engines.contract import STRANGE, Endpoint, Engine, Observation
from deployer.engines.local.supervise.health import Answer, health_now
from deployer.engines.local.supervise.process import Running
from deployer.errors import EngineError
from deployer.planning.state import Record
from deployer.state import StateStore
from deployer.usecases.context.deployed import Deployed
from tests.applying import Desk
from tests.planning.checking import LOCAL

LISTENS = """
import socket
server = socket.create_server(("127.0.0.2", 0))
print(server.getsockname()[1], flush=True)
input()
"""


class Healthy(BaseHTTPRequestHandler):
    """Answers every GET with 200."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def served(port: int) -> Iterator[None]:
    """Answer on 127.0.0.1, in this process."""
    with ThreadingHTTPServer(("127.0.0.1", port), Healthy) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


def test_an_answer_of_another_process_is_told() -> None:
    """The server listens on the port, and not at the address that is asked."""
    with subprocess.Popen(
        (sys.executable, "-c", LISTENS),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as own:
        assert own.stdout is not None
        port = int(own.stdout.readline())
        with served(port):
            running = Running(own.pid, "", port, "")
            seen = health_now(running, f"http://127.0.0.1:{port}", "")
        own.communicate("\n", timeout=10)
    assert seen is Answer.STRANGE


class Seen:
    """An engine that finds the server in one condition."""

    def __init__(self, seen: Observation) -> None:
        self.seen = seen

    def observe(self, record: Record) -> Observation:
        del record
        return self.seen

    def endpoint(self, record: Record, *, candidate: bool) -> Endpoint:
        del record, candidate
        return Endpoint("http://127.0.0.1:8080")


@pytest.mark.parametrize(
    ("running", "condition", "way"),
    [
        (True, "healthy", ""),
        (True, "silent", ""),
        (True, STRANGE, "end the process that has its port"),
        (False, "dead", "run `deployer server start s.yaml`"),
    ],
)
def test_only_the_server_itself_is_sent_requests_and_its_key(
    *, running: bool, condition: str, way: str
) -> None:
    desk = Desk()
    desk.apply(LOCAL)
    seen = Observation(running, running, "so it is", {"condition": condition})
    engine = cast("Engine", Seen(seen))
    found = Deployed(Path("s.yaml"), desk.state, cast("StateStore", desk.store), engine)
    if not way:
        assert found.answering().url == "http://127.0.0.1:8080"
        return
    with pytest.raises(EngineError, match="so it is") as caught:
        found.answering()
    assert caught.value.hint.startswith(way)
