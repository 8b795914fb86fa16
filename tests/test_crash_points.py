"""F2: a run that dies at every point of every step, and the next one.

Every effect (a call of the engine, a write of the state) is a point before which and
after which a run dies; and the run that repairs it dies at every point too.
"""

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from deployer.planning.plan import Drift, make_plan
from deployer.planning.resources import Graph, Kind
from deployer.planning.state import State, node_of
from deployer.planning.steps import Step, steps_of
from deployer.testing import (
    CrashError,
    FakeEngine,
    FakeJudge,
    Fuse,
    MemoryStateStore,
    in_place,
    unheard,
)
from deployer.usecases.steps import World, apply
from tests.applying import (
    GATED,
    OTHER_BUILD,
    REPLACE,
    SCALED,
    SERVER,
    WIDER,
    WIDER_REPLACE,
    graph,
)
from tests.planning.checking import LOCAL, MODAL, SNAPSHOT, but

pytestmark = pytest.mark.trust

KEEP = but(LOCAL, "alias: tiny}", "alias: tiny}\nrollout: {keep: 2}")
Target = Callable[[State], Graph]


@dataclass
class Place:
    """A world, its state, and what was done."""

    engine: FakeEngine
    store: MemoryStateStore

    @property
    def state(self) -> State:
        return self.store.read() or State("demo", "local", lineage="f00d")

    def steps(self, target: Target) -> tuple[Step, ...]:
        return steps_of(self._plan(target))

    def run(self, target: Target, at: int = 0, *, after: bool = False) -> None:
        self.engine.fuse = self.store.fuse = Fuse(at, after=after)
        world = World(
            engine=self.engine,
            judge=FakeJudge(),
            store=self.store,
            say=unheard,
            now=lambda: "2026-11-01T12:00:00+00:00",
            clock=lambda: 0.0,
            workers=1,
        )
        try:
            apply(self.steps(target), self.state, world, cause="apply", keep=3)
        finally:
            self.engine.fuse = self.store.fuse = Fuse()

    def dies(self, target: Target, at: int, *, after: bool) -> bool:
        try:
            self.run(target, at, after=after)
        except CrashError:
            return True
        return False

    def check(self, target: Target) -> None:
        """Exactly what was asked for runs and has the traffic; nothing is left."""
        state = self.state
        wanted = target(state)
        assert make_plan(wanted, state).is_empty
        assert (state.loose, state.promoting) == ((), None)
        node = wanted.get(SERVER)
        runs = {} if node is None else {(SERVER, node.key): in_place(node.fields)}
        assert self.engine.running == runs
        assert self.engine.traffic == ({} if node is None else {SERVER: node.key})
        for record in state.live.values():
            thing = (record.address, record.key)
            assert record.kind is Kind.SERVER or thing in self.engine.made

    def _plan(self, target: Target):  # type: ignore[no-untyped-def] # noqa: ANN202
        server = self.state.live.get(SERVER)
        gone = server is not None and not self.engine.observe(server).running
        drift = (Drift(SERVER, "not running"),) if gone else ()
        return make_plan(target(self.state), self.state, drift=drift)


def asks(text: str) -> Target:
    return lambda _: graph(text)


def back(state: State) -> Graph:
    """The first release that is kept."""
    return {a: node_of(r) for a, r in state.releases[0].records.items()}


def nothing(_: State) -> Graph:
    return {}


STORIES: dict[str, tuple[tuple[Target, ...], Target]] = {
    "create": ((), asks(LOCAL)),
    "redeploy": ((asks(LOCAL),), asks(WIDER)),
    "rebuild": ((asks(LOCAL),), asks(OTHER_BUILD)),
    "make room": ((asks(REPLACE),), asks(WIDER_REPLACE)),
    "update": ((asks(MODAL),), asks(SCALED)),
    "validate": ((asks(LOCAL),), asks(GATED)),
    "note": ((asks(LOCAL),), asks(KEEP)),
    "snapshot": ((asks(MODAL),), asks(SNAPSHOT)),
    "rollback": ((asks(LOCAL), asks(WIDER)), back),
    "destroy": ((asks(LOCAL),), nothing),
    "another after it": ((asks(LOCAL), asks(WIDER)), asks(OTHER_BUILD)),
}
POINTS = 20


def begun(before: tuple[Target, ...]) -> Place:
    place = Place(FakeEngine(), MemoryStateStore())
    for target in before:
        place.run(target)
    place.engine.outages.clear()
    return place


def test_the_stories_hold_every_step() -> None:
    """A new step needs a story; resuming comes with the crashes themselves."""
    seen: set[str] = set()
    for before, target in STORIES.values():
        place = begun(before)
        seen |= {type(step).__name__ for step in place.steps(target)}
        place.engine.reboot()
        seen |= {type(step).__name__ for step in begun_again(place, target)}
    assert seen | {"Resume"} == {kind.__name__ for kind in Step.__args__}


def begun_again(place: Place, target: Target) -> tuple[Step, ...]:
    """What brings back what a reboot took, of a stack that is as it was."""
    del target
    live = {a: node_of(record) for a, record in place.state.live.items()}
    return place.steps(lambda _: live)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("name", STORIES)
def test_a_run_that_dies_anywhere_is_repaired_by_the_next(
    name: str, *, after: bool
) -> None:
    before, target = STORIES[name]
    points = 0
    for at in range(1, POINTS):
        place = begun(before)
        if not place.dies(target, at, after=after):
            break
        points += 1
        place.run(target)
        place.check(target)
        if name not in ("make room", "destroy"):
            assert place.engine.outages == []
    assert points
    assert points < POINTS - 1, "there are more points than were tried"


@pytest.mark.parametrize("name", STORIES)
def test_a_repair_that_dies_anywhere_is_repaired_by_the_next(name: str) -> None:
    before, target = STORIES[name]
    for at in range(1, POINTS):
        for again in range(1, POINTS):
            place = begun(before)
            if not place.dies(target, at, after=bool(at % 2)):
                return
            if not place.dies(target, again, after=bool(again % 2)):
                break
            place.run(target)
            place.check(target)


@pytest.mark.parametrize("name", STORIES)
def test_a_run_that_died_may_be_undone_instead(name: str) -> None:
    """What was live before is asked for again, wherever the run died."""
    before, target = STORIES[name]
    for at in range(1, POINTS):
        place = begun(before)
        if not place.dies(target, at, after=True):
            return
        first = before[-1] if before else nothing
        place.run(first)
        place.check(first)
