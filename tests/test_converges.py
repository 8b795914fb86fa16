"""Whatever the stacks, and wherever a run dies, running again ends in the right world.

A history is a list of runs: apply, rollback, destroy, a reboot before it; gates that
fail, calls of the engine that fail, and a crash before or after the n-th effect, where
writing the state is an effect like any other.  DEPLOYER_LONG=1 tries 100,000.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from deployer.errors import EngineError, GateError
from deployer.planning.graph import expand
from deployer.planning.plan import Action, Drift, make_plan, reconcile
from deployer.planning.resources import Graph, Kind, Node
from deployer.planning.state import State, node_of
from deployer.planning.steps import steps_of
from deployer.stack.fields.values import JsonValue
from deployer.state.files import from_json, to_json
from deployer.testing import (
    CrashError,
    FakeEngine,
    FakeJudge,
    Fuse,
    MemoryStateStore,
    in_place,
    resolved,
    stack,
    unheard,
)
from deployer.usecases.steps import World, apply
from tests.planning.checking import DROPS, KEEPS

HISTORIES = 100_000 if os.environ.get("DEPLOYER_LONG") else 10_000
SERVER = "demo/server"

pytestmark = pytest.mark.trust

FAILURES = (
    *("stage build", "stage weights", "stage snapshot", "stage server"),
    *("promote server", "retire server", "start server", "update server"),
    "stop server",
)


@dataclass(frozen=True, slots=True)
class Wish:
    """What a stack says: a number for each kind of effect."""

    build: int = 0
    weights: int = 0
    words: int = 0
    auth: int = 0
    in_place: int = 0
    gates: int = 0
    keep: int = 3
    snapshot: bool = False
    replaces: bool = False


PLAIN = Wish()
WISHES = st.sampled_from(
    (
        PLAIN,
        Wish(build=1),
        Wish(weights=1),
        Wish(build=1, weights=1),
        Wish(words=1),
        Wish(auth=1),
        Wish(keep=1),
        Wish(gates=1),
        Wish(gates=2),
        Wish(in_place=1),
        Wish(in_place=2),
        Wish(in_place=1, gates=1),
        Wish(in_place=1, words=1),
        Wish(snapshot=True),
        Wish(snapshot=True, auth=1),
        Wish(snapshot=True, in_place=1),
        Wish(replaces=True),
        Wish(replaces=True, words=1),
        Wish(replaces=True, snapshot=True, build=1),
    )
)
"""Few and near to each other: going back to the one before is where things hide."""


@dataclass(frozen=True, slots=True)
class Run:
    """One run of the command line, and what goes wrong in it."""

    what: str
    """``back`` asks again for what was asked for before the last run."""
    wish: Wish
    crash_at: int
    """Number of the effect that it dies at; 0: it lives."""
    crash_after: bool
    gate_fails: bool
    fails: str
    reboot: bool
    rots: bool
    """The live snapshot was damaged before it."""


RUNS = st.builds(
    Run,
    what=st.sampled_from(("apply", "apply", "apply", "back", "rollback", "destroy")),
    wish=WISHES,
    crash_at=st.sampled_from((*(0,) * 6, *range(1, 7), *range(1, 15))),
    crash_after=st.booleans(),
    gate_fails=st.sampled_from((False, False, False, True)),
    fails=st.sampled_from(("",) * 12 + FAILURES),
    reboot=st.sampled_from((False,) * 7 + (True,)),
    rots=st.sampled_from((False,) * 5 + (True,)),
)


def _run(wish: Wish, **wrong: Any) -> Run:
    fine = {"crash_at": 0, "crash_after": False, "gate_fails": False, "fails": ""}
    return Run("apply", wish, **{**fine, "reboot": False, "rots": False, **wrong})


# A live snapshot that is being made anew when a run dies is forgotten by the next one.
FORGOTTEN = (
    _run(PLAIN),
    _run(Wish(snapshot=True)),
    _run(PLAIN, crash_at=2, rots=True),
    _run(Wish(snapshot=True), crash_at=5),
    _run(PLAIN, gate_fails=True),
)


@example("local", FORGOTTEN, "back", PLAIN)
@given(
    st.sampled_from(("local", "modal")),
    st.lists(RUNS, min_size=1, max_size=6),
    st.sampled_from(("apply", "back", "rollback", "destroy")),
    WISHES,
)
@settings(max_examples=HISTORIES, deadline=None)
def test_running_again_converges(
    engine: str, runs: Sequence[Run], last: str, wish: Wish
) -> None:
    history = History(engine)
    for run in runs:
        history.attempt(run)
    target = history.target(last, wish)
    history.run(target, observe=history.rebooted or bool(history.world.rotten))
    history.check_settled(target)
    assert from_json(to_json(history.state), "state") == history.state


@given(
    st.lists(RUNS.filter(lambda run: not run.wish.in_place), min_size=1, max_size=4),
    st.integers(min_value=0, max_value=30),
    st.sampled_from(("apply", "back", "destroy")),
    WISHES.filter(lambda wish: not wish.in_place),
)
@settings(max_examples=HISTORIES // 4, deadline=None)
def test_a_lost_or_older_state_converges(
    runs: Sequence[Run], kept: int, last: str, wish: Wish
) -> None:
    """Nothing is known but what runs; nobody is left without a server meanwhile."""
    # A rollback to a release whose image is damaged starts cold, and the next apply
    # takes another image: that is two runs.
    assume(last != "back" or not any(run.rots for run in runs))
    history = History("local")
    for run in runs:
        history.attempt(run)
    target = history.target(last, wish)
    down = not target or _replaces(target) or not history.served
    history.store.history = history.store.history[:kept]
    if not history.served:  # no machine keeps connections for a server that is gone
        history.world.traffic.clear()
    history.run(target, observe=True, found=True)
    history.check_settled(target)
    assert down or history.world.outages == []


class History:
    """A world, its state, and what has to be true of them at any time."""

    def __init__(self, engine: str) -> None:
        self.engine = engine
        self.world = FakeEngine()
        self.store = MemoryStateStore()
        self._asked: list[Graph] = []
        self.rebooted = False
        self.may_be_down = False
        """Something was asked for that takes the server away, and is not over."""

    def attempt(self, run: Run) -> None:
        """One run that may fail in every way there is."""
        if run.reboot:
            self.world.reboot()
            self.rebooted = self.may_be_down = True
        if run.rots:
            self.rot()
        target = self.target(run.what, run.wish)
        self.may_be_down |= not target or _replaces(target)
        # What had the traffic when a run died, and cannot be resumed, is dropped.
        resumed = self.state.promoting is not None
        self.may_be_down |= resumed and run.fails == "start server"
        self.world.fuse = self.store.fuse = Fuse(run.crash_at, after=run.crash_after)
        self.world.fails = {run.fails}
        clean = not self.state.loose and self.state.promoting is None
        before = self._keys()
        settled = False
        try:
            looks = self.rebooted or bool(self.world.rotten)
            self.run(target, observe=looks, gate_fails=run.gate_fails)
        except (CrashError, EngineError):
            pass
        except GateError:
            assert not make_plan(target, self.state).is_empty, "a failed gate is kept"
            if clean and not self.rebooted and not run.fails:
                assert self._keys() == before
                assert (self.state.loose, self.state.promoting) == ((), None)
        else:
            self.rebooted = False
            settled = True
        assert self.may_be_down or self.world.outages == []
        self.world.outages.clear()
        self.world.fuse = self.store.fuse = Fuse()
        self.world.fails = ()
        if settled:
            self.check_settled(target)
            self.may_be_down = False

    def run(
        self,
        target: Graph,
        *,
        observe: bool,
        gate_fails: bool = False,
        found: bool = False,
    ) -> None:
        """What the command line does: plan, then carry the plan out."""
        unnamed: tuple[Drift, ...] = ()
        state = self.state
        if found:
            running = self.world.servers("demo", (), thoroughly=True)
            state, unnamed = reconcile(state, running, target)
        drift = self._drift(state) if observe else ()
        plan = make_plan(target, state, drift=(*unnamed, *drift))
        for change in plan.changes:
            assert (change.action is Action.KEEP) == (change.reasons == ())
        apply(
            steps_of(plan),
            state,
            World(
                engine=self.world,
                judge=FakeJudge(("health",) if gate_fails else ()),
                store=self.store,
                say=unheard,
                now=lambda: "2026-11-01T12:00:00+00:00",
                clock=lambda: 0.0,
                workers=1,
            ),
            cause="apply",
            keep=_keep(target),
        )

    def target(self, what: str, wish: Wish) -> Graph:
        """What a run is to end in; where there is no way back it is an apply."""
        releases = self.state.releases
        target = _graph(self.engine, wish)
        if what == "destroy":
            target = {}
        elif what == "rollback" and releases:
            release = releases[wish.words % len(releases)]
            target = {a: node_of(record) for a, record in release.records.items()}
        elif what == "back" and len(self._asked) > 1:
            target = self._asked[-2]
        self._asked.append(target)
        return target

    @property
    def state(self) -> State:
        """The recorded state, or that of a new stack."""
        return self.store.read() or State("demo", self.engine, lineage="f00d")

    def check_settled(self, target: Graph) -> None:
        """The world is the target, the state says so, and nothing is left over."""
        state = self.state
        assert make_plan(target, state, drift=self._drift(state)).is_empty
        assert (state.loose, state.promoting) == ((), None)
        assert (self.world.running, self.world.traffic) == _right(target)
        for address, record in state.live.items():
            assert node_of(record) == _plain(target[address])
            served = record.kind is Kind.SERVER
            assert served or (address, record.key) in self.world.made
        numbers = [release.number for release in state.releases]
        assert numbers == sorted(set(numbers))
        serials = [state.serial for state in self.store.history]
        assert serials == list(range(1, len(serials) + 1))

    def rot(self) -> None:
        """The live snapshot can no longer be used."""
        for record in self.state.live.values():
            if record.kind is Kind.SNAPSHOT:
                self.world.rotten.add((record.address, record.key))

    def _keys(self) -> object:
        """Which servers run, and which one has the traffic."""
        return (set(self.world.running), dict(self.world.traffic))

    @property
    def served(self) -> bool:
        """Whether the server that has the traffic runs."""
        key = self.world.traffic.get(SERVER, "")
        return (SERVER, key) in self.world.running

    def _drift(self, state: State) -> tuple[Drift, ...]:
        server = state.live.get(SERVER)
        found = []
        if server is not None and not self.world.observe(server).running:
            found.append(Drift(SERVER, "not running"))
        found += [
            Drift(record.address, flaw)
            for record in state.live.values()
            if (flaw := self.world.flaw(record, record))
        ]
        return tuple(found)


def _right(target: Graph) -> object:
    node = target.get(SERVER)
    if node is None:
        return ({}, {})
    return ({(SERVER, node.key): in_place(node.fields)}, {SERVER: node.key})


def _plain(node: Node) -> Node:
    return replace(
        node, fields=dict(node.fields), needs=dict(node.needs), spec=dict(node.spec)
    )


def _replaces(target: Graph) -> bool:
    return target[SERVER].fields.get("rollout.strategy") == "replace"


def _keep(target: Graph) -> int:
    keep = target[SERVER].fields["rollout.keep"] if target else 3
    assert isinstance(keep, int)
    return keep


@cache
def _graph(engine: str, wish: Wish) -> Graph:
    content: dict[str, JsonValue] = {
        "version": 1,
        "name": "demo",
        "engine": engine,
        "llama_cpp": {"tag": f"b{9000 + wish.build}"},
        "model": {"path": f"{wish.weights}.gguf"},
        "server": {"ctx_size": 1024 * (1 + wish.words)},
        "snapshot": {"enabled": wish.snapshot},
        "rollout": {
            "keep": wish.keep,
            "strategy": "replace" if wish.replaces else "handover",
        },
    }
    if wish.auth:
        content["auth"] = {"api_key": {"env": "KEY"}}
    if wish.in_place:
        content["scaling"] = {"min_containers": wish.in_place}
    if wish.gates:
        content["gates"] = {"chat": {"max_tokens": wish.gates}}
    asked = stack(content)
    return expand(asked, resolved(asked), KEEPS if engine == "local" else DROPS)
