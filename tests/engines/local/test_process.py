import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from deployer.engines.local.supervise.find import boot_id, identity_of
from deployer.engines.local.supervise.process import (
    Ended,
    Running,
    drain,
    end_keepers,
    find,
    is_alive,
    keepers_of,
    scrubbed,
    spawn,
    stop,
    wait_for_end,
)
from deployer.errors import EngineError
from tests.engines.local.conftest import PROGRAM, until

HUNG_KEEPER = PROGRAM.with_name("hung_keeper.py")

Start = Callable[..., Running]

INHERITED = {
    "PATH": "/bin",
    "LC_ALL": "C",
    "NVIDIA_VISIBLE_DEVICES": "0",
    "HF_TOKEN": "hf_secret",
    "LLAMA_ARG_CTX_SIZE": "1",
    "LLAMA_API_KEY": "secret",
    "HTTPS_PROXY": "http://proxy",
    "XDG_CONFIG_HOME": "/home/me/.config",
}


def ignore(_text: str) -> None:
    """Say nothing."""


def test_only_what_a_server_needs_is_inherited() -> None:
    assert scrubbed(INHERITED) == {
        "PATH": "/bin",
        "LC_ALL": "C",
    }


def test_a_server_gets_its_variables_its_marker_and_an_empty_config(
    start: Start, tmp_path: Path, port: int
) -> None:
    running = start(
        "--print-environment",
        "--last-words",
        "bye",
        environment={"LLAMA_API_KEY": "given"},
        inherit=INHERITED,
    )
    wait_for_end(running, 20)
    lines = Path(running.log).read_text().splitlines()
    assert [line for line in lines if not line.startswith("LC_CTYPE=")] == [
        f"DEPLOYER_PORT={port}",
        f"DEPLOYER_RUN_DIR={tmp_path / 'k1'}",
        "DEPLOYER_SERVER=stack/server@k1",
        "LC_ALL=C",
        "LLAMA_API_KEY=given",
        "PATH=/bin",
        f"XDG_CONFIG_HOME={tmp_path / 'k1' / 'no-config'}",
        "bye",
    ]


def test_a_server_is_recorded_as_soon_as_it_is_started(
    start: Start, tmp_path: Path, port: int
) -> None:
    running = start()
    assert json.loads((tmp_path / "k1" / "process.json").read_text()) == {
        "began": identity_of(running.pid),
        "log": str(tmp_path / "k1" / "server.log"),
        "marker": "stack/server@k1",
        "pid": running.pid,
        "port": port,
    }


@pytest.mark.parametrize("name", ["process.json", "server.log"])
def test_the_files_of_a_server_are_private(
    start: Start, tmp_path: Path, name: str
) -> None:
    start()
    assert (tmp_path / "k1" / name).stat().st_mode & 0o777 == 0o600


def test_a_server_is_its_own_session_away_from_the_terminal(start: Start) -> None:
    running = start()
    assert os.getsid(running.pid) == running.pid
    assert os.getpgid(running.pid) == running.pid
    assert Path(f"/proc/{running.pid}/fd/0").readlink() == Path(os.devnull)


def test_the_log_of_the_former_run_is_kept_beside_the_new_one(start: Start) -> None:
    first = start("--last-words", "the first run")
    wait_for_end(first, 20)
    second = start("--last-words", "the second run")
    wait_for_end(second, 20)
    log = Path(second.log)
    assert log.read_text() == "the second run\n"
    assert log.with_name("server.log.1").read_text() == "the first run\n"


def test_a_living_server_is_found_by_its_record(start: Start, tmp_path: Path) -> None:
    running = start()
    assert find(tmp_path / "k1", "stack/server", "k1") == running


@pytest.mark.parametrize("record", [None, "{", "[]", '{"marker": "stack/server@k1"}'])
def test_a_server_without_a_usable_record_is_found_by_its_environment(
    start: Start, tmp_path: Path, record: str | None
) -> None:
    running = start()
    path = tmp_path / "k1" / "process.json"
    path.unlink()
    if record is not None:
        path.write_text(record)
    assert find(tmp_path / "k1", "stack/server", "k1") == running


def test_a_server_of_another_key_is_not_found(start: Start, tmp_path: Path) -> None:
    start()
    assert find(tmp_path / "k1", "stack/server", "k2") is None


def test_a_server_of_another_run_directory_is_not_found(
    start: Start, tmp_path: Path
) -> None:
    start()
    assert find(tmp_path / "elsewhere", "stack/server", "k1") is None


def test_a_server_that_ended_is_not_found(start: Start, tmp_path: Path) -> None:
    running = start("--last-words", "bye")
    wait_for_end(running, 20)
    assert find(tmp_path / "k1", "stack/server", "k1") is None


def test_a_recorded_pid_that_is_used_again_is_not_taken_for_the_server(
    start: Start, tmp_path: Path
) -> None:
    stop(start(), grace=20)
    path = tmp_path / "k1" / "process.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "pid": 1}))
    assert find(tmp_path / "k1", "stack/server", "k1") is None


def test_a_zombie_is_not_alive(start: Start) -> None:
    running = start("--last-words", "bye")
    os.waitid(os.P_PID, running.pid, os.WEXITED | os.WNOWAIT)
    assert psutil.Process(running.pid).status() == psutil.STATUS_ZOMBIE
    assert not is_alive(running)


