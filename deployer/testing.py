"""A state store that remembers everything it was given.

A `Fuse` that the engine and the store share ends a run before or after its n-th
effect, as a crash would.
"""

import json
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from typing import TypeVar

from deployer.engines.contract import Endpoint, Observation, Restored
from deployer.errors import (
    EngineError,
    LockedError,
    StackError,
    StalePlanError,
    StateError,
)
from deployer.planning.events import Event, Outcome, Say, Talk, Verdict
from deployer.planning.facts import Facts, Pin
from deployer.planning.plan import RunningServer
from deployer.planning.resources import MODEL_ROLE, Kind, Node, digest
from deployer.planning.state import (
    MEASURED,
    UNUSED,
    Measured,
    Record,
    State,
    is_automatic,
    record_of,
)
from deployer.stack.fields.marks import leaves, marks_at
from deployer.stack.fields.model import Stack
from deployer.stack.fields.values import Effect, Flat, JsonValue, role_of
from deployer.stack.yaml12 import parse, plain
from deployer.state.lock import Holder, this_process

_Result = TypeVar("_Result")


class CrashError(BaseException):
    """The run ends here, as if the machine had lost its power: nothing handles it."""


class ContractError(Exception):
    """The engine was asked for something that its contract rules out."""


class Fuse:
    """Ends a run before or after its n-th effect; no effect happens after that."""

    def __init__(self, at: int = 0, *, after: bool = False) -> None:
        self._left = at
        self._after = after
        self._counting = threading.Lock()
        self.blown = False
        self.burnt = 0
        """Effects that happened."""

    def run(self, effect: Callable[[], _Result]) -> _Result:
        """Let an effect happen; raises CrashError when the time has come."""
        with self._counting:
            if self.blown:
                raise CrashError
            self._left -= 1
            last = self._left == 0
            self.blown = last
        if last and not self._after:
            raise CrashError
        result = effect()
        self.burnt += 1
        if last:
            raise CrashError
        return result


class MemoryStateStore:
    """A `StateStore` that remembers every state it was given."""

    def __init__(self, state: State | None = None, *, fuse: Fuse | None = None) -> None:
        self.history: list[State] = [] if state is None else [state]
        self.fuse = fuse or Fuse()
        self._holder: Holder | None = None
        self._log: list[str] = []

    def log(self, line: str) -> None:
        """Keep a line."""
        self._log.append(line)

    def logged(self, newest: int | None = None) -> tuple[str, ...]:
        """The last lines."""
        return tuple(self._log[-newest:] if newest else self._log)

    def read(self) -> State | None:
        """The last state."""
        return self.history[-1] if self.history else None

    def write(self, state: State, *, expect: int) -> None:
        """Keep a state; raises StalePlanError when the last one is not as expected."""
        before = self.read()
        if before == state:
            return
        if before is not None and (before.serial, before.lineage) != (
            expect,
            state.lineage,
        ):
            raise StalePlanError(
                f"expected serial {expect}, the state is now at {before.serial}"
            )
        self.fuse.run(lambda: self.history.append(state))

    @property
    def stack(self) -> str:
        """The name of the stack; empty before the first state."""
        return self.history[-1].stack if self.history else ""

    @property
    def place(self) -> str:
        """Nowhere that lasts."""
        return "memory"

    def mend(self, state: State) -> None:
        """Do nothing: what is remembered is never damaged."""
        raise StateError(f"the state of `{state.stack}` is not damaged")

    @contextmanager
    def lock(self, *, operation: str) -> Iterator[None]:
        """Hold the lock; raises LockedError while it is held."""
        if self._holder is not None:
            raise LockedError(f"`{self._holder}` holds the lock")
        self._holder = this_process(operation, now=lambda: datetime.now(UTC))
        try:
            yield
        finally:
            self._holder = None

    def holder(self) -> Holder | None:
        """Who holds the lock."""
        return self._holder

    def unlock(self, holder_id: str) -> Holder:
        """Break the lock of the holder with this ID."""
        if self._holder is None or self._holder.id != holder_id:
            raise LockedError(f"the lock has not the ID `{holder_id}`")
        broken, self._holder = self._holder, None
        return broken

    def serials(self) -> tuple[int, ...]:
        """The serials of all states before the last one."""
        return tuple(state.serial for state in self.history[:-1])

    def kept(self, serial: int) -> State:
        """The state with this serial."""
        return next(state for state in self.history if state.serial == serial)


