"""The loop that carries out steps: write the state, act, write the state."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Protocol, assert_never

from deployer.engines.contract import Engine
from deployer.errors import (
    DeployerError,
    EngineError,
    GateError,
    PromotionError,
    StalePlanError,
)
from deployer.planning import events
from deployer.planning import steps as planned
from deployer.planning.events import Verdict, all_let_pass, summary
from deployer.planning.plan import gates_of
from deployer.planning.resources import Kind, Node
from deployer.planning.state import (
    MEASURED,
    UNUSED,
    Begun,
    Record,
    Release,
    State,
    node_of,
    record_of,
    updated,
    without_snapshot,
)
from deployer.stack.fields.values import Flat, show_seconds
from deployer.state import StateStore
from deployer.usecases.context.settings import utc_now

SHORT_GATES = ("health", "auth", "chat")
"""Gates of a stack that take no time."""
ON_FAILURE = "rollout.on_failure"


class Judge(Protocol):
    """Runs gates against a server."""

    def __call__(
        self, record: Record, gates: Sequence[str], *, candidate: bool
    ) -> tuple[Verdict, ...]:
        """The verdict of every gate, in any order of running."""
        ...


@dataclass(frozen=True, slots=True)
class World:
    """Everything outside that an apply touches."""

    engine: Engine
    judge: Judge
    store: StateStore
    say: events.Say
    now: Callable[[], str] = utc_now
    """UTC, ISO 8601."""
    clock: Callable[[], float] = time.monotonic
    """Monotonic seconds."""
    workers: int = 4
    """Artefacts made at the same time."""


def preflight(
    engine: Engine, steps: Sequence[planned.Step], state: State, workspace: str = ""
) -> None:
    """Raise what is known to fail, before any question."""
    made: list[Node] = []
    for step in steps:
        match step:
            case planned.Make(nodes):
                made.extend(nodes)
            case planned.Stage(node):
                made.append(node)
            case _:
                pass
    if made or any(isinstance(step, planned.Retire) for step in steps):
        engine.preflight(made, state.serving, workspace)


def apply(
    steps: Sequence[planned.Step], state: State, world: World, *, cause: str, keep: int
) -> State:
    """Carry out steps; the state is written before and after each effect.

    Raises GateError when a candidate does not pass (it is retired, and the live
    release is untouched), StalePlanError when the state moved, and whatever error
    of `deployer.errors` the engine ends in.  Running again carries on from there.
    """
    if not steps:
        return state
    _refuse_stale(state, world.store.read())
    run = _Run(state, world, cause, keep)
    try:
        for step in steps:
            begun = world.clock()
            world.say(events.Started(step))
            run.carry_out(step)
            world.say(events.Ended(step, world.clock() - begun))
    except BaseException:  # a defect of ours and Ctrl-C leave no candidate either
        run.give_up()
        raise
    return run.state


def _refuse_stale(state: State, stored: State | None) -> None:
    """Before any effect: some come before the first write, which would refuse too."""
    if stored is None or (stored.lineage, stored.serial) == (
        state.lineage,
        state.serial,
    ):
        return
    raise StalePlanError(
        f"planned at serial {state.serial}, the state of `{state.stack}` is now at"
        f" {stored.serial}",
        hint="run `deployer plan` again",
    )


class _Run:
    """One apply: the state as it is written, and what was staged and judged."""

    def __init__(self, state: State, world: World, cause: str, keep: int) -> None:
        self.state = state
        self._world = world
        self._cause = cause
        self._keep = keep
        self._verdicts: tuple[Verdict, ...] = ()
        self._candidate: Record | None = None
        self._instead: dict[str, Node] = {}
        """By address, servers without the snapshot that was decided against."""
        self._stopped: Record | None = None
        self._stopped_at = 0.0
        self._writing = threading.Lock()

    def carry_out(self, step: planned.Step) -> None:
        engine, say = self._world.engine, self._world.say
        match step:
            case planned.Make(nodes):
                self._make(nodes)
            case planned.Stage(node):
                self._stage(node)
            case planned.Check(node, gates):
                self._check(node, gates)
            case planned.Promote(nodes):
                self._promote(nodes)
            case planned.Resume(release):
                self._resume(release)
            case planned.Validate(nodes, gates):
                self._validate(nodes, gates)
            case planned.Update(node, paths):
                self._update(node, paths)
            case planned.Note(nodes):
                self._write(lambda s: s.noted(*self._renewed(nodes)))
            case planned.Start(record):
                live = self.state.live[record.address]
                engine.start(live, self._needs(live.needs), say)
                self._write(lambda s: s.started(live))
                self._stopped = None
            case planned.Stop(record):
                self._stopped = record
                self._write(lambda s: s.begin(Begun.STOPPED, record))
                engine.stop(record, say)
                self._stopped_at = self._world.clock()
            case planned.Retire(record):
                self._write(lambda s: s.begin(Begun.RETIRING, record))
                engine.retire(record, say)
                self._write(lambda s: s.retired(record))
            case planned.Forget():
                self._write(lambda s: s.forgotten())
            case _:
                assert_never(step)

    def _make(self, nodes: tuple[Node, ...]) -> None:
        if self._world.workers == 1:
            for node in nodes:
                self._make_one(node)
            return
        with ThreadPoolExecutor(max_workers=self._world.workers) as pool:
            for done in [pool.submit(self._make_one, node) for node in nodes]:
                done.result()

    def _make_one(self, node: Node) -> None:
        self._write(lambda s: s.begin(Begun.STAGING, record_of(node, {})))
        outputs = self._world.engine.stage(
            node, self._needs(node.needs), self._world.say
        )
        known = (*self.state.made.values(), *self.state.live.values())
        before = next((it.outputs for it in known if it.is_same_thing(node)), {})
        decision = {UNUSED: before[UNUSED]} if UNUSED in before else {}
        self._write(lambda s: s.ready(record_of(node, {**outputs, **decision})))

    def _stage(self, node: Node) -> None:
        outputs = self._stage_one(node)
        if UNUSED in outputs:
            node, outputs = self._stage_without(node, outputs)
        self._candidate = record_of(node, outputs)
        self._write(lambda s: s.staged(record_of(node, outputs)))
        if self._stopped is not None:
            silent = show_seconds(self._world.clock() - self._stopped_at)
            self._world.say(events.Talk(node.address, f"downtime: {silent}"))

    def _stage_one(self, node: Node) -> Flat:
        candidate = record_of(node, {})
        self._candidate = candidate
        self._write(lambda s: s.begin(Begun.STAGING, candidate))
        return self._world.engine.stage(node, self._needs(node.needs), self._world.say)

    def _stage_without(self, node: Node, measured: Flat) -> tuple[Node, Flat]:
        """Write the decision against the snapshot down, and stage the server plainly.

        The next plan reads it from the record of the snapshot.
        """
        engine, say, why = self._world.engine, self._world.say, measured[UNUSED]
        say(events.Talk(node.address, f"the snapshot is not used: {why}"))
        candidate = record_of(node, measured)
        engine.retire(candidate, say)
        self._write(lambda s: s.retired(candidate))
        known = (*self.state.made.values(), *self.state.live.values())
        snapshot = next(
            it
            for it in known
            if node.needs.get(it.role) == it.key and it.kind is Kind.SNAPSHOT
        )
        noted = replace(snapshot, outputs={**snapshot.outputs, UNUSED: why})
        self._write(lambda s: s.ready(noted))
        plain = without_snapshot(node, node_of(noted))
        self._instead[node.address] = plain
        kept = {MEASURED: measured[MEASURED], UNUSED: why}
        return plain, {**self._stage_one(plain), **kept}

    def _check(self, node: Node, gates: tuple[str, ...]) -> None:
        node = self._instead.get(node.address, node)
        self._verdicts = self._world.judge(self._staged(node), gates, candidate=True)
        if not all_let_pass(self._verdicts):
            raise _refusal(self._verdicts, "the candidate was retired")

    def give_up(self) -> None:
        """Retire the candidate, and bring back what was stopped to make room for it.

        Says nothing: a cancelled run must not be cancelled again while it cleans up.
        What fails here is left to the next run, which finds it in the state; the
        error that the run ended in is the one that is reported.
        """
        if (candidate := self._candidate) is not None:
            with suppress(Exception):
                self._world.engine.retire(candidate, _silent)
                self._write(lambda s: s.retired(candidate))
        if (stopped := self._stopped) is not None:
            with suppress(Exception):
                self._world.engine.start(stopped, self._needs(stopped.needs), _silent)
                self._write(lambda s: s.started(stopped))

    def _promote(self, nodes: tuple[Node, ...]) -> None:
        nodes = tuple(self._instead.get(node.address, node) for node in nodes)
        records = {node.address: self._current(node) for node in nodes}
        release = Release(
            number=self.state.released + 1,
            at=self._world.now(),
            cause=self._cause,
            records=records,
            gates=tuple(summary(verdict) for verdict in self._verdicts),
        )
        self._write(lambda s: s.promote(release))
        self._candidate, self._stopped = None, None
        self._hand_over(release)

    def _resume(self, release: Release) -> None:
        """The candidate passed its gates; it may have died since, as in a reboot."""
        by_role = {r.role: r.outputs for r in release.records.values()}
        for record in release.records.values():
            if record.kind is Kind.SERVER:
                needs = {role: by_role[role] for role in record.needs}
                self._start_again(release, record, needs)
        self._hand_over(release)

    def _start_again(
        self, release: Release, record: Record, needs: Mapping[str, Flat]
    ) -> None:
        """A release that cannot be started any more must not block every later run."""
        try:
            self._world.engine.start(record, needs, self._world.say)
        except EngineError as error:
            if self._world.engine.observe(record).healthy:
                raise  # it may have the traffic already: the next run tries again
            self._world.engine.retire(record, _silent)
            self._give_back(record.address)
            self._write(lambda s: s.dropped())
            raise EngineError(
                f"release {release.number} could not be started again, and was"
                f" dropped: {error.message}",
                hint="what was live before it serves on; run `deployer apply` again",
            ) from error

    def _give_back(self, address: str) -> None:
        """A release that is dropped may have had the traffic already."""
        live = self.state.live.get(address)
        if live is not None and self._world.engine.observe(live).running:
            self._world.engine.promote(live, None, _silent)

    def _hand_over(self, release: Release) -> None:
        outputs: dict[str, Flat] = {}
        for address, record in release.records.items():
            if record.kind is Kind.SERVER:
                before = self._before(address)
                outputs[address] = self._promote_one(record, before)
        self._write(lambda s: s.promoted(keep=self._keep, outputs=outputs))

    def _promote_one(self, record: Record, before: Record | None) -> Flat:
        """A server that cannot take over is given up: what was live serves on."""
        engine = self._world.engine
        try:
            found = engine.promote(record, before, self._world.say)
        except PromotionError:
            with suppress(DeployerError):
                engine.retire(record, _silent)
            self._write(lambda s: s.dropped())
            raise
        if found:
            self._confirm(replace(record, outputs={**record.outputs, **found}), before)
        return found

    def _confirm(self, record: Record, before: Record | None) -> None:
        """Look shortly at what took over: it is not the process that was proven.

        Where it does not pass, what was live before takes over again.
        """
        engine, say = self._world.engine, self._world.say
        gates = tuple(gate for gate in gates_of(record.fields) if gate in SHORT_GATES)
        verdicts = self._world.judge(record, gates, candidate=False)
        if all_let_pass(verdicts) or record.fields.get(ON_FAILURE) == "keep":
            return
        if before is not None:
            engine.promote(before, record, say)
        engine.retire(record, say)
        self._write(lambda s: s.dropped())
        raise _refusal(verdicts, "what was live before has the traffic again")

    def _before(self, address: str) -> Record | None:
        """Return the record with the traffic: live, or half destroyed."""
        retiring = (it.record for it in self.state.loose if it.begun is Begun.RETIRING)
        known = (*self.state.live.values(), *retiring)
        return next((r for r in known if r.address == address), None)

    def _validate(self, nodes: tuple[Node, ...], gates: tuple[str, ...]) -> None:
        renewed = self._renewed(nodes)
        server = next(r for r in renewed if r.kind is Kind.SERVER)
        verdicts = self._world.judge(server, gates, candidate=False)
        if not all_let_pass(verdicts):
            raise _refusal(verdicts, "what is live was left as it is")
        self._write(lambda s: s.noted(*renewed))

    def _update(self, node: Node, paths: tuple[str, ...]) -> None:
        live = self.state.live[node.address]
        self._write(lambda s: s.updating(live, paths))
        self._world.engine.update(node, live, self._world.say)
        self._write(lambda s: s.noted(updated(live, node.fields, paths)))

    def _renewed(self, nodes: tuple[Node, ...]) -> tuple[Record, ...]:
        """Live records with the fields of today."""
        return tuple(self._current(node) for node in nodes)

    def _current(self, node: Node) -> Record:
        """The record of a node: just staged, just made, or live as before."""
        known = (
            *(it.record for it in self.state.loose if it.begun is Begun.STAGED),
            *self.state.made.values(),
            *self.state.live.values(),
        )
        outputs = next(r.outputs for r in known if r.is_same_thing(node))
        return record_of(node, outputs)

    def _staged(self, node: Node) -> Record:
        return next(
            it.record
            for it in self.state.loose
            if it.begun is Begun.STAGED and it.record.is_same_thing(node)
        )

    def _needs(self, needs: Mapping[str, str]) -> Mapping[str, Flat]:
        return self.state.outputs_of(needs)

    def _write(self, change: Callable[[State], State]) -> None:
        with self._writing:
            new = change(self.state)
            self._world.store.write(new, expect=self.state.serial)
            self.state = new


def _silent(event: events.Event) -> None:
    """Shows nothing, and never cancels."""


def _refusal(verdicts: Sequence[Verdict], aftermath: str) -> GateError:
    return GateError(
        f"not promoted: {events.blocking(verdicts)}",
        hint=f"{aftermath}; the table above says what each gate saw",
    )