def test_the_exit_code_of_a_child_is_known(start: Start) -> None:
    assert wait_for_end(start("--last-words", "x", "--exit-code", "7"), 20) == Ended(7)


def test_the_signal_that_ended_a_child_is_known(start: Start) -> None:
    running = start("--killed-by", str(int(signal.SIGILL)))
    assert wait_for_end(running, 20) == Ended(-signal.SIGILL)


def test_a_stopped_server_is_reaped(listening: Start) -> None:
    running = listening()
    stop(running, grace=20)
    assert not psutil.pid_exists(running.pid)


def test_a_server_that_ignores_sigterm_is_killed(listening: Start) -> None:
    running = listening("--ignore-sigterm")
    stop(running, grace=0.3)
    assert not is_alive(running)


def test_a_server_ends_that_a_hung_keeper_traces(tmp_path: Path, port: int) -> None:
    words = (sys.executable, str(PROGRAM), "--port", str(port))
    running = spawn(
        [sys.executable, str(HUNG_KEEPER), *words],
        wrapped=True,
        run_dir=tmp_path / "k1",
        address="stack/server",
        key="k1",
        port=port,
        environment={},
    )
    (keeper,) = keepers_of(running.pid)
    try:
        until(running, lambda: is_traced(running.pid))
        stop(running, grace=0)
        assert not is_alive(running)
        assert not keeper.is_running()
    finally:
        end_keepers([keeper])


def is_traced(pid: int) -> bool:
    threads = Path(f"/proc/{pid}/task").glob("*/status")
    return any("TracerPid:\t0\n" not in it.read_text() for it in threads)


def test_stopping_twice_is_fine(listening: Start) -> None:
    running = listening()
    stop(running, grace=20)
    stop(running, grace=20)


def test_a_stranger_under_the_same_pid_is_left_alone(listening: Start) -> None:
    running = listening()
    stop(replace(running, began=f"{boot_id()}:1"), grace=0)
    assert is_alive(running)


def test_a_missing_program_is_an_error_with_a_hint(tmp_path: Path) -> None:
    error = refused(tmp_path / "nothing-here", tmp_path)
    assert error.message.endswith("nothing-here`: No such file or directory")
    assert "deployer apply" in error.hint


@pytest.mark.parametrize(
    ("content", "mode", "reason"),
    [
        (b"\x00not a program", 0o700, "Exec format error"),
        (b"#!/no/such/loader\n", 0o700, "its loader is missing"),
        (b"#!/bin/sh\n", 0o600, "Permission denied"),
    ],
)
def test_a_program_of_another_system_is_an_error(
    tmp_path: Path, content: bytes, mode: int, reason: str
) -> None:
    program = tmp_path / "llama-server"
    program.write_bytes(content)
    program.chmod(mode)
    assert reason in refused(program, tmp_path).message


def refused(program: Path, run_dir: Path) -> EngineError:
    with pytest.raises(EngineError) as caught:
        spawn(
            [str(program)],
            run_dir=run_dir / "run",
            address="stack/server",
            key="k1",
            port=1,
            environment={},
        )
    return caught.value


def test_a_server_that_cannot_be_recorded_is_not_left_behind(
    start: Start, tmp_path: Path
) -> None:
    (tmp_path / "k1" / "process.json" / "in the way").mkdir(parents=True)
    with pytest.raises(EngineError, match=r"cannot write `.*process\.json`"):
        start()
    assert find(tmp_path / "k1", "stack/server", "k1") is None


def test_a_server_without_clients_is_drained_at_once(listening: Start) -> None:
    assert drain(listening(), limit=20, say=ignore) == 0


def test_clients_that_stay_are_counted_at_the_limit(listening: Start) -> None:
    running = listening()
    with socket.create_connection(("127.0.0.1", running.port)):
        assert drain(running, limit=0.3, say=ignore) == 1


def test_draining_ends_when_the_last_client_leaves(listening: Start) -> None:
    running = listening()
    said: list[str] = []
    client = socket.create_connection(("127.0.0.1", running.port))

    def leave(text: str) -> None:
        said.append(text)
        client.close()

    assert drain(running, limit=60, say=leave) == 0
    assert said == ["waiting for 1 connection to end"]


def test_a_server_that_ended_has_nobody_to_wait_for(listening: Start) -> None:
    running = listening()
    stop(running, grace=20)
    assert drain(running, limit=20, say=ignore) == 0


def test_a_server_outlives_the_deployer(tmp_path: Path, port: int) -> None:
    """Started by a process that is gone, it is found, and stopped, by this one."""
    program = Path(__file__).with_name("fake_server.py")
    script = (
        "import sys; from pathlib import Path;"
        " from deployer.engines.local.supervise.process import spawn;"
        f" spawn([sys.executable, {str(program)!r}, '--port', '{port}'],"
        f" run_dir=Path({str(tmp_path)!r}), address='stack/server', key='k1',"
        f" port={port}, environment={{}})"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
    running = find(tmp_path, "stack/server", "k1")
    assert running is not None
    stop(running, grace=20)
    assert not is_alive(running)
