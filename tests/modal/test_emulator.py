"""What the emulated platform does, seen by the client's own program."""

import os
import urllib.error
import urllib.request
from pathlib import Path

import modal
import psutil
import pytest

from tests.modal.emulated import Emulated, emulator, wait_until
from tests.modal.project import KEY, SECRET, Project

APP = Path(__file__).with_name("small_app.py")


def test_an_app_that_others_wrote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Image, secret and Volume of a function; a port that never opens; the end."""
    with emulator(tmp_path / "cloud") as cloud:
        cloud.secret(SECRET, {"LLAMA_API_KEY": KEY})
        for name, value in cloud.environment.items():
            monkeypatch.setenv(name, value)
        token = [cloud.environment[f"MODAL_TOKEN_{part}"] for part in ("ID", "SECRET")]
        client = modal.Client.from_credentials(*token)
        project = Project(tmp_path / "project", cloud, {})
        project.folder.mkdir()
        assert project.modal("deploy", str(APP)).code == 0
        _look(cloud, client)
        _volumes(cloud, client)
        _wait_for_silence(cloud, client)
        _wake(cloud, client)
        _time_out(cloud, client)
        groups = {container["pid"] for container in cloud.seen()["containers"]}
        assert project.modal("app", "stop", "small", "-y").code == 0
        client.close()
    left = [p for p in psutil.process_iter() if _group(p) in groups]
    assert [p for p in left if p.status() != psutil.STATUS_ZOMBIE] == []


def _look(cloud: Emulated, client: modal.Client) -> None:
    """Its image, its secret and its Volume; what it raises comes back."""
    look = modal.Function.from_name("small", "look", client=client)
    assert look.remote(3) == {"image": "yes", "key": KEY}
    assert (cloud.volume("small-volume") / "count").read_text() == "3"
    with pytest.raises(ValueError, match="less than nothing"):
        look.remote(-1)


def _volumes(cloud: Emulated, client: modal.Client) -> None:
    """What was not committed is seen nowhere else, and what was, after a reload."""
    write_later = modal.Function.from_name("small", "write_later", client=client)
    reload = modal.Function.from_name("small", "reload", client=client)
    assert reload.remote("committed") == (False, False)
    for name, commit in (("lost", False), ("committed", True)):
        with pytest.raises(modal.exception.Error):
            write_later.remote(name, commit=commit)
    folder = cloud.volume("small-volume")
    assert sorted(it.name for it in folder.iterdir()) == ["committed", "count"]
    assert reload.remote("committed") == (False, True), "its container is an old one"
    with pytest.raises(RuntimeError, match="open files"):
        reload.remote("committed", hold="count")
    look_at_part = modal.Function.from_name("small", "look_at_part", client=client)
    assert look_at_part.remote() == ([], False), "the folder is made at the start"
    assert (folder / "part").is_dir()
    cloud.faults(volume_files=2)
    with pytest.raises(modal.exception.Error):
        write_later.remote("too-many", commit=True)
    cloud.faults()


def _wait_for_silence(cloud: Emulated, client: modal.Client) -> None:
    """A port that never opens: it is started again while a request waits."""
    silent = modal.Cls.from_name("small", "Silent", client=client)
    url = silent().serve.get_web_url()
    assert url is not None
    cloud.faults(longest_wait=4)
    with pytest.raises(urllib.error.HTTPError):
        urllib.request.urlopen(urllib.request.Request(url, method="POST"), timeout=60)
    silences = [c for c in cloud.seen()["containers"] if "Silent" in c["function"]]
    assert len(silences) > 1


def _wake(cloud: Emulated, client: modal.Client) -> None:
    """A restored container has the secrets of today, and clocks that jumped."""
    look = modal.Cls.from_name("small", "Asleep", client=client)().look
    cloud.secret(SECRET, {"LLAMA_API_KEY": KEY})
    cloud.faults(clock_jump=5000.0)
    before, now, gone = look.remote()
    assert (before, now) == (KEY, KEY)
    assert max(gone) < 5000
    cloud.secret(SECRET, {"LLAMA_API_KEY": "sk-new"})
    wait_until(lambda: _sleeps(cloud))
    before, now, gone = look.remote()
    assert (before, now) == (KEY, "sk-new")
    assert min(gone) > 5000
    cloud.faults()


def _sleeps(cloud: Emulated) -> bool:
    """Whether it is scaled to zero, and its snapshot waits."""
    seen = cloud.seen()
    mine = [it for it in seen["containers"] if it["function"].startswith("Asleep")]
    return bool(seen["snapshots"]) and sum(it["runs"] for it in mine) == 1


def _time_out(cloud: Emulated, client: modal.Client) -> None:
    """An input ends with its time-out, its container does not; so does a start."""
    work = modal.Function.from_name("small", "work", client=client)
    pid = work.remote(0)
    with pytest.raises(modal.exception.FunctionTimeoutError, match="timeout of 1s"):
        work.remote(60)
    assert work.remote(0) == pid
    slow = modal.Cls.from_name("small", "Slow", client=client)().look.spawn()
    wait_until(lambda: cloud.log().count("did not start within 1 seconds") > 1)
    slow.cancel()


def _group(process: psutil.Process) -> int:
    try:
        return os.getpgid(process.pid)
    except ProcessLookupError:
        return -1