class FakeJudge:
    """A `Judge` that fails the gates it is told to."""

    def __init__(self, fails: Collection[str] = ()) -> None:
        self.fails = fails
        self.asked: list[tuple[str, bool]] = []
        """Address, and whether it was a candidate."""

    def __call__(
        self, record: Record, gates: Sequence[str], *, candidate: bool
    ) -> tuple[Verdict, ...]:
        """A verdict for every gate."""
        self.asked.append((record.address, candidate))
        return tuple(self._verdict(gate) for gate in gates)

    def _verdict(self, gate: str) -> Verdict:
        if gate in self.fails:
            return Verdict(gate, Outcome.FAIL, "told to fail")
        return Verdict(gate, Outcome.PASS, "told to pass")


def unheard(_event: Event) -> None:
    """Takes what a run says, and shows it to nobody."""


def stack(content: str | Mapping[str, JsonValue]) -> Stack:
    """A stack from YAML text or from its content; cross-field rules are not looked at.

    Raises StackError for text that is no YAML of ours, and pydantic's ValidationError.
    """
    return Stack.model_validate_json(json.dumps(_content(content)))


def facts(
    *,
    build: str = "build",
    weights: str = "weights",
    beside: Mapping[str, str] | None = None,
) -> Facts:
    """Facts whose identity is made of words: other words, other artefacts.

    ``beside`` has a word for each role of weights beside the model.
    """
    return Facts(
        build=_pin(build, about={"size": 11_000_000}),
        weights=_pin(weights, about={"size": 253_000_000, "model": ["tiny.gguf"]}),
        inputs={},
        beside={
            role: _pin(word, about={"size": 5_000_000, "model": [f"{role}.gguf"]})
            for role, word in (beside or {}).items()
        },
    )


def resolved(stack: Stack) -> Facts:
    """Facts as from a world where every other way to name something is another."""
    named: dict[str, list[JsonValue]] = {Kind.BUILD: [], MODEL_ROLE: []}
    for leaf in leaves(stack):
        if leaf.marks.locked:
            built = leaf.marks.effect is Effect.BUILD
            role = Kind.BUILD.value if built else role_of(leaf.path)
            named.setdefault(role, []).append([leaf.path, leaf.value])
    words = {role: digest(values) for role, values in named.items()}
    first = (words.pop(Kind.BUILD), words.pop(MODEL_ROLE))
    return facts(build=first[0], weights=first[1], beside=words)


def _content(content: str | Mapping[str, JsonValue]) -> JsonValue:
    if not isinstance(content, str):
        return dict(content)
    table, problems = parse(content, "stack.yaml")
    if problems:
        raise StackError(problems)
    return plain(table)


def _pin(word: str, *, about: Mapping[str, JsonValue]) -> Pin:
    return Pin("path", {"sha256": digest(word)}, {"path": word}, about)


