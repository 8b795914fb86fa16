"""Carry out the plan of a stack under its lock, or remove all that it made."""

import errno
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

from deployer.artefacts import lock_file
from deployer.engines.contract import Endpoint, Engine
from deployer.engines.local.supervise.find import stack_folder
from deployer.engines.local.supervise.survivors import ended_runs, holders, remove_runs
from deployer.engines.registry import ENGINES
from deployer.errors import (
    GateError,
    HeldError,
    StateError,
    UsageError,
)
from deployer.planning.events import Event, Say, Talk, Used, Verdict
from deployer.planning.resources import Kind
from deployer.planning.state import ROLLBACK, Record, Release, State, node_of
from deployer.planning.steps import steps_of
from deployer.stack.fields.values import Flat
from deployer.state import StateStore
from deployer.usecases import plan_file, runs, steps
from deployer.usecases.context import gc_roots, hosts
from deployer.usecases.context.deployed import Deployed, deployed, locked, name_of
from deployer.usecases.context.gc_roots import only_used_by, users
from deployer.usecases.context.settings import Options, Pending, Settings
from deployer.usecases.plan import Planned, drift_of, held_by, plan, settled
from deployer.usecases.steps import preflight

_KEEP = 3
"""Releases kept where no server is left to say how many."""


@dataclass(frozen=True, slots=True)
class Applied:
    """The outcome of an apply."""

    planned: Planned
    state: State
    verdicts: tuple[Verdict, ...]
    report: Path | None
    """The HTML page of the gates, where gates ran."""
    endpoint: Endpoint | None
    """Where the live server answers; None after a destroy."""


Confirm = Callable[[Planned], bool]
"""Shows a plan that changes something, and asks; False ends the run."""


def apply_stack(
    stack_file: Path,
    settings: Settings,
    options: Options,
    say: Say,
    confirm: Confirm,
    *,
    saved: plan_file.SavedPlan | None = None,
    approved: Sequence[plan_file.SavedPlan] | None = None,
) -> Applied | None:
    """Plan under the lock of the stack, ask, and carry it out; None if declined.

    With a ``saved`` plan it is that one or less, with ``approved`` ones no change that
    is in none of them, or StalePlanError.
    Raises what `usecases.steps.apply` and planning raise, and LockedError where the
    lock is not free within the time that the settings give it.
    """
    name = name_of(stack_file, settings, cached=options.cached)
    with locked(stack_file, name, settings, say, operation="apply"):
        planned = plan(stack_file, settings, options, say)
        hosts.refuse_elsewhere(planned.state, settings, stack_file)
        if saved is not None:
            planned = plan_file.held_to(saved, planned, stack_file)
        if approved is not None:
            planned = plan_file.covered_by(approved, planned, stack_file)
            settings = _with_pulls(settings, planned, approved)
        _refuse_held(planned, options, stack_file)
        _refuse_again(planned, options, stack_file)
        planned = settled(planned, options.pending)
        engine = settings.engine(planned.plan.engine, stack_file)
        todo = steps_of(planned.plan)
        steps.preflight(engine, todo, planned.state, options.workspace)
        if not planned.plan.is_empty and not confirm(planned):
            return None
        if planned.facts is not None:
            lock = lock_file.lock_path(stack_file)
            lock_file.write(lock, planned.facts, planned.prepared.name)
        return carry_out(stack_file, settings, planned, engine, say, cause="apply")


def _with_pulls(
    settings: Settings, planned: Planned, approved: Sequence[plan_file.SavedPlan]
) -> Settings:
    """Return the settings under which the history names who approved a stack."""
    mine = (it.shown for it in approved if it.plan.stack == planned.plan.stack)
    numbers = sorted({it.pull_request for it in mine} - {""})
    environment = {**settings.environment, runs.PULL_REQUEST: ", ".join(numbers)}
    return replace(settings, environment=environment)


def _refuse_held(planned: Planned, options: Options, stack_file: Path) -> None:
    """Raise HeldError where something would be done to a stack that is on hold."""
    if planned.plan.is_empty or options.pending is Pending.CLEAR:
        return
    if held := held_by(stack_file, planned.state):
        hint = f"`deployer hold {stack_file} --end` ends a hold"
        raise HeldError("; ".join(held), hint=f"{hint}; `rollback` works meanwhile")


def _refuse_again(planned: Planned, options: Options, stack_file: Path) -> None:
    """Raise UsageError where a release that was rolled back would come back."""
    number, again = planned.plan.rolled_back, options.again
    if number and not again and options.pending is not Pending.CLEAR:
        raise UsageError(
            f"release {number} was rolled back, and `{stack_file}` still asks for it",
            hint="change the stack to what should be live; or promote it again"
            f" with `deployer apply {stack_file} --again`",
        )


