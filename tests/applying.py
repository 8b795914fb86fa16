"""A desk at which stacks are applied one after the other, in a world of fakes."""

import threading
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import pytest

from deployer.errors import (
    DeployerError,
)
from deployer.planning.events import Say
from deployer.planning.graph import expand
from deployer.planning.plan import Drift, make_plan
from deployer.planning.resources import Graph, Kind, Node
from deployer.planning.state import State
from deployer.planning.steps import steps_of
from deployer.stack.fields.values import Flat
from deployer.testing import (
    CrashError,
    FakeEngine,
    FakeJudge,
    Fuse,
    MemoryStateStore,
    resolved,
    stack,
    unheard,
)
from deployer.usecases.steps import World, apply
from tests.planning.checking import KEEPS, LOCAL, MODAL, but

SERVER = "demo/server"
WIDER = but(LOCAL, "4096", "8192")
OTHER_BUILD = but(LOCAL, "b9763", "b9999")
REPLACE = LOCAL + "rollout: {strategy: replace}\n"
WIDER_REPLACE = but(REPLACE, "4096", "8192")
GATED = LOCAL + "gates: {chat: {}}\n"
SCALED = but(MODAL, "min_containers: 0", "min_containers: 2")


class DiaryStore(MemoryStateStore):
    """A store that writes what it is given into the diary of the engine."""

    def __init__(self, diary: list[str]) -> None:
        super().__init__()
        self._diary = diary

    def write(self, state: State, *, expect: int) -> None:
        super().write(state, expect=expect)
        self._diary.append(f"  {summary(state)}")


def summary(state: State) -> str:
    """The parts of a state that change while an apply runs, on one line."""
    parts = [f"{it.begun} {it.record.kind}" for it in state.loose]
    parts += [f"made {record.kind}" for record in state.made.values()]
    if state.promoting is not None:
        parts.append(f"promoting {state.promoting.number}")
    if SERVER in state.live:
        parts.append(f"live {state.releases[-1].number}")
    return ", ".join(parts) or "nothing"


@dataclass
class Desk:
    """A world in which stacks are applied one after the other."""

    engine: FakeEngine = field(default_factory=FakeEngine)
    judge: FakeJudge = field(default_factory=FakeJudge)
    workers: int = 1
    say: Say = unheard

    def __post_init__(self) -> None:
        self.store = DiaryStore(self.engine.diary)

    @property
    def state(self) -> State:
        return self.store.read() or State("demo", "local", lineage="f00d")

    def apply(
        self,
        wanted: str | Graph,
        *,
        drift: tuple[Drift, ...] = (),
        state: State | None = None,
        cause: str = "apply",
        keep: int = 3,
    ) -> list[str]:
        """Plan and apply; returns the diary of this run."""
        self.engine.diary.clear()
        seen = state or self.state
        plan = make_plan(graph(wanted), seen, drift=drift)
        world = World(
            engine=self.engine,
            judge=self.judge,
            store=self.store,
            say=self.say,
            now=lambda: "2026-11-01T12:00:00+00:00",
            clock=lambda: 0.0,
            workers=self.workers,
        )
        apply(steps_of(plan), seen, world, cause=cause, keep=keep)
        return self.engine.diary

    def crash(self, wanted: str | Graph, *, at: int, after: bool = False) -> None:
        """Die before or after the n-th effect; only calls of the engine count here."""
        self.engine.fuse = Fuse(at, after=after)
        with pytest.raises(CrashError):
            self.apply(wanted)
        self.engine.fuse = Fuse()

    def fail(
        self,
        wanted: str | Graph,
        error: type[DeployerError],
        fails: Collection[str] = (),
    ) -> list[str]:
        """Apply into an error; returns the diary of this run."""
        self.engine.fails = fails
        with pytest.raises(error):
            self.apply(wanted)
        self.engine.fails = ()
        return self.engine.diary

    def settled(self, wanted: str | Graph) -> bool:
        """Whether exactly the wanted server runs, has the traffic, and is recorded."""
        node = graph(wanted)[SERVER]
        return (
            make_plan(graph(wanted), self.state).is_empty
            and set(self.engine.running) == {(SERVER, node.key)}
            and self.engine.traffic == {SERVER: node.key}
            and self.state.loose == ()
        )


def graph(wanted: str | Graph) -> Graph:
    if not isinstance(wanted, str):
        return wanted
    asked = stack(wanted)
    return expand(asked, resolved(asked), KEEPS)


class MeetingEngine(FakeEngine):
    """An engine that makes nothing until two artefacts are being made."""

    def __init__(self) -> None:
        super().__init__()
        self.meeting = threading.Barrier(2)

    def stage(self, node: Node, needs: Mapping[str, Flat], say: Say) -> Flat:
        if node.kind in (Kind.BUILD, Kind.WEIGHTS):
            self.meeting.wait(timeout=30)
        return super().stage(node, needs, say)
