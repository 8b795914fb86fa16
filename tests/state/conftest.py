"""Programs that work on a state, to be started, killed and raced."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import deployer
from deployer.planning.resources import Kind
from deployer.planning.state import Begun, Record, State
from deployer.state.files import FileStateStore

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
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials for each cloud, which nobody is asked with."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "GOOGLE_BEARER_TOKEN"):
        monkeypatch.setenv(name, "of-the-tests")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", "b2YtdGhlLXRlc3Rz")


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
