"""Trouble in the middle of a promotion: production serves, and `apply` converges.

The engine and Modal's client are the real ones, containers are simulated; what the
command line makes of an error is in `test_troubles.py`.
"""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import pytest

from deployer.engines.modal import apps, rollout
from deployer.errors import EngineError, PromotionError
from deployer.planning.events import Event, Started, Talk
from deployer.planning.resources import Graph, Kind
from deployer.planning.steps import Promote
from deployer.testing import MemoryStateStore
from tests.modal.client_loop import Counts, clients
from tests.modal.emulated import Emulated
from tests.modal.emulator.cloud import POLLED
from tests.modal.stories import STACK, Stack, by_hand, platform

CALLS: Final = (
    "AppGetOrCreate",
    "AppGetTags",
    "VolumeGetOrCreate",
    "VolumeListFiles",
    "VolumeGetFile2",
    "AppGetByDeploymentName",
    "AppGetLayout",
    "FunctionPrecreate",
    "MountGetOrCreate",
    "ImageGetOrCreate",
    "FunctionCreate",
    "ClassCreate",
    "AppPublish",
    "AppGetInfo",
    "ClassGet",
    "FunctionGet",
    "FunctionGetById",
    "FunctionGetSchedulingParams",
    "MountPutFile",
    "VolumePutFiles",
    "AppStop",
)
"""What a promotion asks of the control plane, besides what it polls."""
CHANGES: Final = ("FunctionCreate", "AppPublish", "VolumePutFiles", "AppStop")
"""Those of which an answer that is lost leaves something behind."""
LOOKS: Final = ("AppGetOrCreate", "VolumeListFiles", "VolumeGetFile2", "AppGetInfo")
"""The first of each step, which are cut where not all are."""
WAITS: Final = POLLED | {"AppCountLogs"}
"""Asked while a version comes up: without an answer they are asked again."""
LONG: Final = "DEPLOYER_LONG" in os.environ
LATE: Final = 30.0 if LONG else 2.0
"""How late lines of a log arrive: half a minute has to be borne."""
NOT_REACHED: Final = "Modal could not be reached"


@dataclass
class Scene:
    """A stack that is live with one size, and the change that is promoted."""

    stack: Stack
    first: Graph
    second: Graph
    url: str

    def key(self, graph: Graph) -> str:
        server = next(it for it in graph.values() if it.kind is Kind.SERVER)
        return server.key[: apps.KEY_LETTERS]

    def promote(self, say: Callable[[Event], None] = lambda _event: None) -> Counts:
        """Apply the change while clients ask."""
        with clients(self.url) as counts:
            self.stack.run(self.second, say=say)
        return counts

    def serves(self, graph: Graph) -> bool:
        """Whether the state and the platform agree that this is what serves."""
        app, live = self.stack.cloud.app(self.stack.name) or {}, self.stack.live
        return (
            live is not None
            and app["state"] == "APP_STATE_DEPLOYED"
            and self.key(graph) == self.stack.serving == live.key[: apps.KEY_LETTERS]
        )


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulated]:
    with platform(tmp_path_factory.mktemp("troubles")) as made:
        yield made


@pytest.fixture
def folder(cloud: Emulated, tmp_path: Path) -> Path:
    """A folder for a stack, and a platform that nothing ails."""
    cloud.faults()
    return tmp_path


def staged(name: str, cloud: Emulated, folder: Path, text: str = STACK) -> Scene:
    """A stack that is live."""
    stack = Stack(name, cloud, folder, text=text)
    first, second = stack.graph(1024), stack.graph(2048)
    for graph in (first, second):
        stack.place_artefacts(graph)
    stack.run(first)
    assert stack.live is not None
    return Scene(stack, first, second, str(stack.live.outputs["url"]))


def promoting(happens: Callable[[], object], says: str = "") -> Callable[[Event], None]:
    """Let something happen once: as a promotion begins, or when it says a text."""
    left = [happens]
    begun: list[Event] = []

    def say(event: Event) -> None:
        match event:
            case Started(Promote()):
                begun.append(event)
                now = not says
            case Talk(_, text):
                now = bool(begun and says) and says in text
            case _:
                now = False
        if now and left:
            left.pop()()

    return say


def test_the_calls_of_a_promotion_are_known(cloud: Emulated, folder: Path) -> None:
    scene = staged("calls", cloud, folder)
    scene.promote(promoting(cloud.forget))
    asked = set(cloud.calls()) - WAITS - {"MountBatchedCheckExistence"}
    assert asked == set(CALLS)


