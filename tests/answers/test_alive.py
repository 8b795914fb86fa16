"""A look at a server says that it is well only where this very process said so."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from socket import AF_INET, SOCK_STREAM, socket

import pytest

from deployer.answers.alive import began, health

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


@contextmanager
def serving(*pieces: bytes, close: bool = False) -> Iterator[int]:
    """A server of this process that says so to whoever connects; its port."""
    over = threading.Event()

    def serve() -> None:
        line, _ = listener.accept()
        with line:
            line.recv(4096)
            for piece in pieces:
                line.sendall(piece)
            if not close:
                over.wait(10)

    with socket(AF_INET, SOCK_STREAM) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            over.set()
            thread.join()


def asked(port: int, pid: int) -> str:
    return health(f"127.0.0.1:{port}:{pid}")


def test_it_is_well() -> None:
    with serving(OK) as port:
        assert asked(port, os.getpid()) == "200"


def test_an_answer_may_come_in_pieces() -> None:
    with serving(OK[:5], OK[5:11], OK[11:]) as port:
        assert asked(port, os.getpid()) == "200"


def test_it_loads_still() -> None:
    with serving(OK.replace(b"200 OK", b"503 Loading")) as port:
        assert asked(port, os.getpid()) == "503"


def test_it_speaks_another_language() -> None:
    with serving(b"SSH-2.0 hello\r\n") as port:
        assert asked(port, os.getpid()) == "-"


def test_it_hangs_up() -> None:
    with serving(close=True) as port:
        assert asked(port, os.getpid()) == "-"


def test_it_hangs() -> None:
    with serving() as port, pytest.raises(TimeoutError):
        asked(port, os.getpid())


def test_nobody_listens() -> None:
    with serving(OK) as port:
        assert asked(port, os.getpid()) == "200"
    with pytest.raises(ConnectionRefusedError):
        asked(port, os.getpid())


def test_somebody_else_answers() -> None:
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    with other, serving(OK) as port:
        assert asked(port, other.pid) == "-"


def test_a_process_that_is_another_one_began_at_another_time() -> None:
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    with other:
        first = began(str(other.pid))
        assert first == began(str(other.pid)) != began(str(os.getpid()))
    assert began(str(other.pid)) == "-"


def test_a_process_that_nobody_has_buried_is_gone() -> None:
    other = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)
    assert began(str(other.pid)) == "-"
    other.wait()
