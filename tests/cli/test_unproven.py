"""No client reaches a server before its gates passed, whichever way it comes up."""

import http.client
import json
import os
import signal
from pathlib import Path

import pytest

from tests.cli.clients import chat
from tests.cli.project import KEY, STACK, Project, finished, read_until

pytestmark = pytest.mark.real

DEMO = "stacks/demo.yaml"
GATE = """\
if [ -p pid ]; then echo $$ > pid; exec sleep 600; fi
echo '{"outcome": "pass", "because": "no one waits"}'
"""
"""Takes longer than the test, once there is a pipe to say so."""
GATED = STACK + "  custom: {endless: {command: [sh, gate.sh]}}\n"
REPLACE = GATED + "rollout: {strategy: replace}\n"
GUARDED = (503, "no release is live on this port yet")


def asked(port: int) -> tuple[int, str]:
    """Status and message of what a client gets for a chat."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        body = json.dumps({"messages": [{"role": "user", "content": "Hello"}]})
        headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
        connection.request("POST", "/v1/chat/completions", body, headers)
        answer = connection.getresponse()
        found = json.loads(answer.read())
        return answer.status, str(found.get("error", {}).get("message", ""))
    finally:
        connection.close()


@pytest.fixture
def waits(project: Project) -> Path:
    """A pipe at which the gate of a stack waits."""
    (project.stack.parent / "gate.sh").write_text(GATE)
    pipe = project.stack.parent / "pid"
    os.mkfifo(pipe)
    return pipe


def test_a_first_release_gets_no_client_before_its_gates_passed(
    project: Project, waits: Path
) -> None:
    project.write(GATED)
    with project.running("apply", DEMO, "--yes") as process:
        gate = int(waits.read_text())
        answers = {asked(project.port) for _ in range(30)}
        waits.unlink()
        process.send_signal(signal.SIGINT)
        done = finished(process)
        assert done.code == 8
    del gate
    assert answers == {GUARDED}
    done = project.run("apply", DEMO, "--yes")
    assert done.code == 0, done.err
    assert chat(project.port, KEY) == "The answer is 42."
    assert len(project.servers()) == 1


def test_a_replacement_gets_no_client_before_its_gates_passed(
    project: Project, waits: Path
) -> None:
    waits.unlink()
    project.write(REPLACE)
    assert project.run("apply", DEMO, "--yes").code == 0
    os.mkfifo(waits)
    project.write(REPLACE.replace("1024", "2048"))
    with project.running("apply", DEMO, "--yes") as process:
        waits.read_text()
        answers = {asked(project.port) for _ in range(30)}
        waits.unlink()
        process.send_signal(signal.SIGINT)
        assert finished(process).code == 8
    assert answers == {GUARDED}
    # What was stopped to make room serves again.
    assert chat(project.port, KEY) == "The answer is 42."


def test_a_candidate_of_a_killed_run_gets_no_client(
    project: Project, waits: Path
) -> None:
    project.write(GATED)
    with project.running("apply", DEMO, "--yes") as process:
        waits.read_text()
        process.kill()
        process.wait()
    answers = {asked(project.port) for _ in range(30)}
    waits.unlink()
    done = project.run("apply", DEMO, "--yes")
    assert answers == {GUARDED}
    assert done.code == 0, done.err
    assert chat(project.port, KEY) == "The answer is 42."


def test_a_server_that_is_started_gets_no_client_while_it_loads(live: Project) -> None:
    assert live.run("stop", DEMO).code == 0
    with live.running("start", DEMO) as process:
        read_until(process, "started as pid")
        pid = live.server()
        os.kill(pid, signal.SIGSTOP)
        answers = {asked(live.port) for _ in range(30)}
        os.kill(pid, signal.SIGCONT)
        assert finished(process).code == 0
    assert answers == {GUARDED}
    assert chat(live.port, KEY) == "The answer is 42."
