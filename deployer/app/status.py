"""What is live of a stack, and how its server is."""

from dataclasses import dataclass
from pathlib import Path

from deployer.app.deployed import deployed
from deployer.app.settings import Settings
from deployer.core.plan import Change, make_plan
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

    @property
    def is_well(self) -> bool:
        """What is live runs and answers; nothing is live, and so nothing is wrong."""
        return self.server is None or (self.server.running and self.server.healthy)


def status(stack_file: Path, settings: Settings) -> Status:
    """The state of a stack, and what its server is seen to do."""
    found = deployed(stack_file, settings)
    server = found.state.server
    if server is None:
        return Status(found.state, None, None, None)
    release = found.state.releases[-1] if found.state.releases else None
    endpoint = found.engine.endpoint(server, candidate=False)
    seen = found.engine.observe(server)
    graph = {a: node_of(r) for a, r in found.state.live.items()}
    kept = make_plan(graph, found.state).changes
    return Status(found.state, release, seen, endpoint, kept)
