"""A run that is cut short: what it leaves is told, and the next one settles it."""

import os
import re
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

from tests.cli.project import STACK, Project, finished, gone, read_until

pytestmark = pytest.mark.real

DEMO = "stacks/demo.yaml"
SLOW = STACK.replace("mmap: false", "mmap: true")
"""Another server than that of STACK."""


def frozen_server(process: "subprocess.Popen[str]") -> int:
    """The candidate of a run, stopped before it is healthy: a model that loads long."""
    (pid,) = re.findall(r"started as pid (\d+)", read_until(process, "started as pid"))
    signal_to(int(pid), signal.SIGSTOP)
    read_until(process, "the server loads its model")
    return int(pid)


def written_to(pipe: Path, process: "subprocess.Popen[str]") -> str:
    """What a program writes into a pipe; fails where the run ends before it does."""
    descriptor = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        while True:
            with suppress(BlockingIOError):
                if said := os.read(descriptor, 100):
                    return said.decode()
            with suppress(subprocess.TimeoutExpired):
                pytest.fail(f"it ended with {process.wait(0.05)}: {finished(process)}")
    finally:
        os.close(descriptor)


def signal_to(pid: int, number: signal.Signals) -> None:
    os.kill(pid, number)


def converges(project: Project) -> None:
    """The next apply ends with exactly one server, and the one after does nothing."""
    done = project.run("apply", DEMO, "--yes")
    assert done.code == 0, done.out + done.err
    assert len(project.servers()) == 1
    again = project.run("apply", DEMO)
    assert "No changes" in again.out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_ctrl_c_retires_the_candidate_and_exits_8(
    live: Project, number: signal.Signals
) -> None:
    before = live.server()
    live.write(SLOW)
    with live.running("apply", DEMO, "--yes") as process:
        candidate = frozen_server(process)
        process.send_signal(number)
        signal_to(candidate, signal.SIGCONT)
        done = finished(process)

    assert done.code == 8
    assert done.err.startswith("\nstopping: press Ctrl-C again to quit\n")
    assert done.err.endswith(
        "error: stopped at your request\n"
        f"  hint: run `deployer apply {DEMO}` again to carry on from here\n"
    )
    assert live.servers() == {before}
    converges(live)


GATED = SLOW + "  custom: {endless: {command: [sh, gate.sh]}}\n"
GATE = """\
if [ -p pid ]; then echo $$ > pid; exec sleep 600; fi
echo '{"outcome": "pass", "because": "nobody waits"}'
"""
"""Takes longer than anybody waits, once there is a pipe to say so."""


def test_ctrl_c_does_not_wait_for_a_gate(live: Project) -> None:
    before, pid = live.server(), live.stack.parent / "pid"
    os.mkfifo(pid)
    (live.stack.parent / "gate.sh").write_text(GATE)
    live.write(GATED)
    with live.running("apply", DEMO, "--yes") as process:
        gate = int(written_to(pid, process))
        process.send_signal(signal.SIGINT)
        done = finished(process)

    assert done.code == 8
    assert "error: stopped at your request" in done.err
    assert gone(gate)
    assert live.servers() == {before}
    pid.unlink()
    converges(live)


def test_ctrl_c_ends_a_check(project: Project) -> None:
    (project.stack.parent / "gate.sh").write_text(GATE)
    project.write(GATED)
    assert project.run("apply", DEMO, "--yes").code == 0
    pid = project.stack.parent / "pid"
    os.mkfifo(pid)
    with project.running("check", DEMO) as process:
        gate = int(written_to(pid, process))
        process.send_signal(signal.SIGINT)
        done = finished(process)

    assert done.code == 8
    assert "error: stopped at your request" in done.err
    assert gone(gate)


def test_the_second_ctrl_c_stops_at_once(live: Project) -> None:
    before = live.server()
    live.write(SLOW)
    with live.running("apply", DEMO, "--yes") as process:
        candidate = frozen_server(process)
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        assert process.stderr.readline() == "\n"
        assert process.stderr.readline() == "stopping: press Ctrl-C again to quit\n"
        process.send_signal(signal.SIGINT)
        done = finished(process)

    assert done.code == 8
    assert f"quit; run `deployer apply {DEMO}` to carry on" in done.err
    assert live.servers() == {before, candidate}
    assert "! demo/server" in live.run("status", DEMO).out
    signal_to(candidate, signal.SIGCONT)
    converges(live)
    assert gone(candidate)


def test_a_killed_run_leaves_no_orphan_behind_the_next_one(live: Project) -> None:
    live.write(SLOW)
    with live.running("apply", DEMO, "--yes") as process:
        read_until(process, "✔ chat")
        process.kill()
        process.wait()

    assert len(live.servers()) == 2
    converges(live)


def test_a_run_that_is_killed_while_it_promotes_is_finished(live: Project) -> None:
    before = live.server()
    live.write(SLOW)
    with live.running("apply", DEMO, "--yes") as process:
        read_until(process, "→ promote")
        process.kill()
        process.wait()

    converges(live)
    assert gone(before)


def test_a_killed_first_run_is_repeated(project: Project) -> None:
    with project.running("apply", DEMO, "--yes") as process:
        read_until(process, "started as pid")
        process.kill()
        process.wait()

    converges(project)


@pytest.mark.parametrize(
    "words", [("status",), ("stop",), ("start",), ("apply", "--yes")]
)
def test_the_key_file_of_a_killed_run_goes_with_the_next_command(
    live: Project, words: tuple[str, ...]
) -> None:
    live.write(SLOW)
    with live.running("apply", DEMO, "--yes") as process:
        candidate = frozen_server(process)
        assert len(key_files(live)) == 1
        process.kill()
        process.wait()
    assert len(key_files(live)) == 1
    if words[0] != "status":
        signal_to(candidate, signal.SIGCONT)
    live.run(words[0], DEMO, *words[1:])
    assert key_files(live) == []


def test_the_key_file_of_a_killed_first_run_goes_with_a_status(
    project: Project,
) -> None:
    with project.running("apply", DEMO, "--yes") as process:
        frozen_server(process)
        process.kill()
        process.wait()
    assert len(key_files(project)) == 1
    done = project.run("status", DEMO)
    assert done.code == 0
    assert "! demo/server" in done.out
    assert key_files(project) == []


def key_files(project: Project) -> list[Path]:
    return [path for path in project.home.glob("run/*/*/*") if "api-key" in path.name]


def test_the_server_outlives_the_terminal(live: Project) -> None:
    """As when its window is closed: the kernel hangs up on the whole session."""
    before = live.server()
    with live.running("logs", DEMO, "-f") as process:
        read_until(process, "\n")
        signal_to(process.pid, signal.SIGHUP)
        assert process.wait() == -signal.SIGHUP
    assert live.server() == before


def test_a_terminal_that_closes_during_an_apply_is_survived(live: Project) -> None:
    before = live.server()
    live.write(SLOW)
    with live.running("apply", DEMO, "--yes") as process:
        read_until(process, "started as pid")
        signal_to(process.pid, signal.SIGHUP)
        process.wait()

    assert before in live.servers()
    converges(live)
