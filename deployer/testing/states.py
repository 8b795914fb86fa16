"""A state store that remembers everything it was given."""

import json
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TypeVar

from deployer.errors import (
    LockedError,
    StackError,
    StalePlanError,
    StateError,
)
from deployer.planning.events import Event, Outcome, Verdict
from deployer.planning.facts import Facts, Pin
from deployer.planning.resources import MODEL_ROLE, Kind, digest
from deployer.planning.state import Record, State
from deployer.stack.fields.marks import leaves
from deployer.stack.fields.model import Stack
from deployer.stack.fields.values import Effect, JsonValue, role_of
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
