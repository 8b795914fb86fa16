"""The emulated platform does what Modal documents: sources stand beside each behaviour.

Its containers are simulated here; what the real entrypoint does in real ones is in
`test_emulator.py` and in the stories.
"""

import functools
import itertools
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent import futures
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import modal
import pytest

from tests.modal.client_loop import clients
from tests.modal.emulated import Emulated, emulator, wait_until
from tests.modal.twin_app import TwinApp

LIMIT = 30.0
CREATING = "Creating GPU memory snapshot for Function."
RESTORING = "Restoring Function from memory snapshot."


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulated]:
    folder = tmp_path_factory.mktemp("platform")
    with emulator(folder / "cloud", simulated=True, haste=60) as made:
        yield made


@pytest.fixture(scope="module")
def client(cloud: Emulated) -> Iterator[modal.Client]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in cloud.environment.items():
            patch.setenv(name, value)
        token = [cloud.environment[f"MODAL_TOKEN_{part}"] for part in ("ID", "SECRET")]
        made = modal.Client.from_credentials(*token)
        yield made
        made.close()


@pytest.fixture(autouse=True)
def sound(cloud: Emulated) -> Iterator[None]:
    """Nothing goes wrong but what a test orders."""
    cloud.faults()
    yield
    cloud.faults()


Make = Callable[..., TwinApp]


@pytest.fixture
def make(client: modal.Client, tmp_path: Path, request: Any) -> Make:
    name = request.node.name.removeprefix("test_").replace("_", "-")[:40]
    return lambda **how: TwinApp(client, tmp_path, name, **how)


def ask(url: str) -> str:
    """The key of the server that answers."""
    with urllib.request.urlopen(f"{url}/health", timeout=LIMIT) as answer:
        return str(answer.headers["x-emulated-server"])


def running(cloud: Emulated, app: TwinApp) -> list[str]:
    """The keys of the containers that run."""
    containers = cloud.seen()["containers"]
    return [it["key"] for it in containers if it["app"] == app.name and it["runs"]]


def test_rolling_keeps_the_old_version_until_the_new_one_is_up(
    cloud: Emulated, make: Make
) -> None:
    app = make()
    url = app.deploy("one")
    assert ask(url) == "one"
    cloud.faults(start_seconds=0.5)
    with clients(url) as counts:
        app.deploy("two")
        assert ask(url) == "one", "its cold start is not over"
        wait_until(lambda: running(cloud, app) == ["two"])
        wait_until(lambda: "two" in counts.servers)
    assert counts.failed == 0
    assert counts.servers == ["one", "two"]


def test_a_new_version_that_does_not_start_never_takes_over(
    cloud: Emulated, make: Make
) -> None:
    """Its containers are tried again and again, with growing pauses."""
    app = make()
    url = app.deploy("one")
    assert ask(url) == "one"
    cloud.faults(broken=["two"])
    with clients(url) as counts:
        app.deploy("two")
        wait_until(lambda: len(_started(cloud, app, "two")) > 3)
    assert counts.failed == 0
    assert counts.servers == ["one"]
    at = [it["started"] for it in _started(cloud, app, "two")]
    pauses = [later - earlier for earlier, later in itertools.pairwise(at)]
    assert pauses == sorted(pauses)


def _started(cloud: Emulated, app: TwinApp, key: str) -> list[dict[str, Any]]:
    containers = cloud.seen()["containers"]
    return [it for it in containers if (it["app"], it["key"]) == (app.name, key)]


def test_recreate_replaces_at_once(cloud: Emulated, make: Make) -> None:
    app = make()
    url = app.deploy("one")
    assert ask(url) == "one"
    cloud.faults(start_seconds=0.3)
    app.deploy("two", strategy="recreate")
    assert ask(url) == "two", "inputs wait for the new version"


