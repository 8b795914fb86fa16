"""What starts a container that is billed, and what does not."""

import http.client
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import modal
import pytest

from deployer.engines.modal.drive import Account
from tests.modal.emulated import Emulated, emulator, wait_until
from tests.modal.stories import STACK, Stack

LIMIT = 60
SCRAPES = 1000
PATHS = ("/metrics", "/health", "/v1/models")
TWO_SLOTS = (
    STACK.replace("parallel: 4", "parallel: 2")
    .replace("snapshot: {enabled: true}\n", "")
    .replace(", restore: {}", "")
)


@dataclass
class Door(Stack):
    """A stack whose requests go through a client of its own."""

    client: modal.Client | None = None

    def account(self) -> Account:
        account = super().account()
        account._client = self.client
        return account

    @property
    def url(self) -> str:
        assert self.live is not None
        return str(self.live.outputs["url"])

    @property
    def started(self) -> int:
        """How many containers of production there have been."""
        containers = self.cloud.seen()["containers"]
        return sum(it["app"] == self.name for it in containers)


@pytest.fixture
def door(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Door]:
    """A stack that is not live yet, on a platform of its own."""
    with emulator(tmp_path / "cloud", simulated=True) as cloud:
        for name, value in cloud.environment.items():
            monkeypatch.setenv(name, value)
        client = modal.Client.from_credentials("ak-of-the-tests", "as-of-the-tests")
        yield Door("door", cloud, tmp_path, client=client)
        client.close()


def deploy(door: Door, text: str) -> None:
    """Make it live, and one container ready."""
    door.text = text
    graph = door.graph(1024)
    door.place_artefacts(graph)
    door.run(graph)
    wait_until(lambda: asked(door.url, ["/health"]) == [200])


def asked(url: str, paths: list[str]) -> list[int]:
    """The status of each, asked one after the other on one connection."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(str(parts.netloc), timeout=LIMIT)
    found = []
    for path in paths:
        connection.request("GET", path)
        answer = connection.getresponse()
        answer.read()
        found.append(answer.status)
    connection.close()
    return found


@contextmanager
def busy(door: Door, answers: int) -> Iterator[None]:
    """As many answers under way, for the time of the block."""
    held = door.folder / "held"
    held.touch()
    path = f"/v1/chat/completions?while={held}"
    with ThreadPoolExecutor(answers) as pool:
        under_way = [pool.submit(asked, door.url, [path]) for _ in range(answers)]
        try:
            wait_until(lambda: active(door.cloud) == answers)
            yield
        finally:
            held.unlink()
        assert [it.result() for it in under_way] == [[200]] * answers


def active(cloud: Emulated) -> int:
    """Requests that containers work on."""
    return sum(it["active"] for it in cloud.seen()["containers"] if it["runs"])


@pytest.mark.parametrize("endpoint", ["web_server", "server"])
def test_scrapes_beside_two_long_answers_start_no_container(
    door: Door, endpoint: str
) -> None:
    """All slots are busy, and who looks at the server needs none."""
    deploy(door, f"{TWO_SLOTS}modal: {{endpoint: {endpoint}}}\n")
    before = door.started
    with busy(door, 2):
        paths = [PATHS[number % 3] for number in range(SCRAPES)]
        assert asked(door.url, paths) == [200] * SCRAPES
        assert door.started == before


def test_without_room_above_the_slots_one_scrape_starts_a_container(
    door: Door,
) -> None:
    """So it was, and so it is where a stack states it."""
    stated = "max_containers: 3, max_concurrent: 2"
    deploy(door, TWO_SLOTS.replace("max_containers: 3", stated))
    before = door.started
    with busy(door, 2):
        assert asked(door.url, ["/metrics"]) == [200]
        assert door.started == before + 1


@pytest.mark.parametrize("endpoint", ["web_server", "server"])
def test_more_answers_than_slots_for_a_while_start_another_container(
    door: Door, endpoint: str
) -> None:
    """What is above the target for a moment is let in, what stays is scaled for."""
    deploy(door, f"{TWO_SLOTS}modal: {{endpoint: {endpoint}}}\n")
    before = door.started
    with busy(door, 3):
        wait_until(lambda: door.started == before + 1)


def test_tags_of_the_app_change_in_place(door: Door) -> None:
    """No deployment, and deployer's own tags stay."""
    deploy(door, f"{TWO_SLOTS}modal: {{tags: {{team: a}}}}\n")
    app = modal.App.lookup("door", client=door.client)
    before = app.get_tags(client=door.client)
    assert before["team"] == "a"
    door.cloud.forget()
    door.text = f"{TWO_SLOTS}modal: {{tags: {{owner: b}}}}\n"
    door.run(door.graph(1024))
    calls = door.cloud.calls()
    assert calls["AppSetTags"] == 1
    assert not {"AppPublish", "FunctionCreate"} & calls.keys()
    ours = {name: text for name, text in before.items() if name != "team"}
    assert app.get_tags(client=door.client) == {**ours, "owner": "b"}
