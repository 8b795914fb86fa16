"""A glance says that a server answers only where this very process said so."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from socket import AF_INET, SOCK_STREAM, socket

import psutil
import pytest

from deployer.engines.local.supervise.find import run_folder
from deployer.engines.place import Keys, Look, Place, look_at
from deployer.planning.resources import Kind
from deployer.planning.state import Record
from deployer.stack.fields.values import JsonValue

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


@contextmanager
def serving(*pieces: bytes, close: bool = False) -> Iterator[int]:
    """A server of this process that says so to whoever connects; its port."""
    over = threading.Event()

    def serve() -> None:
        with suppress(OSError):  # no one asks, or who asks is gone
            answer(listener.accept()[0])

    def answer(line: socket) -> None:
        with line:
            line.recv(4096)
            for piece in pieces:
                line.sendall(piece)
            if not close:
                over.wait(10)

    with socket(AF_INET, SOCK_STREAM) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            over.set()


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path / "home", tmp_path, {}, Keys({}), tmp_path / "patches")


def seen(place: Place, port: int, pid: int, started: float | None = None) -> Look:
    """The look at a server that was recorded as this process."""
    fields: dict[str, JsonValue] = {"local.host": "127.0.0.1", "local.port": port}
    record = Record("demo/server", Kind.SERVER, "k1", fields, {}, {}, {})
    folder = run_folder(record, place)
    folder.mkdir(parents=True)
    if started is None:
        started = psutil.Process(pid).create_time()
    known = {"pid": pid, "started": started}
    (folder / "process.json").write_text(json.dumps(known), encoding="utf-8")
    return look_at("local", record, place)


@pytest.mark.parametrize("pieces", [(OK,), (OK[:5], OK[5:11], OK[11:])])
def test_it_answers(place: Place, pieces: tuple[bytes, ...]) -> None:
    with serving(*pieces) as port:
        assert seen(place, port, os.getpid()) is Look.ANSWERS


@pytest.mark.parametrize(
    "said",
    [OK.replace(b"200 OK", b"503 Loading"), b"SSH-2.0 hello\r\n", b"\r\n", b"x" * 9999],
)
def test_another_answer_is_none(place: Place, said: bytes) -> None:
    with serving(said) as port:
        assert seen(place, port, os.getpid()) is Look.SILENT


def test_it_hangs_up(place: Place) -> None:
    with serving(close=True) as port:
        assert seen(place, port, os.getpid()) is Look.SILENT


def test_it_hangs(place: Place) -> None:
    with serving() as port:
        assert seen(place, port, os.getpid()) is Look.SILENT


def test_it_does_not_listen(place: Place) -> None:
    with socket(AF_INET, SOCK_STREAM) as bound:
        bound.bind(("127.0.0.1", 0))
        assert seen(place, bound.getsockname()[1], os.getpid()) is Look.SILENT


def test_another_process_answers(place: Place) -> None:
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    with other, serving(OK) as port:
        assert seen(place, port, other.pid) is Look.SILENT


def test_a_pid_that_was_used_again_is_no_server(place: Place) -> None:
    with serving(OK) as port:
        assert seen(place, port, os.getpid(), started=1.0) is Look.GONE


def test_a_process_that_ended_is_no_server(place: Place) -> None:
    other = subprocess.Popen([sys.executable, "-c", ""])
    started = psutil.Process(other.pid).create_time()
    os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)
    assert seen(place, 1, other.pid, started) is Look.GONE
    other.wait()


def test_what_was_never_started_is_no_server(place: Place) -> None:
    record = Record("demo/server", Kind.SERVER, "k1", {}, {}, {}, {})
    assert look_at("local", record, place) is Look.GONE


def test_other_engines_are_not_looked_at(place: Place) -> None:
    record = Record("demo/server", Kind.SERVER, "k1", {}, {}, {}, {})
    assert look_at("modal", record, place) is Look.UNSEEN