@pytest.mark.trust
@pytest.mark.parametrize("answer", [False, True], ids=["asked", "answered"])
def test_the_network_is_cut_during_a_promotion(
    cloud: Emulated, folder: Path, *, answer: bool
) -> None:
    """At each call, before it or before its answer; the next apply finishes it."""
    scene = staged(f"cut-{answer}".lower(), cloud, folder)
    calls = CHANGES if answer else CALLS if LONG else (*LOOKS, *CHANGES)
    for call in calls:
        before, wanted = scene.first, scene.second
        fault = partial(cloud.faults, cut_at=call, cut_answer=answer)
        with clients(scene.url) as counts:
            try:
                with pytest.raises(EngineError) as raised:
                    scene.stack.run(wanted, say=promoting(fault))
            finally:
                cloud.faults()
                cloud.mend()
            assert NOT_REACHED in raised.value.message, call
            assert raised.value.exit_code == 1, call
            assert "`deployer apply`" in raised.value.hint, call
            state = scene.stack.store.read()
            assert state is not None
            assert state.promoting is not None or scene.serves(before), call
            scene.stack.run(wanted)
        assert scene.serves(wanted), call
        assert counts.failed == 0, (call, str(counts))
        scene.first, scene.second = wanted, before


def test_the_network_is_cut_while_the_new_version_comes_up(
    cloud: Emulated, folder: Path
) -> None:
    """The log is asked again until it is there: the promotion ends well."""
    scene = staged("away", cloud, folder)

    def cut() -> None:
        cloud.faults(cut_at="AppCountLogs", log_seconds=0.5)
        timer.start()

    timer = threading.Timer(2.0, cloud.mend)
    counts = scene.promote(promoting(cut))
    timer.join()
    assert scene.serves(scene.second)
    assert counts.failed == 0


def test_a_version_deployed_by_hand_while_the_new_one_comes_up(
    cloud: Emulated, folder: Path
) -> None:
    """It is left alone, and so is what it says: a person decides."""
    scene = staged("hand", cloud, folder)
    scene.stack.place_artefacts(scene.stack.graph(512))
    with clients(scene.url) as counts:
        with pytest.raises(PromotionError) as raised:
            scene.stack.run(
                scene.second,
                say=promoting(partial(by_hand, scene.stack, 512), "started in"),
            )
        assert raised.value.exit_code == 1
        assert "was deployed by hand while it came up" in raised.value.message
        assert "version 3 of app `hand` serves, which is not ours" in raised.value.hint
        with pytest.raises(PromotionError, match="is not what the state says") as again:
            scene.stack.run(scene.second)
    assert "`modal app stop hand` makes room" in again.value.hint
    assert scene.stack.serving == scene.key(scene.stack.graph(512))
    assert counts.failed == 0
    scene.stack.account().stop("hand")
    scene.stack.run(scene.second)
    assert scene.serves(scene.second)


@pytest.mark.parametrize(
    ("moment", "wins"),
    [("", "theirs"), ("deploys app", "ours"), ("started in", "ours")],
    ids=["before it looked", "after it looked", "after it deployed"],
)
def test_two_deployers_at_once(
    cloud: Emulated, folder: Path, moment: str, wins: str
) -> None:
    """Whoever deployed last serves, and the other one is refused."""
    scene = staged(f"two-{moment[:3].strip()}x", cloud, folder)
    ours, known = scene.stack, scene.stack.store.read()
    theirs = Stack(ours.name, cloud, folder, store=MemoryStateStore(known))
    third = theirs.graph(512)
    for graph in (third, theirs.graph(768)):
        theirs.place_artefacts(graph)

    def meanwhile() -> None:
        with refused if moment == "started in" else nullcontext():
            theirs.run(third)

    refused = pytest.raises(PromotionError, match="is not what the state says")
    with clients(scene.url) as counts:
        with refused if wins == "theirs" else nullcontext():
            ours.run(scene.second, say=promoting(meanwhile, moment))
        winner, loser = (ours, theirs) if wins == "ours" else (theirs, ours)
        assert winner.live is not None
        assert winner.live.key.startswith(winner.serving)
        with pytest.raises(PromotionError, match="is not what the state says"):
            loser.run(loser.graph(768))
    assert winner.live.key.startswith(winner.serving)
    assert counts.failed == 0


def test_an_app_deleted_in_the_dashboard(cloud: Emulated, folder: Path) -> None:
    scene = staged("deleted", cloud, folder)
    gone = promoting(lambda: scene.stack.account().stop("deleted"), "Creating GPU")
    cloud.faults(capture_seconds=1.0)
    with pytest.raises(PromotionError) as raised:
        scene.stack.run(scene.second, say=gone)
    assert raised.value.exit_code == 1
    assert "app `deleted` is not deployed" in raised.value.hint
    cloud.faults()
    scene.stack.run(scene.second)
    assert scene.serves(scene.second)


