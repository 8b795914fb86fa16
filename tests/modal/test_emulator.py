"""What the emulated platform does, seen by the client's own program."""

import urllib.error
import urllib.request
from pathlib import Path

import modal
import pytest

from tests.modal.emulated import Emulated
from tests.modal.project import KEY, Project

APP = Path(__file__).with_name("small_app.py")


@pytest.fixture
def client(cloud: Emulated, monkeypatch: pytest.MonkeyPatch) -> modal.Client:
    for name, value in cloud.environment.items():
        monkeypatch.setenv(name, value)
    token = cloud.environment["MODAL_TOKEN_ID"], cloud.environment["MODAL_TOKEN_SECRET"]
    return modal.Client.from_credentials(*token)


def test_an_app_that_others_wrote(project: Project, client: modal.Client) -> None:
    """Image, secret and Volume of a function; a port that never opens; the end."""
    done = project.modal("deploy", str(APP))
    assert done.code == 0, done.err
    look = modal.Function.from_name("small", "look", client=client)
    assert look.remote(3) == {"image": "yes", "key": KEY}
    assert (project.cloud.volume("small-volume") / "count").read_text() == "3"
    with pytest.raises(ValueError, match="less than nothing"):
        look.remote(-1)
    silent = modal.Cls.from_name("small", "Silent", client=client)
    url = silent().serve.get_web_url()
    assert url is not None
    project.cloud.faults(longest_wait=4)
    with pytest.raises(urllib.error.HTTPError):
        urllib.request.urlopen(urllib.request.Request(url, method="POST"), timeout=60)
    started = [
        c for c in project.cloud.seen()["containers"] if "Silent" in c["function"]
    ]
    assert len(started) > 1, "it is started again as long as a request waits"
    assert project.modal("app", "stop", "small", "-y").code == 0
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(url, timeout=60)