def test_one_container_of_a_server_at_most_blocks_its_replacement(
    cloud: Emulated, make: Make
) -> None:
    app = make(direct=True, least=1, most=1)
    url = app.deploy("one")
    wait_until(lambda: _status(url) == 200)
    app.deploy("two")
    for _ in range(20):
        assert ask(url) == "one"
    cloud.preempt(app.name)
    wait_until(lambda: _status(url) == 200 and ask(url) == "two")


def test_a_server_without_that_limit_is_replaced(cloud: Emulated, make: Make) -> None:
    app = make(direct=True, least=1)
    url = app.deploy("one")
    assert _status(url) in (200, 503), "there is no queue"
    wait_until(lambda: _status(url) == 200)
    with clients(url) as counts:
        app.deploy("two")
        wait_until(lambda: running(cloud, app) == ["two"])
    assert counts.failed == 0


def _status(url: str) -> int:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=LIMIT) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_an_app_that_was_stopped_is_gone(cloud: Emulated, make: Make) -> None:
    """Stopping is destructive: the next deploy under the name is another app."""
    app = make()
    url = app.deploy("one")
    assert ask(url) == "one"
    before = (cloud.app(app.name) or {})["id"]
    modal.App.lookup(app.name, client=app.client).stop()
    assert _status(url) == 404
    app.deploy("one")
    assert (cloud.app(app.name) or {})["id"] != before


def test_a_rollback_is_a_new_version_that_old_containers_belong_to(
    cloud: Emulated, make: Make
) -> None:
    app = make()
    url = app.deploy("one")
    assert ask(url) == "one"
    cloud.faults(broken=["two"])
    app.deploy("two")
    with clients(url) as counts:
        _cli(cloud, "app", "rollback", app.name, "v1")
        assert (cloud.app(app.name) or {})["history"] == [
            "STANDARD",
            "STANDARD",
            "ROLLBACK",
        ]
        assert ask(url) == "one"
    assert counts.failed == 0
    assert running(cloud, app) == ["one"]


def test_a_rollover_replaces_containers_of_the_same_version(
    cloud: Emulated, make: Make
) -> None:
    app = make()
    assert ask(app.deploy("one")) == "one"
    _cli(cloud, "app", "rollover", app.name)
    wait_until(lambda: len(_started(cloud, app, "one")) > 1)
    assert (cloud.app(app.name) or {})["version"] == 2


def test_a_staged_version_serves_once_it_is_promoted(
    cloud: Emulated, make: Make
) -> None:
    """`modal deploy --staged`, `modal app promote`; its number is known to look-ups."""
    app = make()
    url = app.deploy("one")
    assert ask(url) == "one"
    file = Path(str(app.load("two").__file__))
    _cli(cloud, "deploy", str(file), "--staged")
    found = cloud.app(app.name) or {}
    assert (found["history"], found["version"]) == (["STANDARD", "STAGED"], 1)
    assert ask(url) == "one"
    _look_up(app, 2)
    with pytest.raises(modal.exception.NotFoundError):
        _look_up(app, 3)
    _cli(cloud, "app", "promote", app.name, "v2")
    wait_until(lambda: ask(url) == "two")
    found = cloud.app(app.name) or {}
    assert (found["history"][-1], found["version"]) == ("PROMOTION", 3)
    _look_up(app, 3)


def _look_up(app: TwinApp, version: int) -> None:
    cls: Any = modal.Cls.from_name(
        app.name, "LlamaServer", version=version, client=app.client
    )
    cls().serve.hydrate()


def test_a_server_that_does_not_know_the_field_publishes_what_was_staged(
    cloud: Emulated, make: Make
) -> None:
    app = make()
    app.deploy("one")
    cloud.faults(staged="ignored")
    file = Path(str(app.load("two").__file__))
    _cli(cloud, "deploy", str(file), "--staged")
    assert (cloud.app(app.name) or {})["history"] == ["STANDARD", "STANDARD"]


