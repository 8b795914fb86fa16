"""A server that runs and answers nothing: seen, told apart, and restarted."""

import os
import re
import signal
import socket
from collections.abc import Iterator

import pytest

from tests.cli.clients import chat
from tests.cli.project import KEY, STACK, Project, gone

pytestmark = pytest.mark.real

DEMO = "stacks/demo.yaml"
LIMITED = STACK + "  stream: {ttft: 1s}\n"


@pytest.fixture
def hung(live: Project) -> Iterator[int]:
    """The process of a live server that is stopped by a signal."""
    pid = live.server()
    os.kill(pid, signal.SIGSTOP)
    yield pid
    live.end()


@pytest.mark.parametrize("words", [("apply", DEMO, "--yes"), ("start", DEMO)])
def test_a_hung_server_is_restarted_and_the_cause_told(
    live: Project, hung: int, words: tuple[str, ...]
) -> None:
    done = live.run(*words)

    assert done.code == 0, done.err
    told = rf"pid {hung} hangs: no answer on /health for 8 s, stopped by a signal"
    assert re.search(f"{told}; it is ended, and started again", done.out)
    assert chat(live.port, KEY) == "The answer is 42."
    assert live.server() != hung
    assert gone(hung)
    (log,) = live.home.glob("run/*/*/server.log.1")
    assert f"deployer: {told}" in log.read_text()


def test_status_tells_a_hung_server_by_its_exit_code(live: Project, hung: int) -> None:
    done = live.run("status", DEMO)
    (line,) = live.run("status", DEMO, "--json").results()

    assert done.code == 1
    assert f"✖ running, and does not answer, pid {hung}, " in done.out
    assert (line["server"]["condition"], line["server"]["healthy"]) == ("silent", False)


@pytest.mark.parametrize(
    ("code", "line"),
    [
        (1, f"check {DEMO} --gate health"),
        (1, f"chat {DEMO} --once hello"),
        (1, f"status {DEMO} --metrics"),
        (6, f"watch {DEMO} --rounds 1 --idle 1s"),
    ],
)
def test_who_took_the_port_of_a_dead_server_is_asked_nothing(
    live: Project, code: int, line: str
) -> None:
    """Another process there would pass for the server, and be sent its key."""
    live.end()
    with socket.create_server(("127.0.0.1", live.port)) as stranger:
        done = live.run(*line.split())
        stranger.settimeout(0)
        with pytest.raises(BlockingIOError):
            stranger.accept()

    assert done.code == code
    assert "crashed or was killed" in done.out + done.err


def test_status_tells_healthy_stopped_and_dead_apart(live: Project) -> None:
    healthy = live.run("status", DEMO, "--json")
    live.end()
    dead = live.run("status", DEMO, "--json")
    assert live.run("start", DEMO).code == 0
    assert live.run("stop", DEMO).code == 0
    stopped = live.run("status", DEMO, "--json")

    told = [
        (done.code, done.results()[0]["server"]["condition"])
        for done in (healthy, dead, stopped)
    ]
    assert told == [(0, "healthy"), (1, "dead"), (1, "stopped")]


def test_watch_keeps_to_its_limits_where_a_server_hangs(project: Project) -> None:
    project.write(LIMITED)
    assert project.run("apply", DEMO, "--yes").code == 0
    os.kill(project.server(), signal.SIGSTOP)
    done = project.run("watch", DEMO, "--idle", "0s", "--json")

    assert done.code == 6
    probes = [line for line in done.lines() if line["type"] == "probe"]
    assert [probe["breach"] for probe in probes] == [True, True]
    assert [probe["because"] for probe in probes] == [
        "the first token took more than the 30 s of `ttft`",
        "the first token took more than the 1.0 s of `ttft`",
    ]