class FakeEngine:
    """An `Engine` with a small world of its own."""

    def __init__(
        self,
        *,
        fuse: Fuse | None = None,
        fails: Collection[str] = (),
        remakes: bool = False,
        slow: bool = False,
    ) -> None:
        self.fuse = fuse or Fuse()
        self.remakes = remakes
        """Each promotion makes its server again, so outputs are known only then."""
        self.slow = slow
        """Restores take longer than plain starts, so `enabled: auto` does without."""
        self.fails = fails
        """Calls that end in EngineError before they do anything: ``stage server``."""
        self.made: set[tuple[str, str]] = set()
        """Artefacts that are there, by address and key."""
        self.rotten: set[tuple[str, str]] = set()
        """Artefacts that must be made anew, by address and key."""
        self.running: dict[tuple[str, str], Flat] = {}
        """Servers, by address and key, with the fields that change in place."""
        self.records: dict[tuple[str, str], Record] = {}
        """Every server that ever ran, as it was started."""
        self.traffic: dict[str, str] = {}
        """The key of the server that gets the traffic, by address."""
        self.outages: list[str] = []
        """Calls that left the traffic of an address without a server."""
        self.diary: list[str] = []

    def preflight(
        self, nodes: Sequence[Node], live: Collection[Record] = (), workspace: str = ""
    ) -> None:
        """Fail before anything is made, where told to."""
        del workspace
        del live
        if "preflight" in self.fails:
            raise EngineError(f"cannot make {len(nodes)} resources")

    def stage(self, node: Node, needs: Mapping[str, Flat], say: Say) -> Flat:
        """Make an artefact, or start a server that gets no traffic yet."""
        thing = (node.address, node.key)

        def effect() -> Flat:
            if node.kind is Kind.SERVER:
                self.running[thing] = in_place(node.fields)
                self.records[thing] = record_of(node, {})
            else:
                self.made.add(thing)
                self.rotten.discard(thing)
            made: Flat = {"made": f"{node.kind}-{node.key[:8]}"}
            if not (self.slow and is_automatic(node) and Kind.SNAPSHOT in node.needs):
                return made
            measured = Measured(plain=1.0, capture=3.0, restore=2.0)
            return {**made, MEASURED: measured._asdict(), UNUSED: measured.why_not}

        self._know(node.needs, needs)
        return self._do("stage", node, effect, say)

    def update(self, node: Node, record: Record, say: Say) -> None:
        """Set the fields of a running server that change in place."""

        def effect() -> None:
            if (record.address, record.key) not in self.running:
                raise ContractError(f"{record.address} is updated, and does not run")
            self.running[record.address, record.key] = in_place(node.fields)

        self._do("update", record, effect, say)

    def promote(self, record: Record, before: Record | None, say: Say) -> Flat:
        """Turn the traffic over to a server that runs."""

        def effect() -> None:
            if (record.address, record.key) not in self.running:
                raise ContractError(f"{record.address} is promoted, and does not run")
            known = (record.key, None if before is None else before.key, None)
            if self.traffic.get(record.address) not in known:
                raise ContractError(f"{record.address} takes traffic from a stranger")
            self.traffic[record.address] = record.key

        self._do("promote", record, effect, say)
        return {"live": record.key[:8]} if self.remakes else {}

    def retire(self, record: Record, say: Say) -> None:
        """End a server, and its traffic with it; artefacts stay."""

        def effect() -> None:
            self.running.pop((record.address, record.key), None)
            self._notice(f"retire {record.address}")
            if self.traffic.get(record.address) == record.key:
                del self.traffic[record.address]

        self._do("retire", record, effect, say)

    def start(self, record: Record, needs: Mapping[str, Flat], say: Say) -> None:
        """Start a server where it does not run."""

        def effect() -> None:
            thing = (record.address, record.key)
            self.running.setdefault(thing, in_place(record.fields))
            self.records[thing] = record
            self.traffic.setdefault(record.address, record.key)

        self._know(record.needs, needs)
        self._do("start", record, effect, say)

    def stop(self, record: Record, say: Say) -> None:
        """End a server; the traffic waits for it."""

        def effect() -> None:
            self.running.pop((record.address, record.key), None)
            self._notice(f"stop {record.address}")

        self._do("stop", record, effect, say)

    def failure(self, record: Record, seconds: float, *, ask: bool) -> str:
        """See `Engine.failure`."""
        del seconds, ask
        return "" if self.observe(record).running else "it does not run"

    def renew(self, record: Record, say: Say) -> bool:
        """Replace nothing: what it starts is stopped first."""
        del record, say
        return False

    def idle(self, record: Record, seconds: float, say: Say) -> None:
        """End a server that nobody asks, whatever the time."""

        def effect() -> None:
            self.running.pop((record.address, record.key), None)

        say(Talk(record.address, f"idle for {seconds:g} s"))
        self._do("idle", record, effect, say)

    def restore(
        self, record: Record, needs: Mapping[str, Flat], say: Say, *, beside: bool
    ) -> Restored:
        """Run a server again, from its snapshot where that is there and sound."""
        if beside:
            record = replace(record, key=f"copy-{record.key}")

        def effect() -> None:
            thing = (record.address, record.key)
            self.running[thing] = in_place(record.fields)
            self.records[thing] = record

        self._know(record.needs, needs)
        self._do("restore", record, effect, say)
        stack = record.address.partition("/")[0]
        snapshot = (f"{stack}/{Kind.SNAPSHOT}", record.needs.get(Kind.SNAPSHOT, ""))
        really = snapshot in self.made and snapshot not in self.rotten
        return Restored(really, 0.1, "restored" if really else "cold", record)

    def woken(self, record: Record, ask: Callable[[], object], say: Say) -> None:
        """See `Engine.woken`: what runs here stays awake."""
        del record, say
        ask()

    def flaw(self, record: Record, server: Record | Node) -> str:
        """Return whether it was made to rot."""
        del server
        return "rotten" if (record.address, record.key) in self.rotten else ""

    def observe(self, record: Record) -> Observation:
        """Return whether the server runs."""
        runs = (record.address, record.key) in self.running
        return Observation(runs, runs, "running" if runs else "not running", {})

    def servers(
        self, stack: str, known: Collection[str], *, thoroughly: bool
    ) -> tuple[RunningServer, ...]:
        """Every server that runs, and whether it has the traffic."""
        del known, thoroughly
        return tuple(
            RunningServer(
                self.records[thing],
                pid=number,
                started=number,
                port=0,
                serves=self.traffic.get(thing[0]) == thing[1],
            )
            for number, thing in enumerate(self.running, start=1)
            if thing[0].startswith(f"{stack}/")
        )

    def endpoint(self, record: Record, *, candidate: bool) -> Endpoint:
        """An address that nothing listens on."""
        stage = "candidate" if candidate else "live"
        return Endpoint(f"http://{stage}.{record.address.replace('/', '.')}.test")

    def discard(self, record: Record, say: Say) -> None:
        """Forget an artefact."""

        def effect() -> None:
            self.made.discard((record.address, record.key))

        self._do("discard", record, effect, say)

    def versions(self, record: Record) -> Mapping[str, str]:
        """A fake has none."""
        del record
        return {}

    def usage(self, record: Record) -> Mapping[str, float] | None:
        """Count nothing."""
        del record
        return None

    def logs(self, record: Record, *, lines: int, follow: bool) -> Iterator[str]:
        """The diary of what was done to the server."""
        if follow:
            raise ContractError("a fake server writes nothing more")
        mine = [entry for entry in self.diary if entry.endswith(record.address)]
        return iter(mine[-lines:])

    def reboot(self) -> None:
        """Everything that runs is gone, as after a power cut."""
        self.running.clear()

    def _do(
        self,
        call: str,
        thing: Node | Record,
        effect: Callable[[], _Result],
        say: Say,
    ) -> _Result:
        say(Talk(thing.address, call))
        if f"{call} {thing.kind}" in self.fails:
            raise EngineError(f"cannot {call} `{thing.address}`")
        result = self.fuse.run(effect)
        self.diary.append(f"{call} {thing.address}")
        return result

    def _notice(self, call: str) -> None:
        for address, key in self.traffic.items():
            if (address, key) not in self.running:
                self.outages.append(call)

    def _know(self, keys: Mapping[str, str], needs: Mapping[str, Flat]) -> None:
        """A thing can only be made from what was made before."""
        for kind, key in keys.items():
            if needs.get(kind, {}).get("made") != f"{kind}-{key[:8]}":
                raise ContractError(f"{kind} {key[:8]} is needed and was not handed in")


def in_place(fields: Flat) -> Flat:
    """The fields that change without a restart."""
    return {path: value for path, value in fields.items() if _changes_in_place(path)}


@cache
def _changes_in_place(path: str) -> bool:
    return marks_at(Stack, path).effect is Effect.UPDATE