def _cli(cloud: Emulated, *words: str) -> None:
    from tests.modal.project import Project  # noqa: PLC0415 - a heavy one

    done = Project(cloud.folder, cloud, {}).modal(*words)
    assert done.code == 0, done.out + done.err


def test_an_override_of_the_autoscaler_lasts_until_the_next_deployment(
    cloud: Emulated, make: Make
) -> None:
    app = make(most=3)
    app.deploy("one")
    cls: Any = modal.Cls.from_name(app.name, "LlamaServer", client=app.client)
    method = cls().serve
    method.hydrate()
    function: Any = modal.Function.from_id(method.object_id, client=app.client)
    function.autoscaler.update(max_containers=None)
    assert "max_containers" not in _scaling(cloud, app)
    app.deploy("two")
    assert _scaling(cloud, app)["max_containers"] == 3


def _scaling(cloud: Emulated, app: TwinApp) -> dict[str, int]:
    found = (cloud.app(app.name) or {})["scaling"]["LlamaServer.*"]
    return {name: value for name, value in found.items() if value}


def test_logs_arrive_late_and_carry_the_clock_of_the_platform(
    cloud: Emulated, make: Make
) -> None:
    cloud.faults(log_seconds=1.0, clock_ahead=-600)
    app = make()
    begun = datetime.now(tz=UTC)
    ask(app.deploy("one"))
    log = modal.App.lookup(app.name, client=app.client).logs
    assert list(log.tail(10)) == [], "it has answered, and no line of it is there yet"
    wait_until(lambda: list(log.tail(10)) != [])
    (entry,) = log.tail(10)
    assert entry.message.startswith("deployer: ready ")
    assert entry.timestamp < begun - timedelta(minutes=9)
    cloud.faults(clock_ahead=600)
    app.deploy("two")
    wait_until(lambda: ask(app.url) == "two")
    assert len(list(log.tail(10))) == 1, "the client asks for nothing after its now"
    end = datetime.now(tz=UTC) + timedelta(hours=1)
    assert len(list(log.fetch(since=begun - timedelta(hours=1), until=end))) == 2


def test_a_snapshot_is_of_one_type_of_worker(cloud: Emulated, make: Make) -> None:
    """Several cold starts capture before one restores, and each says which it is."""
    cloud.faults(workers=3, seed=5)
    app = make(snapshot=True, window=2)
    url = app.deploy("one")
    for _ in range(12):
        ask(url)
        wait_until(lambda: running(cloud, app) == [])
    logs = _system_lines(app)
    kinds = ["capture" if CREATING in lines else "restore" for lines in logs.values()]
    assert kinds.count("capture") == 3
    assert kinds.count("restore") == 9
    assert "restore" in kinds[: kinds.index("restore") + 1]
    captures = [lines for lines in logs.values() if CREATING in lines]
    assert all(RESTORING in lines for lines in captures), "a creating start says both"


def test_a_snapshot_is_of_one_gpu_of_a_list(cloud: Emulated, make: Make) -> None:
    """The first that is there is taken, and each type needs snapshots of its own."""
    cloud.faults(scarce=0.4, seed=2)
    app = make(snapshot=True, window=2, gpu=("L4", "A10"))
    url = app.deploy("one")
    for _ in range(8):
        ask(url)
        wait_until(lambda: running(cloud, app) == [])
    gpus = [it["gpu"] for it in _started(cloud, app, "one")]
    kinds = [CREATING in lines for lines in _system_lines(app).values()]
    assert {*gpus} == {"L4", "A10"}
    firsts = [gpu not in gpus[:at] for at, gpu in enumerate(gpus)]
    assert kinds == firsts, "the first start on each captures, and all others restore"


def test_another_list_of_gpus_is_another_definition(
    cloud: Emulated, make: Make
) -> None:
    """The second of a list is no part of the function that was sent first."""
    for gpu in (("L4", "A10"), ("L4", "A10"), ("L4", "T4")):
        make(gpu=gpu).deploy("one")
    found = cloud.app(make().name) or {}
    assert found["history"] == ["STANDARD", "STANDARD"], "the same again is no version"


