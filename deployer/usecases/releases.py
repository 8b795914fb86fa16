"""Releases compared: what changed between two of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from deployer.errors import DeployerError, UsageError
from deployer.planning.plan import Plan, make_plan
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
    raise UsageError(f"release {number} is not kept", hint=f"kept are: {kept}")
