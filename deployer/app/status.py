"""What is live of a stack, and how its server is."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from deployer.app.deployed import deployed
from deployer.app.settings import Settings
from deployer.core.plan import Change, make_plan
from deployer.core.resources import Kind
from deployer.core.state import Release, State, node_of
from deployer.engines import Endpoint, Observation


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
    left: Mapping[str, Observation] = field(default_factory=dict)
    """Servers that an earlier run left on their way in or out, by key."""

    @property
    def is_well(self) -> bool:
        """What is live runs and answers; nothing is live, and so nothing is wrong."""
        return self.server is None or (self.server.running and self.server.healthy)


def status(stack_file: Path, settings: Settings) -> Status:
    """The state of a stack, and what its server is seen to do."""
    found = deployed(stack_file, settings)
    server = found.state.server
    left = {
        it.record.key: found.engine.observe(it.record)
        for it in found.state.loose
        if it.record.kind is Kind.SERVER
    }
    if server is None:
        return Status(found.state, None, None, None, left=left)
    release = found.state.releases[-1] if found.state.releases else None
    endpoint = found.engine.endpoint(server, candidate=False)
    seen = found.engine.observe(server)
    graph = {a: node_of(r) for a, r in found.state.live.items()}
    kept = make_plan(graph, found.state).changes
    return Status(found.state, release, seen, endpoint, kept, left)
