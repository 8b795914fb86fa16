"""Releases compared: what changed between two of them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from deployer.engines.contract import Endpoint, Observation
from deployer.errors import DeployerError, UsageError
from deployer.planning.plan import Change, Drift, Plan, make_plan
from deployer.planning.resources import Kind
from deployer.planning.state import Release, State, node_of
from deployer.usecases.context.deployed import Deployed, deployed
from deployer.usecases.context.settings import Settings


@dataclass(frozen=True, slots=True)
class Comparison:
    """What promoting one release over another would change."""

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
    """What is live, each as a change that keeps it."""
    drift: tuple[Drift, ...] = ()
    """Servers that run here and that the state does not name."""
    host: str = ""
    """The other machine that it runs on; empty: this one, or none."""
    left: Mapping[str, Observation] = field(default_factory=dict)
    """Servers that an earlier run left on their way in or out, by key."""

    @property
    def is_well(self) -> bool:
        """What is live runs and answers; nothing is live, and so nothing is wrong."""
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
