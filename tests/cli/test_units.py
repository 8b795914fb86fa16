"""Units of systemd: as systemd reads them, and what `server run` tells it."""

import os
import re
import shutil
import socket
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

from tests.cli.project import Project, finished, read_until

pytestmark = pytest.mark.real

DEMO = "stacks/demo.yaml"
MOST_EXPOSED = 4.0
"""Of 10; systemd calls what is below "OK"."""


def analyzed(folder: Path, *words: str) -> str:
    if (program := shutil.which("systemd-analyze")) is None:
        pytest.skip("NOT TESTED HERE: systemd is not installed")
    done = subprocess.run(
        (program, *words),
        env={**os.environ, "XDG_RUNTIME_DIR": str(folder)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture
def unit(live: Project, tmp_path: Path) -> Path:
    file = tmp_path / "llama-demo.service"
    file.write_text(live.run("render", DEMO, "--systemd", "system").out, "utf-8")
    return file


def test_systemd_reads_the_unit_and_calls_it_hardened(unit: Path) -> None:
    assert analyzed(unit.parent, "verify", "--man=no", str(unit)) == ""
    words = ("security", "--offline=true", "--no-pager", str(unit))
    told = analyzed(unit.parent, *words)
    exposed = re.search(r"Overall exposure level for \S+: (\d+\.\d)", told)
    assert exposed is not None
    assert float(exposed[1]) < MOST_EXPOSED, told


def test_a_unit_of_a_user_needs_no_privileges(live: Project, tmp_path: Path) -> None:
    file = tmp_path / "llama-demo.service"
    file.write_text(live.run("render", DEMO, "--systemd", "user").out, "utf-8")
    assert "User=" not in file.read_text("utf-8")
    assert analyzed(tmp_path, "verify", "--user", "--man=no", str(file)) == ""


def test_a_path_reaches_systemd_as_it_is(live: Project, unit: Path) -> None:
    text = unit.read_text("utf-8")
    assert f'BindPaths="-{live.home}"' in text
    assert f" server run {live.stack}\n" in text


def test_systemd_is_told_that_it_is_ready_and_alive(
    live: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        with live.running("server", "run", DEMO) as process:
            read_until(process, "demo/server: serves")
            process.terminate()
            assert finished(process).code == 0
        manager.settimeout(0)
        told: list[str] = []
        with suppress(BlockingIOError):
            while True:
                told.append(manager.recv(4096).decode())

    first, last = told.index("READY=1\nSTATUS=serves"), told.index("STOPPING=1")
    assert first < last
    assert set(told[:first]) == {"WATCHDOG=1"}


def test_without_a_release_there_is_no_unit(project: Project) -> None:
    assert project.run("render", DEMO, "--systemd", "user").code == 3
