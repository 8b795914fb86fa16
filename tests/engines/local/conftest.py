import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deployer.engines.local.ports import listens
from deployer.engines.local.supervise.process import Running, spawn, stop, wait_for_end
from tests.ports import quiet_port

PROGRAM = Path(__file__).with_name("fake_server.py")

Start = Callable[..., Running]


@pytest.fixture
def port() -> int:
    return quiet_port()


@pytest.fixture
def start(tmp_path: Path, port: int) -> Iterator[Start]:
    """Spawn the fake server as `stack/server`; every one is stopped at the end."""
    started: list[Running] = []

    def spawn_fake(
        *arguments: str,
        key: str = "k1",
        run_dir: Path | None = None,
        address: str = "stack/server",
        **options: object,
    ) -> Running:
        environment = options.pop("environment", {})
        running = spawn(
            [sys.executable, str(PROGRAM), "--port", str(port), *arguments],
            run_dir=run_dir or tmp_path / key,
            address=address,
            key=key,
            port=port,
            environment=environment,  # type: ignore[arg-type]
            **options,  # type: ignore[arg-type]
        )
        started.append(running)
        return running

    yield spawn_fake
    for running in started:
        stop(running, grace=0)


@pytest.fixture
def listening(start: Start) -> Start:
    """Spawn a fake server and return once it listens."""

    def spawn_listening(*arguments: str, **options: object) -> Running:
        running = start(*arguments, **options)
        until(running, lambda: listens(running.pid, running.port))
        return running

    return spawn_listening


def until(running: Running, condition: Callable[[], bool]) -> None:
    """Wait until the condition holds, as long as the process lives, at most 20 s."""
    for _ in range(400):
        if condition():
            return
        assert wait_for_end(running, 0.05) is None, "the process ended"
    raise AssertionError("the condition did not come true")
