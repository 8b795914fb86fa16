import signal
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from deployer.engines.local.reuseport import GATE_SOURCE, steer
from deployer.engines.local.supervise.health import is_healthy, wait_healthy
from deployer.engines.local.supervise.process import Running, stop
from deployer.errors import EngineError, TimedOutError

Start = Callable[..., Running]


def wait(running: Running, *, limit: float = 20, source: str = "") -> list[str]:
    said: list[str] = []
    wait_healthy(
        running,
        f"http://127.0.0.1:{running.port}",
        limit=limit,
        source_address=source,
        say=said.append,
    )
    return said


def test_a_server_that_answers_200_is_healthy(start: Start) -> None:
    wait(start())


def test_a_server_that_loads_is_waited_for(start: Start, tmp_path: Path) -> None:
    running = start("--ready", str(tmp_path / "ready"))
    said: list[str] = []

    def finish(text: str) -> None:
        said.append(text)
        (tmp_path / "ready").touch()

    wait_healthy(
        running,
        f"http://127.0.0.1:{running.port}",
        limit=60,
        source_address="",
        say=finish,
    )
    assert said == ["the server loads its model, 2 s so far"]


def test_what_a_server_says_while_it_loads_is_heard(
    listening: Start, tmp_path: Path
) -> None:
    running = listening("--ready", str(tmp_path / "ready"))
    heard: list[tuple[int, str]] = []

    def hear(status: int, body: str) -> None:
        heard.append((status, body))
        (tmp_path / "ready").touch()

    wait_healthy(
        running,
        f"http://127.0.0.1:{running.port}",
        limit=60,
        source_address="",
        say=lambda _text: None,
        heard=hear,
    )
    assert heard == [(503, "loading")]


def test_a_server_that_never_loads_runs_out_of_time(
    listening: Start, tmp_path: Path
) -> None:
    running = listening("--ready", str(tmp_path / "never"))
    with pytest.raises(TimedOutError, match=r"not healthy after 0\.3 s"):
        wait(running, limit=0.3)


def test_the_death_of_a_server_is_told_with_its_cause(start: Start) -> None:
    running = start("--last-words", "loading\nerror: invalid argument: --no-mmap")
    with pytest.raises(EngineError) as caught:
        wait(running)
    assert caught.value.message == (
        "the server ended with exit code 1 before it was healthy: this build of"
        " llama.cpp does not know the option `--no-mmap`\n"
        f"    last lines of {running.log}:\n"
        "    loading\n"
        "    error: invalid argument: --no-mmap"
    )
    assert (
        caught.value.hint
        == "`deployer explain flag --at TAG` lists the options of a build"
    )


def test_only_the_end_of_a_long_log_is_shown(start: Start) -> None:
    running = start("--last-words", "\n".join(f"line {n}" for n in range(100)))
    with pytest.raises(EngineError) as caught:
        wait(running)
    assert caught.value.message.splitlines()[2:] == [
        f"    line {number}" for number in range(85, 100)
    ]


def test_a_death_without_words_is_told_by_its_signal(start: Start) -> None:
    running = start("--killed-by", str(int(signal.SIGILL)))
    with pytest.raises(EngineError, match=r"by signal 4 .* lacks an instruction"):
        wait(running)


def test_a_death_without_a_known_cause_points_to_the_log(start: Start) -> None:
    running = start("--last-words", "so long", "--exit-code", "3")
    with pytest.raises(EngineError, match="ended with exit code 3") as caught:
        wait(running)
    assert caught.value.hint == f"the whole log is in `{running.log}`"


def test_a_wordless_death_is_explained_by_the_port_if_that_is_taken(
    start: Start, port: int
) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", port))
        other.listen()
        with pytest.raises(EngineError, match=f"port {port} is in use by pid"):
            wait(start("--last-words", ""))


def test_the_live_server_does_not_answer_for_a_candidate_that_loads(
    listening: Start, port: int, tmp_path: Path
) -> None:
    """Until the candidate listens, the kernel gives its requests to the live one."""
    wait(listening())
    steer("127.0.0.1", port, clients=0, gates=1)
    candidate = listening("--ready", str(tmp_path / "never"), key="k2")
    with pytest.raises(TimedOutError):
        wait(candidate, limit=0.5, source=GATE_SOURCE)


def test_the_live_server_does_not_answer_for_a_candidate_that_dies(
    listening: Start, start: Start, port: int
) -> None:
    wait(listening())
    steer("127.0.0.1", port, clients=0, gates=1)
    candidate = start("--last-words", "cudaMalloc failed: out of memory", key="k2")
    with pytest.raises(EngineError, match="not enough memory"):
        wait(candidate, source=GATE_SOURCE)


def test_an_answer_from_the_wrong_server_is_an_error(
    listening: Start, port: int
) -> None:
    live = listening()
    candidate = listening(key="k2")
    steer("127.0.0.1", port, clients=0, gates=0)
    with pytest.raises(
        EngineError, match=f"not from the .* pid {candidate.pid}: .*pid"
    ):
        wait(candidate, source=GATE_SOURCE)
    stop(live, grace=20)
    wait(candidate, source=GATE_SOURCE)


def test_health_is_asked_of_the_very_process(listening: Start, port: int) -> None:
    live = listening()
    candidate = listening(key="k2")
    url = f"http://127.0.0.1:{port}"
    steer("127.0.0.1", port, clients=0, gates=1)
    assert is_healthy(live, url, "")
    assert not is_healthy(live, url, GATE_SOURCE)
    assert is_healthy(candidate, url, GATE_SOURCE)
    assert not is_healthy(candidate, url, "")


def test_a_server_that_loads_is_not_healthy(listening: Start, tmp_path: Path) -> None:
    running = listening("--ready", str(tmp_path / "never"))
    assert not is_healthy(running, f"http://127.0.0.1:{running.port}", "")
