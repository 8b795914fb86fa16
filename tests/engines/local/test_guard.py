"""Nothing but the guard answers clients of a port before they are let in."""

import http.client
import os
import select
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from deployer.engines.local import ports, reuseport
from deployer.engines.local.supervise.process import Running, wait_for_end
from deployer.engines.local.supervise.survivors import (
    __file__,
    close_port,
    end_guard,
    guard_of,
    guards_in,
    open_port,
)
from tests.cli.project import ROOT
from tests.engines.local.conftest import Start, until

HOST = "127.0.0.1"


@pytest.fixture
def run_dir(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "k1"
    end_guard(tmp_path / "k1")


@pytest.fixture
def guarded(run_dir: Path, port: int, start: Start) -> Running:
    """A server behind a guard."""
    close_port(run_dir, HOST, port)
    reuseport.steer(HOST, port, clients=0, gates=1)
    running = start(run_dir=run_dir)
    until(running, lambda: ports.listens(running.pid, port))
    return running


def status(port: int, source: str = "") -> int:
    """What a new connection to /health is answered with."""
    address = (source, 0) if source else None
    connection = http.client.HTTPConnection(
        HOST, port, timeout=20, source_address=address
    )
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status
    finally:
        connection.close()


def test_clients_reach_the_guard_alone_and_gates_the_server(
    guarded: Running, port: int
) -> None:
    assert guarded.port == port
    assert Counter(status(port) for _ in range(50)) == {503: 50}
    assert Counter(status(port, reuseport.GATE_SOURCE) for _ in range(50)) == {200: 50}


@pytest.mark.usefixtures("guarded")
def test_clients_that_are_let_in_reach_the_server_alone(
    run_dir: Path, port: int
) -> None:
    open_port(run_dir, HOST, port)
    assert guard_of(run_dir) is None
    assert Counter(status(port) for _ in range(50)) == {200: 50}
    assert len(ports.listeners(port)) == 1


@pytest.mark.usefixtures("guarded")
def test_who_waits_while_clients_are_let_in_is_answered(
    run_dir: Path, port: int
) -> None:
    found = guard_of(run_dir)
    assert found is not None
    os.kill(found.pid, signal.SIGSTOP)
    waiting = [http.client.HTTPConnection(HOST, port, timeout=20) for _ in range(5)]
    for one in waiting:
        one.request("GET", "/health")
    reuseport.steer(HOST, port, clients=1, gates=1)
    os.kill(found.pid, signal.SIGCONT)
    end_guard(run_dir)
    assert [one.getresponse().status for one in waiting] == [503] * 5
    for one in waiting:
        one.close()


def test_a_guard_outlives_the_deployer_and_is_found(run_dir: Path, port: int) -> None:
    script = (
        "import os, sys; from pathlib import Path;"
        " from deployer.engines.local.supervise.survivors import close_port;"
        f" close_port(Path({str(run_dir)!r}), {HOST!r}, {port});"
        " os.kill(os.getpid(), 9)"
    )
    subprocess.run(
        [sys.executable, "-c", script], check=False, env={"PYTHONPATH": str(ROOT)}
    )
    assert status(port) == 503
    found = guard_of(run_dir)
    assert found is not None
    assert guards_in(run_dir.parent) == {found.pid}


def test_a_guard_without_a_deployer_and_a_server_ends(tmp_path: Path) -> None:
    program = Path(__file__).with_name("guard_process.py")
    script = (
        "import os, socket, subprocess, sys;"
        " s = socket.create_server(('127.0.0.1', 0));"
        f" p = subprocess.Popen([sys.executable, '-I', '-S', {str(program)!r},"
        " str(s.fileno()), '0.1', str(os.getpid())], pass_fds=(s.fileno(),),"
        " stdout=subprocess.DEVNULL);"
        " p.returncode = 0; print(p.pid)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    orphan = int(done.stdout)
    with suppress(ProcessLookupError):
        descriptor = os.pidfd_open(orphan)
        assert select.select([descriptor], [], [], 20)[0]
        os.close(descriptor)


def test_ending_twice_is_fine(run_dir: Path, port: int) -> None:
    close_port(run_dir, HOST, port)
    found = guard_of(run_dir)
    assert found is not None
    end_guard(run_dir)
    end_guard(run_dir)
    assert wait_for_end(found, 0) is not None
    assert ports.listeners(port) == ()
