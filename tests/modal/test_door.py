"""What starts a container that is billed, and what does not."""

import http.client
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import modal
import pytest

from deployer.engines.modal.apps import Scaling
from deployer.engines.modal.drive import Account
from deployer.engines.place import PROXY_HEADERS
from tests.modal.emulated import PROXY_TOKEN, Emulated, emulator, wait_until
from tests.modal.project import Project
from tests.modal.stories import STACK, Stack

LIMIT = 60
SCRAPES = 1000
ANONYMOUS = 10_000
NAME = "MODAL_PROXY_TOKEN"
HALVES = dict(zip(PROXY_HEADERS, PROXY_TOKEN.split("."), strict=True))
ONE = {"Authorization": f"Bearer {PROXY_TOKEN}"}
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
    def runs(self) -> int:
        """How many containers of production there are."""
        containers = self.cloud.seen()["containers"]
        return sum(it["app"] == self.name and it["runs"] for it in containers)

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
        modal.Client.from_env().close()  # one for all of a process: others follow


def deploy(door: Door, text: str) -> None:
    """Make it live, and one container ready."""
    door.text = text
    graph = door.graph(1024)
    door.place_artefacts(graph)
    door.run(graph)
    wait_until(lambda: asked(door.url, ["/health"], ONE) == [200])


def asked(
    url: str, paths: list[str], headers: Mapping[str, str] | None = None
) -> list[int]:
    """The status of each, asked one after the other on one connection."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(str(parts.netloc), timeout=LIMIT)
    found = []
    for path in paths:
        connection.request("GET", path, headers=dict(headers or {}))
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


@pytest.mark.parametrize("endpoint", ["web_server", "server"])
def test_ten_thousand_requests_without_a_token_start_no_container(
    door: Door, endpoint: str
) -> None:
    """Modal's edge refuses them; one with a token wakes the server."""
    closed = "auth: {proxy: true}\n"
    deploy(door, f"{TWO_SLOTS}modal: {{endpoint: {endpoint}}}\n{closed}")
    before = asleep(door)
    paths = ["/health", "/v1/chat/completions"] * (ANONYMOUS // 2)
    assert asked(door.url, paths) == [401] * ANONYMOUS
    wrong = dict.fromkeys(HALVES, "wk-of-another")
    assert asked(door.url, ["/health"], wrong) == [401]
    assert (door.started, door.runs) == (before, 0)
    wait_until(lambda: asked(door.url, ["/health"], HALVES) == [200])
    assert door.started == before + 1


def test_without_it_one_stranger_wakes_a_container(door: Door) -> None:
    """A key of llama-server's own is asked for by the container that it woke."""
    deploy(door, TWO_SLOTS)
    before = asleep(door)
    assert asked(door.url, ["/v1/chat/completions"]) == [200]
    assert door.started == before + 1


def asleep(door: Door) -> int:
    """Wait until production is scaled to zero; how many containers it has had."""
    door.account().scale(door.name, Scaling(0, 1, None, 2))
    wait_until(lambda: door.runs == 0)
    return door.started


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


def test_gates_chat_and_clients_carry_the_token_by_its_variable(ready: Project) -> None:
    """And llama-server asks for its own key behind the proxy."""
    ready.change("auth:\n", "auth:\n  proxy: true\n")
    none = ready.run("apply", "stacks/tiny.yaml", "--yes", env={NAME: None})
    assert none.code == 4
    assert f"`{NAME}` (token of the proxy, `ID.SECRET`) is not set" in none.err
    ready.apply()
    assert asked(ready.live()["outputs"]["url"], ["/v1/models"]) == [401]
    done = ready.run("check", "stacks/tiny.yaml", "--gate", "chat", "--gate", "auth")
    assert done.code == 0, done.out + done.err
    said = ready.run("render", "stacks/tiny.yaml", "--client", "curl").out
    assert f'-H "Modal-Key: ${{{NAME}%%.*}}" -H "Modal-Secret: ${{{NAME}#*.}}"' in said
    answer = ready.shell(said.strip())
    assert '"choices"' in answer.out, answer.out + answer.err
    kept = [it for it in ready.folder.rglob("*") if it.is_file()]
    assert kept
    for half in PROXY_TOKEN.split("."):
        assert not any(half.encode() in it.read_bytes() for it in kept)