def test_an_app_deleted_between_two_applies(cloud: Emulated, folder: Path) -> None:
    """A change is deployed as a new app; where it fails, nothing is left billing."""
    scene = staged("deleted-before", cloud, folder)
    scene.stack.account().stop("deleted-before")
    cloud.faults(broken=[f"deleted-before:{scene.key(scene.second)}"])
    with pytest.raises(PromotionError) as raised:
        scene.stack.run(scene.second)
    assert "was stopped, as nothing served before" in raised.value.hint
    apps_left = [it["name"] for it in cloud.seen()["apps"] if it["containers"]]
    assert not [name for name in apps_left if name.startswith("deleted-before")]
    cloud.faults()
    scene.stack.run(scene.second)
    assert scene.serves(scene.second)


@pytest.mark.parametrize("broken", [False, True], ids=["sound", "broken"])
def test_logs_that_are_late_from_a_clock_that_is_not_ours(
    cloud: Emulated, folder: Path, *, broken: bool
) -> None:
    """An answer of an old container proves nothing, however late the new one says."""
    cloud.faults(clock_ahead=-600)
    scene = staged(f"late-{broken}".lower(), cloud, folder)
    fails = [f"{scene.stack.name}:{scene.key(scene.second)}"] if broken else []
    scene.stack.log_seconds = 3 * LATE
    cloud.faults(log_seconds=LATE, clock_ahead=-600, broken=fails, log_ends=True)
    with clients(scene.url) as counts:
        if broken:
            with pytest.raises(PromotionError, match="did not start: "):
                scene.stack.run(scene.second)
            assert scene.serves(scene.first)
            cloud.faults(log_seconds=LATE, clock_ahead=-600)
        scene.stack.run(scene.second)
    assert scene.serves(scene.second)
    assert counts.failed == 0


def test_a_log_that_ends_while_the_new_version_comes_up(
    cloud: Emulated, folder: Path
) -> None:
    """What it would have said meanwhile is read once it can be."""
    scene = staged("ends", cloud, folder)
    late = {"log_seconds": 0.5, "log_ends": True}
    mends = threading.Timer(3.0, partial(cloud.faults, **late))

    def ends() -> None:
        cloud.faults(**late, log_cut=1.0)
        mends.start()

    told: list[str] = []

    def say(event: Event) -> None:
        if isinstance(event, Talk):
            told.append(event.text)
        happens(event)

    happens = promoting(ends)
    counts = scene.promote(say)
    mends.join()
    assert scene.serves(scene.second)
    assert counts.failed == 0
    assert any("started in" in it or "restored" in it for it in told)


def test_a_log_that_never_comes_back_proves_nothing(
    cloud: Emulated, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The version of before is put back, and the next apply finishes the change."""
    scene = staged("mute", cloud, folder)
    monkeypatch.setattr(rollout, "QUEUE_SECONDS", 3)
    monkeypatch.setattr(rollout, "_start_seconds", lambda _record: 0)
    with clients(scene.url) as counts:
        with pytest.raises(PromotionError) as raised:
            scene.stack.run(
                scene.second, say=promoting(partial(cloud.faults, log_cut=1.0))
            )
        assert raised.value.exit_code == 1
        assert "took longer than 3 s" in raised.value.message
        assert "version 1 of app `mute` serves on" in raised.value.hint
        assert scene.serves(scene.first)
        cloud.faults()
        scene.stack.run(scene.second)
    assert scene.serves(scene.second)
    assert counts.failed == 0


def test_restores_that_always_fail(cloud: Emulated, folder: Path) -> None:
    """Each ends in a start without the snapshot, which clients wait for."""
    cloud.faults(restore_failure=1.0, restore_kind="any", seed=3)
    scene = staged("restores", cloud, folder)
    counts = scene.promote()
    with clients(scene.url) as later:
        cloud.preempt("restores")
        scene.stack.run(scene.first)
    assert (counts.failed, later.failed) == (0, 0)
    assert scene.serves(scene.first)


def test_one_container_at_most_does_not_block_a_server(
    cloud: Emulated, folder: Path
) -> None:
    """Modal would bring up no replacement (guide/servers), so a second is allowed."""
    text = STACK.replace("max_containers: 3", "max_containers: 1, min_containers: 1")
    scene = staged("direct", cloud, folder, text + "modal: {endpoint: server}\n")
    with clients(scene.url) as counts:
        scene.stack.run(scene.second)
    (scaling,) = (cloud.app("direct") or {})["scaling"].values()
    assert scaling.get("max_containers") != 1
    assert scene.serves(scene.second)
    assert counts.failed == 0