def carry_out(
    stack_file: Path,
    settings: Settings,
    planned: Planned,
    engine: Engine,
    say: Say,
    *,
    cause: str,
) -> Applied:
    """Carry out a plan with the engine that observed, and record the run."""
    seen: list[Verdict] = []
    used: list[str] = []

    def tell(event: Event) -> None:
        if isinstance(event, Used):
            used.append(event.text)
        say(event)

    made, keep_page = planned.plan, partial(runs.keep_report, settings.home)

    def report(after: State) -> Path | None:
        return keep_page(planned.state, after, seen, made.id, made.unproven)

    name, graph = planned.prepared.name, planned.prepared.graph
    judging = _judging(stack_file, settings, planned, engine, tell, seen)
    store = settings.states(stack_file, name)
    world = steps.World(engine=engine, judge=judging, store=store, say=tell)
    if todo := steps_of(planned.plan):
        gc_roots.register(settings, settings.state_place(stack_file), name)
    stated = (node.fields.get("rollout.keep") for node in graph.values())
    keep = next((number for number in stated if isinstance(number, int)), _KEEP)
    with _remembered(stack_file, settings, planned, cause, world, seen, used) as ended:
        try:
            state = steps.apply(todo, planned.state, world, cause=cause, keep=keep)
        except GateError as error:
            hint = f"{error.hint}, and `{report(planned.state)}` shows it all"
            raise GateError(error.message, hint=hint) from error
        ended.append(state)
    hosts.prove(state, engine)
    return _applied(planned, state, seen, report(state), engine)


def _applied(
    planned: Planned,
    state: State,
    seen: Sequence[Verdict],
    page: Path | None,
    engine: Engine,
) -> Applied:
    server = state.server
    endpoint = None if server is None else engine.endpoint(server, candidate=False)
    return Applied(planned, state, tuple(seen), page, endpoint)


@contextmanager
def _remembered(
    stack_file: Path,
    settings: Settings,
    planned: Planned,
    cause: str,
    world: steps.World,
    seen: Sequence[Verdict],
    used: Sequence[str],
) -> Iterator[list[State]]:
    """Record how the block ends; it yields a list for the state at the end."""
    ended: list[State] = []
    trouble: BaseException | None = None
    try:
        yield ended
    except BaseException as error:
        trouble = error
        raise
    finally:
        released = bool(ended) and ended[0].released > planned.state.released
        if seen or not planned.plan.is_empty:
            ran = runs.ran_now(
                settings,
                stack_file.parent,
                cause,
                plan=planned.plan,
                verdicts=seen,
                used=used,
            )
            if trouble is not None:
                ran = runs.failed(ran, trouble, settings)
            elif released:
                ran = replace(ran, release=ended[0].released)
            name = planned.plan.stack
            runs.remember_or_say(world.store, name, ran, settings, world.say)


def _judging(
    stack_file: Path,
    settings: Settings,
    planned: Planned,
    engine: Engine,
    say: Say,
    seen: list[Verdict],
) -> steps.Judge:
    folder = stack_file.parent.absolute()
    keys, live = settings.keys(folder), planned.state.server
    remote = ENGINES[planned.plan.engine].abilities.remote
    store = settings.states(stack_file, planned.prepared.name)

    def keep(_: Record, verdicts: Sequence[Verdict]) -> None:
        # A gate that passes a second time is shown once.
        passed = {verdict.gate for verdict in seen}
        seen.extend(v for v in verdicts if v.blocks or v.gate not in passed)

    def judge(
        record: Record, gates: Sequence[str], *, candidate: bool
    ) -> tuple[Verdict, ...]:
        # Imported here: a run without gates needs neither them nor an HTTP client.
        from deployer.usecases.check import Judging  # noqa: PLC0415

        judging = Judging(
            engine,
            keys,
            say,
            expects=partial(_expected, planned),
            keep=keep,
            folder=folder,
            live=live,
            remote=remote,
            needs=partial(_needed, store),
        )
        return judging(record, gates, candidate=candidate)

    return judge


def _needed(store: StateStore, record: Record) -> Mapping[str, Flat]:
    """Return what a record was made from, as the run has written it down by now."""
    state = store.read()
    return {} if state is None else state.outputs_of(record.needs)


def _expected(planned: Planned, record: Record) -> Flat:
    """Return what gates may expect: the fields of all that the server is made from."""
    nodes = planned.prepared.graph.values()
    made_from = [node.fields for node in nodes if node.address != record.address]
    return {
        p: value
        for fields in (*made_from, record.fields)
        for p, value in fields.items()
    }


FAST_GATES = frozenset({"health", "build", "props", "models", "device", "auth"})
"""The gates that generate nothing, and so take milliseconds."""


def rollback(
    stack_file: Path,
    settings: Settings,
    number: int | None,
    say: Say,
    confirm: Confirm,
    *,
    now: bool = False,
    why: str = "",
) -> Applied | None:
    """Promote an earlier release again, from the state alone; None if declined.

    ``now`` runs only the gates that generate nothing: the release passed all of its
    own before.  ``why`` is kept with the release.
    """
    name = deployed(stack_file, settings, thoroughly=True).state.stack
    with locked(stack_file, name, settings, say, operation="rollback"):
        found = deployed(stack_file, settings, thoroughly=True)
        release = earlier(found.state, number)
        graph = {a: node_of(r) for a, r in release.records.items()}
        remote = ENGINES[found.state.engine].abilities.remote
        drift = () if remote else drift_of(stack_file, settings, found.state, graph)
        planned = found.plan_to(graph, drift)
        if now:
            gates = tuple(it for it in planned.plan.gates if it in FAST_GATES)
            planned = planned._replace(plan=replace(planned.plan, gates=gates))
        preflight(found.engine, steps_of(planned.plan), found.state)
        if not planned.plan.is_empty and not confirm(planned):
            return None
        cause = f"{ROLLBACK}{release.number}{why and f': {why}'}"
        return carry_out(stack_file, settings, planned, found.engine, say, cause=cause)


