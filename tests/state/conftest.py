"""Programs that work on a state, to be started, killed and raced."""

import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from pathlib import Path

import pytest
import stamina

import deployer
from deployer.core.resources import Kind
from deployer.core.state import Begun, Record, State
from deployer.state.files import FileStateStore
from tests.state.s3 import Proxy, proxied

HERE = Path(__file__).parent

Program = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def program() -> Iterator[Program]:
    """Starts a program of this folder with its standard streams in pipes."""
    started = []

    def start(
        name: str, *arguments: object, cwd: Path | None = None
    ) -> subprocess.Popen[str]:
        package = str(Path(deployer.__file__).parents[1])
        process = subprocess.Popen(
            [sys.executable, str(HERE / name), *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=cwd,
            env={**os.environ, "PYTHONPATH": package},
        )
        started.append(process)
        return process

    yield start
    for process in started:
        with process:
            process.kill()


@pytest.fixture
def first() -> State:
    """A state with one thing begun, at serial 1."""
    record = Record(
        address="demo/build",
        kind=Kind.BUILD,
        key="k1",
        fields={"llama_cpp.tag": "b9763"},
        needs={},
        spec={"argv": ["--port", 1]},
    )
    return State("demo", "local", lineage="l1").begin(Begun.STAGING, record)


@pytest.fixture
def store(tmp_path: Path) -> FileStateStore:
    refuge = tmp_path / "refuge"
    refuge.mkdir()
    return FileStateStore(tmp_path / ".deployer" / "state", "demo", refuges=(refuge,))


@pytest.fixture
def second(first: State) -> State:
    return first.retired(first.loose[0].record)


@pytest.fixture(scope="session")
def s3_server() -> Iterator[tuple[str, int]]:
    """A real S3 server on loopback, with a bucket `states`."""
    from moto.server import ThreadedMotoServer  # noqa: PLC0415 - slow to import

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    connection = HTTPConnection(host, port)
    connection.request("PUT", "/states")
    assert connection.getresponse().status == 200
    connection.close()
    yield host, port
    server.stop()


@pytest.fixture
def s3(
    s3_server: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Proxy, str]]:
    """A proxy before that server, and its URL; retries do not wait."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "of-the-tests")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "of-the-tests")
    stamina.set_testing(True, attempts=10, cap=True)
    with proxied(s3_server) as found:
        yield found
    stamina.set_testing(False)
