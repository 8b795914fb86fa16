"""Carrying plans out: apply, rollback, destroy."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from deployer.artefacts import lock_file
from deployer.engines.contract import Endpoint, Engine
from deployer.engines.local.folders import stack_folder
from deployer.engines.local.supervise.survivors import ended_runs, holders, remove_runs
from deployer.engines.registry import ENGINES
from deployer.errors import GateError, UsageError
from deployer.planning.events import Event, Say, Talk, Used, Verdict
from deployer.planning.plan import Drift, make_plan
from deployer.planning.resources import Graph, Kind, Node
from deployer.planning.state import Record, Release, State, node_of
from deployer.planning.steps import Make, Stage, steps_of
from deployer.stack.fields.values import Flat, JsonValue
from deployer.state import StateStore
from deployer.usecases.check import Judging
from deployer.usecases.context.deployed import Deployed, deployed, locked, name_of
from deployer.usecases.context.gc_roots import only_used_by, register, users
from deployer.usecases.context.hosts import prove, refuse_elsewhere
from deployer.usecases.context.settings import (
    Options,
    Settings,
    monotonic,
    utc_now,
    whole,
)
from deployer.usecases.plan import Planned, drift_of, plan, settled
from deployer.usecases.plan_file import SavedPlan, held_to
from deployer.usecases.reading.prepared import Prepared
from deployer.usecases.runs import keep_report, ran_now, remember
from deployer.usecases.steps import World, apply, stopping_even_so

_KEEP = 3
"""Releases kept where no server is left to say how many."""


@dataclass(frozen=True, slots=True)
class Applied:
    """What an apply ended in."""

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
    saved: SavedPlan | None = None,
) -> Applied | None:
    """Plan under the lock of the stack, ask, and carry it out; None if declined.

    With a ``saved`` plan it is that one or less, or StalePlanError.
    Raises what `applying.steps.apply` and planning raise, and LockedError where the
    lock is not free within the time that the settings give it.
    """
    name = name_of(stack_file, settings, cached=options.cached)
    store = settings.states(stack_file, name, notify=_notes(name, say))
    with locked(store, settings, say, operation="apply"):
        planned = plan(stack_file, settings, options, say)
        refuse_elsewhere(planned.state, settings, stack_file)
        if saved is not None:
            planned = held_to(saved, planned, stack_file)
        planned = settled(planned, options.pending)
        engine = settings.engine(planned.plan.engine, stack_file)
        _preflight(engine, planned)
        if not planned.plan.is_empty and not confirm(planned):
            return None
        if planned.facts is not None:
            lock = lock_file.lock_path(stack_file)
            lock_file.write(lock, planned.facts, planned.prepared.name)
        return _carry_out(stack_file, settings, planned, engine, say, cause="apply")


def rollback(
    stack_file: Path,
    settings: Settings,
    number: int | None,
    say: Say,
    confirm: Confirm,
) -> Applied | None:
    """Promote an earlier release again, from the state alone; None if declined."""
    found = deployed(stack_file, settings, thoroughly=True)
    store = _telling(found, settings, say)
    with locked(store, settings, say, operation="rollback"):
        found = deployed(stack_file, settings, thoroughly=True)
        release = earlier(found.state, number)
        graph = {a: node_of(r) for a, r in release.records.items()}
        remote = ENGINES[found.state.engine].abilities.remote
        drift = () if remote else drift_of(stack_file, settings, found.state, graph)
        planned = _planned(found, graph, drift)
        _preflight(found.engine, planned)
        if not planned.plan.is_empty and not confirm(planned):
            return None
        cause = f"rollback to {release.number}"
        engine = found.engine
        return _carry_out(stack_file, settings, planned, engine, say, cause=cause)


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
    store = _telling(found, settings, say)
    asked: list[bool] = []

    def agreed() -> bool:
        return asked[-1] if asked else confirm(_planned(found, {}))

    with (
        stopping_even_so(found, agreed, say),
        locked(store, settings, say, operation="destroy"),
    ):
        found = deployed(stack_file, settings, name, thoroughly=True)
        planned = _planned(found, {})
        if not planned.plan.is_empty:
            asked.append(confirm(planned))
            if not asked[-1]:
                return None
        engine = found.engine
        mine = _only_of(found, settings) if artefacts else ()
        done = _carry_out(stack_file, settings, planned, engine, say, cause="destroy")
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


def earlier(state: State, number: int | None) -> Release:
    """The release to roll back to: the one before the live one, unless named."""
    live = state.live_release.number if state.live_release else 0
    if number is None:
        before = [r for r in state.releases if r.number != live]
        if not before:
            raise UsageError(
                f"stack `{state.stack}` has no earlier release to roll back to",
                hint="`deployer history` lists the kept ones",
            )
        return before[-1]
    if (found := state.release(number)) is not None:
        return found
    kept = ", ".join(str(r.number) for r in state.releases) or "none"
    raise UsageError(f"release {number} is not kept", hint=f"kept are: {kept}")


def _planned(found: Deployed, graph: Graph, drift: tuple[Drift, ...] = ()) -> Planned:
    """A plan towards a graph that comes from the state."""
    state = found.state
    prepared = Prepared(state.stack, state.engine, graph, {}, ())
    made = make_plan(graph, state, drift=(*found.drift, *drift))
    return Planned(made, prepared, state, None)


def _telling(found: Deployed, settings: Settings, say: Say) -> StateStore:
    """The same store, that says whose lock it takes over."""
    name = found.state.stack
    return settings.states(found.file, name, notify=_notes(name, say))


def _notes(name: str, say: Say) -> Callable[[str], None]:
    return lambda line: say(Talk(name, line))


def _preflight(engine: Engine, planned: Planned) -> None:
    """Raise what is known to fail, before anybody is asked."""
    made: list[Node] = []
    for step in steps_of(planned.plan):
        match step:
            case Make(nodes):
                made.extend(nodes)
            case Stage(node):
                made.append(node)
            case _:
                pass
    if made:
        engine.preflight(made)


def _carry_out(
    stack_file: Path,
    settings: Settings,
    planned: Planned,
    engine: Engine,
    say: Say,
    *,
    cause: str,
) -> Applied:
    """With the very engine that saw all of it before: it remembers what is wanted."""
    seen: list[Verdict] = []
    used: list[str] = []
    tell = _noting(say, used)
    judging = _judging(stack_file, settings, planned, engine, tell, seen)
    world = World(
        engine=engine,
        judge=judging,
        store=settings.states(stack_file, planned.prepared.name),
        say=tell,
        now=utc_now,
        clock=monotonic,
    )
    steps = steps_of(planned.plan)
    if steps:
        register(settings, settings.state_place(stack_file), planned.prepared.name)
    keep = _kept(planned)
    before = planned.state
    kept = partial(_keep, settings.home, planned, cause, seen, used)
    try:
        state = apply(steps, before, world, cause=cause, keep=keep)
    except GateError as error:
        hint = f"{error.hint}, and `{kept(before)}` shows it all"
        raise GateError(error.message, hint=hint) from error
    prove(state, engine)
    report = kept(state)
    server = state.server
    endpoint = None if server is None else engine.endpoint(server, candidate=False)
    return Applied(planned, state, tuple(seen), report, endpoint)


def _noting(say: Say, used: list[str]) -> Say:
    """Hands on what is said, and keeps what was billed."""

    def tell(event: Event) -> None:
        if isinstance(event, Used):
            used.append(event.text)
        say(event)

    return tell


def _keep(
    home: Path,
    planned: Planned,
    cause: str,
    seen: Sequence[Verdict],
    used: Sequence[str],
    after: State,
) -> Path | None:
    """Keep what a run led to, and what its gates saw; the page to read."""
    before, plan_ = planned.state, planned.plan
    remember(home, before, after, ran_now(plan_, cause, seen, used))
    return keep_report(home, before, after, seen, plan_.id)


def _judging(
    stack_file: Path,
    settings: Settings,
    planned: Planned,
    engine: Engine,
    say: Say,
    seen: list[Verdict],
) -> Judging:
    folder = stack_file.parent.absolute()
    return Judging(
        engine,
        settings.keys(folder),
        say,
        expects=partial(_expected, planned),
        keep=lambda _, verdicts: seen.extend(_new(verdicts, seen)),
        folder=folder,
        live=planned.state.server,
        remote=ENGINES[planned.plan.engine].abilities.remote,
        needs=partial(_needs, settings.states(stack_file, planned.prepared.name)),
    )


def _new(verdicts: Sequence[Verdict], seen: Sequence[Verdict]) -> Iterator[Verdict]:
    """Verdicts to be shown: a gate that passes a second time is told once."""
    passed = {verdict.gate for verdict in seen}
    yield from (v for v in verdicts if v.holds_back or v.gate not in passed)


def _needs(store: StateStore, record: Record) -> Mapping[str, Flat]:
    """Return what a server is made from, as the run has written it down by now."""
    state = store.read()
    return {} if state is None else state.outputs_of(record.needs)


def _expected(planned: Planned, record: Record) -> Flat:
    """Return what gates may expect: the fields of all that the server is made from."""
    graph = planned.prepared.graph
    nodes = [node for node in graph.values() if node.kind is not Kind.SERVER]
    fields: dict[str, JsonValue] = {}
    for node in nodes:
        fields |= node.fields
    return {**fields, **record.fields}


def _kept(planned: Planned) -> int:
    """How many releases the stack keeps for a rollback."""
    for node in planned.prepared.graph.values():
        if node.kind is Kind.SERVER:
            return whole(node.fields.get("rollout.keep"), _KEEP)
    return _KEEP