def test_a_start_ends_with_its_time_limit(cloud: Emulated, make: Make) -> None:
    cloud.faults(start_seconds=30)
    app = make(limit=1)
    url = app.deploy("one")
    pool = futures.ThreadPoolExecutor(1)
    answer = pool.submit(ask, url)
    wait_until(lambda: len(_started(cloud, app, "one")) > 1)
    cloud.faults()
    assert answer.result() == "one"
    pool.shutdown()


def _system_lines(app: TwinApp) -> dict[str, list[str]]:
    """What Modal said of each container."""
    found: dict[str, list[str]] = {}
    for entry in modal.App.lookup(app.name, client=app.client).logs.tail(500):
        task = next(it for it in entry.context_ids if it.startswith("ta-"))
        found.setdefault(task, []).append(entry.message.rstrip("\n"))
    return found


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("139", "exit code: 139"),
        ("222", "the restored server is not usable"),
        ("never", "the restored server is not usable: never"),
        ("garbled", "the restored server is not usable: garbled"),
    ],
)
def test_a_restore_fails_as_often_as_is_set(
    cloud: Emulated, make: Make, kind: str, said: str
) -> None:
    cloud.faults(restore_failure=1.0, restore_kind=kind)
    app = make(snapshot=True, window=2)
    app = TwinApp(app.client, app.folder, f"fails-{kind}", window=2, snapshot=True)
    url = app.deploy("one")
    for _ in range(2):
        assert ask(url) == "one"
        wait_until(lambda: running(cloud, app) == [])
    logs = list(_system_lines(app).values())
    assert any(said in line for lines in logs for line in lines)
    creating = sum(CREATING in lines for lines in logs)
    assert creating == (2 if kind == "139" else 1), "a crash costs the snapshot"


def test_snapshots_expire(cloud: Emulated, make: Make) -> None:
    cloud.faults(lost_snapshots=1.0)
    app = make(snapshot=True, window=2)
    url = app.deploy("one")
    for _ in range(3):
        ask(url)
        wait_until(lambda: running(cloud, app) == [])
    assert all(CREATING in lines for lines in _system_lines(app).values())


def test_a_container_that_is_preempted_is_replaced(cloud: Emulated, make: Make) -> None:
    app = make()
    url = app.deploy("one")
    assert ask(url) == "one"
    with clients(url) as counts:
        cloud.preempt(app.name)
        wait_until(lambda: len(_started(cloud, app, "one")) > 1)
    assert counts.failed == 0


def test_capacity_is_waited_for(cloud: Emulated, make: Make) -> None:
    cloud.faults(capacity_seconds=0.5)
    app = make()
    url = app.deploy("one")
    begun = time.monotonic()
    assert ask(url) == "one"
    assert time.monotonic() - begun > 0.4


def test_a_request_that_takes_too_long_is_redirected(
    cloud: Emulated, make: Make
) -> None:
    cloud.faults(start_seconds=0.6, longest_wait=0.2)
    before = cloud.seen()["redirects"]
    assert ask(make().deploy("one")) == "one"
    assert cloud.seen()["redirects"] > before


def test_faults_are_the_same_by_the_same_seed(cloud: Emulated, make: Make) -> None:
    found: list[list[bool]] = []
    for _ in range(2):
        app = make()
        app = TwinApp(
            app.client,
            app.folder,
            f"seed-{len(found)}",
            window=2,
            snapshot=True,
        )
        cloud.faults(seed=11, workers=2, restore_failure=0.5, restore_kind="139")
        url = app.deploy("one")
        for _ in range(6):
            ask(url)
            wait_until(functools.partial(_rests, cloud, app))
        found.append([CREATING in lines for lines in _system_lines(app).values()])
    assert found[0] == found[1]


def _rests(cloud: Emulated, app: TwinApp) -> bool:
    return running(cloud, app) == []
