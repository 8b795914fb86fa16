"""Carrying plans out: apply, rollback, destroy."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from deployer import lockfile
from deployer.app.deployed import Deployed, deployed, name_of
from deployer.app.judging import Judging, reports_folder
from deployer.app.planning import Options, Planned, plan, settled
from deployer.app.prepared import Prepared
from deployer.app.roots import register
from deployer.app.saving import held_to
from deployer.app.settings import Settings, monotonic, utc_now, whole
from deployer.apply import World, apply
from deployer.core.events import Say, Talk
from deployer.core.plan import make_plan
from deployer.core.resources import Graph, Kind
from deployer.core.state import Record, Release, State, node_of
from deployer.core.steps import Stage, steps_of
from deployer.core.values import Flat, JsonValue
from deployer.core.verdict import Verdict
from deployer.engines import Endpoint
from deployer.errors import GateError, UsageError
from deployer.saved_plan import SavedPlan
from deployer.state.files import FileStateStore

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
    Raises what `deployer.apply.apply` and planning raise, and LockedError.
    """
    store = settings.states(stack_file, name_of(stack_file, settings))
    with _telling(store, say).lock(operation="apply"):
        planned = plan(stack_file, settings, options, say)
        if saved is not None:
            planned = held_to(saved, planned, stack_file)
        planned = settled(planned, options.pending)
        _preflight(stack_file, settings, planned)
        if not planned.plan.is_empty and not confirm(planned):
            return None
        if planned.facts is not None:
            lock = lockfile.lock_path(stack_file)
            lockfile.write(lock, planned.facts, planned.prepared.name)
        return _carry_out(stack_file, settings, planned, say, cause="apply")


def rollback(
    stack_file: Path,
    settings: Settings,
    number: int | None,
    say: Say,
    confirm: Confirm,
) -> Applied | None:
    """Promote an earlier release again, from the state alone; None if declined."""
    found = deployed(stack_file, settings)
    with _telling(found.store, say).lock(operation="rollback"):
        found = deployed(stack_file, settings)
        release = earlier(found.state, number)
        graph = {a: node_of(r) for a, r in release.records.items()}
        planned = _planned(found, graph)
        _preflight(stack_file, settings, planned)
        if not planned.plan.is_empty and not confirm(planned):
            return None
        cause = f"rollback to {release.number}"
        return _carry_out(stack_file, settings, planned, say, cause=cause)


def destroy(
    stack_file: Path,
    settings: Settings,
    say: Say,
    confirm: Confirm,
    *,
    name: str | None = None,
) -> Applied | None:
    """Stop and remove everything that runs; artefacts stay; None if declined.

    With a ``name``, of the stack that the file asked for before.
    """
    found = deployed(stack_file, settings, name)
    with _telling(found.store, say).lock(operation="destroy"):
        planned = _planned(deployed(stack_file, settings, name), {})
        if not planned.plan.is_empty and not confirm(planned):
            return None
        return _carry_out(stack_file, settings, planned, say, cause="destroy")


def earlier(state: State, number: int | None) -> Release:
    """The release to roll back to: the one before the live one, unless named."""
    live = state.releases[-1].number if state.releases and state.live else 0
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


def _planned(found: Deployed, graph: Graph) -> Planned:
    """A plan towards a graph that comes from the state."""
    state = found.state
    prepared = Prepared(state.stack, state.engine, graph, {}, ())
    return Planned(make_plan(graph, state), prepared, state, None)


def _telling(store: FileStateStore, say: Say) -> FileStateStore:
    """The same store, that says whose lock it takes over."""
    return replace(store, notify=lambda line: say(Talk(store.stack, line)))


def _preflight(stack_file: Path, settings: Settings, planned: Planned) -> None:
    """Raise what is known to fail, before anybody is asked."""
    steps = steps_of(planned.plan)
    staged = [step.node for step in steps if isinstance(step, Stage)]
    if staged:
        settings.engine(planned.plan.engine, stack_file).preflight(staged)


def _carry_out(
    stack_file: Path, settings: Settings, planned: Planned, say: Say, *, cause: str
) -> Applied:
    engine = settings.engine(planned.plan.engine, stack_file)
    seen: list[Verdict] = []
    judging = Judging(
        engine,
        settings.variables(stack_file.parent.absolute()),
        say,
        expects=partial(_expected, planned),
        keep=lambda _, verdicts: seen.extend(verdicts),
        folder=stack_file.parent.absolute(),
        live=planned.state.server,
    )
    world = World(
        engine=engine,
        judge=judging,
        store=settings.states(stack_file, planned.prepared.name),
        say=say,
        now=utc_now,
        clock=monotonic,
    )
    steps = steps_of(planned.plan)
    if steps:
        register(settings, settings.states(stack_file, planned.prepared.name))
    keep = _kept(planned)
    try:
        state = apply(steps, planned.state, world, cause=cause, keep=keep)
    except GateError as error:
        report = _reported(settings, planned, tuple(seen))
        hint = f"{error.hint}, and `{report}` shows it all"
        raise GateError(error.message, hint=hint) from error
    report = _reported(settings, planned, tuple(seen))
    server = state.server
    endpoint = None if server is None else engine.endpoint(server, candidate=False)
    return Applied(planned, state, tuple(seen), report, endpoint)


def _expected(planned: Planned, record: Record) -> Flat:
    """What gates may expect: the fields of all that the server is made from."""
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


def _reported(
    settings: Settings, planned: Planned, verdicts: tuple[Verdict, ...]
) -> Path | None:
    """Keep what the gates saw, also when they held the candidate back."""
    if not verdicts:
        return None
    from deployer.gates.report import write_report  # noqa: PLC0415 - only with gates

    stack = planned.prepared.name
    name = f"{utc_now().replace(':', '')}-{planned.plan.id}"
    folder = reports_folder(settings.home, stack) / name
    return write_report(
        verdicts, folder, title=f"{stack}: gates of plan {planned.plan.id}"
    )
