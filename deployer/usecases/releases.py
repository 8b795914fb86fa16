"""The live release and those before it: compare, observe, start, stop, restore."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from deployer.engines.contract import Endpoint, Observation, Restored
from deployer.errors import DeployerError, UsageError
from deployer.planning.events import Say
from deployer.planning.plan import Change, Drift, Plan, make_plan
from deployer.planning.resources import Kind
from deployer.planning.state import UNUSED, Release, State, node_of
from deployer.usecases.context.deployed import Deployed, deployed, name_of
from deployer.usecases.context.hosts import reconciled, refuse_elsewhere
from deployer.usecases.context.settings import Settings
from deployer.usecases.plan import drift_of, live_once_settled


@dataclass(frozen=True, slots=True)
class Comparison:
    """Return the changes of promoting one release over another."""

    before: Release
    after: Release
    plan: Plan


def compare(
    stack_file: Path, settings: Settings, before: int, after: int
) -> Comparison:
    """The difference between two kept releases; raises UsageError for others."""
    state = deployed(stack_file, settings, anywhere=True).state
    old, new = _release(state, before), _release(state, after)
    seen = State(state.stack, state.engine, state.lineage, live=old.records)
    graph = {address: node_of(record) for address, record in new.records.items()}
    return Comparison(old, new, make_plan(graph, seen))


def versions_of(found: Deployed) -> Mapping[str, str]:
    """Return what the engine calls its deployments, by the beginning of a key.

    Nothing where the engine cannot be asked: the releases are ours to tell.
    """
    if (server := found.state.server) is None:
        return {}
    try:
        return found.engine.versions(server)
    except DeployerError:
        return {}


def _release(state: State, number: int) -> Release:
    if (found := state.release(number)) is not None:
        return found
    kept = ", ".join(str(r.number) for r in state.releases) or "none"
    raise UsageError(f"release {number} is not retained", hint=f"retained: {kept}")


@dataclass(frozen=True, slots=True)
class Status:
    """How a stack is now."""

    state: State
    release: Release | None
    """The live one."""
    server: Observation | None
    endpoint: Endpoint | None
    made_of: tuple[Change, ...] = ()
    """Return the live records, each as a change that keeps it."""
    drift: tuple[Drift, ...] = ()
    """Servers that run here and that the state does not name."""
    host: str = ""
    """The other machine that it runs on; empty: this one, or none."""
    left: Mapping[str, Observation] = field(default_factory=dict)
    """Servers that an earlier run left on their way in or out, by key."""

    @property
    def is_well(self) -> bool:
        """True where the live server answers, and where none is live."""
        return self.server is None or (self.server.running and self.server.healthy)


def status(stack_file: Path, settings: Settings) -> Status:
    """The state of a stack, and what its server is seen to do."""
    found = deployed(stack_file, settings, thoroughly=True, anywhere=True)
    server = found.state.server
    left = {
        it.record.key: found.engine.observe(it.record)
        for it in found.state.loose
        if it.record.kind is Kind.SERVER and not found.host
    }
    if server is None:
        return Status(found.state, None, None, None, (), found.drift, found.host, left)
    release = found.state.live_release
    endpoint = found.engine.endpoint(server, candidate=False)
    if found.host:
        detail = f"runs on host `{found.host}`, and cannot be seen from here"
        seen = Observation(running=False, healthy=False, detail=detail, facts={})
    else:
        seen = found.engine.observe(server)
    graph = {a: node_of(r) for a, r in found.state.live.items()}
    kept = make_plan(graph, found.state).changes
    drift, host = found.drift, found.host
    return Status(found.state, release, seen, endpoint, kept, drift, host, left)


def start(stack_file: Path, settings: Settings, say: Say) -> Endpoint:
    """Start the live release where it does not run."""
    found = deployed(stack_file, settings, thoroughly=True)
    with found.store.lock(operation="start"):
        for stray in found.strays:
            found.engine.retire(stray, say)
        found.engine.start(found.server, found.needs, say)
    return found.engine.endpoint(found.server, candidate=False)


def restore(stack_file: Path, settings: Settings, say: Say) -> Restored:
    """Restore the live server from its snapshot now.

    Raises UsageError where there is no snapshot that can be used; the server that runs
    is left alone then.
    """
    found = deployed(stack_file, settings)
    server = found.server
    snapshot = next(
        (it for it in found.state.live.values() if it.kind is Kind.SNAPSHOT), None
    )
    if snapshot is None:
        raise UsageError(
            f"stack `{found.state.stack}` was deployed without a snapshot",
            hint="add `snapshot: {enabled: true}` and run `deployer apply`",
        )
    if (why := server.outputs.get(UNUSED)) is not None:
        raise UsageError(
            f"the snapshot of `{found.state.stack}` is not used: {why}",
            hint="write `snapshot: {enabled: true}` to use it nevertheless",
        )
    with found.store.lock(operation="restore"):
        if flaw := found.engine.flaw(snapshot, server):
            raise UsageError(
                f"the snapshot cannot be used: {flaw}",
                hint=f"`deployer apply {stack_file}` takes a new one; the live"
                " server was not touched",
            )
        restored = found.engine.restore(server, found.needs, say, beside=False)
        # A run that was killed may have left its clients outside.
        found.engine.start(server, found.needs, say)
        return restored


def stop(stack_file: Path, settings: Settings, say: Say) -> Deployed:
    """Stop the server; the release stays, and `start` starts it again."""
    found = deployed(stack_file, settings, thoroughly=True)
    with found.store.lock(operation="stop"):
        for stray in found.strays:
            found.engine.retire(stray, say)
        found.engine.stop(found.server, say)
    return found


def logs(
    stack_file: Path, settings: Settings, *, lines: int, follow: bool
) -> Iterator[str]:
    """The server's own log."""
    found = deployed(stack_file, settings)
    return found.engine.logs(found.server, lines=lines, follow=follow)


def refresh(stack_file: Path, settings: Settings) -> Plan | None:
    """Return what would bring back what was deployed, whatever the stack says by now.

    None for a stack that was never applied.
    """
    state = settings.state(stack_file, name_of(stack_file, settings))
    if state is None:
        return None
    graph = {a: node_of(record) for a, record in live_once_settled(state).items()}
    refuse_elsewhere(state, settings, stack_file)
    state, drift = reconciled(state, settings, stack_file, graph, thoroughly=True)
    drift += drift_of(stack_file, settings, state, graph)
    return make_plan(graph, state, drift=drift)
