"""A process is the same one whatever happens to the clock, and no other one."""

import json
import os
import time
from pathlib import Path

import psutil
import pytest

from deployer.engines.local.supervise.find import (
    boot_id,
    from_start_time,
    identity_of,
    is_of_this_boot,
)
from deployer.engines.local.supervise.process import (
    Running,
    find,
    is_alive,
    read_record,
)
from tests.engines.local.conftest import Start


@pytest.fixture
def stepped_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """As psutil sees it after the clock was set an hour forward: boot moves along."""
    create_time, boot_time = psutil.Process.create_time, psutil.boot_time

    def moved(process: psutil.Process) -> float:
        return create_time(process) + 3600

    monkeypatch.setattr(psutil.Process, "create_time", moved)
    monkeypatch.setattr(psutil, "boot_time", lambda: boot_time() + 3600)


@pytest.mark.usefixtures("stepped_clock")
def test_a_step_of_the_clock_leaves_a_server_found_and_of_this_boot(
    start: Start, tmp_path: Path
) -> None:
    running = start()
    assert find(tmp_path / "k1", "stack/server", "k1") == running
    assert is_alive(running)
    assert is_of_this_boot(running.began)


def test_a_server_that_was_recorded_before_the_step_is_the_same(
    start: Start, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    running = start()
    request.getfixturevalue("stepped_clock")
    assert read_record(tmp_path / "k1") == running
    assert is_alive(running)


def test_identity_is_boot_and_tick() -> None:
    boot, tick = identity_of(os.getpid()).split(":")
    assert boot == boot_id()
    assert int(tick) / os.sysconf("SC_CLK_TCK") < time.clock_gettime(
        time.CLOCK_BOOTTIME
    )


def test_a_pid_without_a_process_has_no_identity() -> None:
    assert identity_of(2**22 + 1) == ""
    assert not is_alive(Running(2**22 + 1, "", 1, ""))


def test_another_boot_is_not_this_one() -> None:
    assert not is_of_this_boot("00000000-0000-0000-0000-000000000000:7")


def test_a_record_of_an_earlier_version_is_read(start: Start, tmp_path: Path) -> None:
    running = start()
    file = tmp_path / "k1" / "process.json"
    record = json.loads(file.read_text())
    del record["began"]
    started = psutil.Process(running.pid).create_time()
    file.write_text(json.dumps({**record, "started": started}))
    assert read_record(tmp_path / "k1") == running


@pytest.mark.parametrize(("ago", "same_boot"), [(0.0, True), (1e6, False)])
def test_an_earlier_record_of_an_ended_server_tells_the_boot(
    ago: float, *, same_boot: bool
) -> None:
    found = from_start_time(2**22 + 1, time.time() - ago)
    assert is_of_this_boot(found) == same_boot