def earlier(state: State, number: int | None) -> Release:
    """Return the release to roll back to: the one before the live one, unless named.

    After a rollback that is the one before its target: going back again never brings
    back what was rolled back.
    """
    if number is None:
        live = state.live_release
        while live is not None and (target := live.rolled_back_to) is not None:
            number, live = target, state.release(target)
        bound = live.number if live is not None else number
        before = [r for r in state.releases if bound is None or r.number < bound]
        if not before:
            raise UsageError(
                f"stack `{state.stack}` has no earlier release to roll back to",
                hint="`deployer history` lists the retained releases",
            )
        return before[-1]
    if (found := state.release(number)) is not None:
        return found
    kept = ", ".join(str(r.number) for r in state.releases) or "none"
    raise UsageError(f"release {number} is not retained", hint=f"retained: {kept}")


def destroy(
    stack_file: Path,
    settings: Settings,
    say: Say,
    confirm: Confirm,
    *,
    artefacts: bool,
    name: str | None = None,
) -> Applied | None:
    """Stop and remove everything that runs; None if declined.

    Builds and weights stay, but for those of this stack alone with ``artefacts``.
    Snapshots go, unless another stack needs one: they hold the memory of a server,
    prompts and keys included.  With a ``name``, of the stack that the file asked for
    before.
    """
    found = deployed(stack_file, settings, name, thoroughly=True)
    asked: list[bool] = []

    def agreed() -> bool:
        return asked[-1] if asked else confirm(found.plan_to({}))

    with (
        _stopping_on_full_disk(found, agreed, say),
        locked(stack_file, found.state.stack, settings, say, operation="destroy"),
    ):
        found = deployed(stack_file, settings, name, thoroughly=True)
        planned = found.plan_to({})
        preflight(found.engine, steps_of(planned.plan), found.state)
        if not planned.plan.is_empty:
            asked.append(confirm(planned))
            if not asked[-1]:
                return None
        mine = _only_of(found, settings) if artefacts else ()
        engine = found.engine
        done = carry_out(stack_file, settings, planned, engine, say, cause="destroy")
        _clear(found, settings, say)
        for record in mine:
            engine.discard(record, say)
        return done


def _clear(found: Deployed, settings: Settings, say: Say) -> None:
    """Remove the snapshots and run folders that a destroyed stack leaves."""
    stack = found.state.stack
    place = settings.state_place(found.file)
    for key in only_used_by(settings, place, stack, Kind.SNAPSHOT):
        settings.store.remove("snapshot", key)
    for lost in users(settings).unreachable:
        what = f"`{lost.stack}` in `{lost.place}`" if lost.stack else f"`{lost.place}`"
        text = f"what {what} needs is unknown, so no artefact was removed: {lost.why}"
        say(Talk(stack, text))
    if not ENGINES[found.state.engine].abilities.remote:
        folder = stack_folder(settings.home, found.file.parent, stack)
        remove_runs(ended_runs(folder, holders(settings.home)))


def _only_of(found: Deployed, settings: Settings) -> tuple[Record, ...]:
    """Builds and weights of a stack, live or kept, that no other stack names."""
    records = {
        record.key: record
        for release in found.state.releases
        for record in release.records.values()
    }
    records |= {record.key: record for record in found.state.live.values()}
    place = settings.state_place(found.file)
    keys = {
        key
        for kind in (Kind.BUILD, Kind.WEIGHTS)
        for key in only_used_by(settings, place, found.state.stack, kind)
    }
    return tuple(record for key, record in records.items() if key in keys)


_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


@contextmanager
def _stopping_on_full_disk(
    found: Deployed, agreed: Callable[[], bool], say: Say
) -> Iterator[None]:
    """Stop the servers of a stack where the block ends in a full disk.

    No one else has the lock then, since looking at it comes before writing it.  Raises
    StateError afterwards: the state still names what was stopped, and the next
    `destroy` finds it gone already.
    """
    try:
        yield
    except (StateError, OSError) as error:
        cause = error if isinstance(error, OSError) else error.__cause__
        full = isinstance(cause, OSError) and cause.errno in _FULL
        if not full or not agreed():
            raise
        loose = (it.record for it in found.state.loose)
        for record in (*found.state.live.values(), *loose):
            if record.kind is Kind.SERVER:
                found.engine.retire(record, say)
        raise StateError(
            f"the disk is full: {error}; the servers of `{found.state.stack}` were"
            " stopped all the same, and the state does not say so",
            hint=f"free some space, then run `deployer destroy {found.file}` again",
        ) from error
