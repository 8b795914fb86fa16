"""Day to day: status, check, start, stop, logs."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from deployer.app.deployed import Deployed, deployed
from deployer.app.judging import parameters_of, release_fields, target_of
from deployer.app.settings import Settings
from deployer.core.events import Say
from deployer.core.plan import Change, gates_of, make_plan
from deployer.core.resources import Kind
from deployer.core.state import Release, State, node_of
from deployer.core.values import Flat
from deployer.core.verdict import Verdict
from deployer.engines import Endpoint, Observation
from deployer.errors import UsageError
from deployer.gates import GATES
from deployer.gates.runner import GateEvent, GateRequest, run_gates

Tell = Callable[[GateEvent], None]
"""Takes what happens to a gate."""


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


@dataclass(frozen=True, slots=True)
class Checked:
    """What the gates found of a running server."""

    url: str
    verdicts: tuple[Verdict, ...]


def status(stack_file: Path, settings: Settings) -> Status:
    """The state of a stack, and what its server is seen to do."""
    found = deployed(stack_file, settings)
    server = next((r for r in found.state.live.values() if r.kind is Kind.SERVER), None)
    if server is None:
        return Status(found.state, None, None, None)
    release = found.state.releases[-1] if found.state.releases else None
    endpoint = found.engine.endpoint(server, candidate=False)
    seen = found.engine.observe(server)
    graph = {a: node_of(r) for a, r in found.state.live.items()}
    kept = make_plan(graph, found.state).changes
    return Status(found.state, release, seen, endpoint, kept)


def check(
    stack_file: Path, settings: Settings, gates: Sequence[str], tell: Tell
) -> Checked:
    """Run gates against what is live: the named ones, or all that the stack lists."""
    found = deployed(stack_file, settings)
    server = found.server
    endpoint = found.engine.endpoint(server, candidate=False)
    environment = settings.variables(stack_file.parent.absolute())
    fields = release_fields(found.state.live)
    target = target_of(endpoint, environment, fields)
    requests = _requests(gates or gates_of(server.fields), server.fields)
    return Checked(endpoint.url, run_gates(requests, target, say=tell, jobs=4))


def check_url(
    url: str,
    api_key_env: str | None,
    settings: Settings,
    gates: Sequence[str],
    tell: Tell,
) -> Checked:
    """Run gates against any llama-server."""
    endpoint = Endpoint(url=url, api_key_env=api_key_env)
    target = target_of(endpoint, settings.variables(Path.cwd()), {})
    requests = _requests(gates or ("health", "chat", "stream"), {})
    return Checked(url, run_gates(requests, target, say=tell, jobs=4))


def start(stack_file: Path, settings: Settings, say: Say) -> Endpoint:
    """Start the live release where it does not run."""
    found = deployed(stack_file, settings)
    with found.store.lock(operation="start"):
        found.engine.start(found.server, found.needs, say)
    return found.engine.endpoint(found.server, candidate=False)


def stop(stack_file: Path, settings: Settings, say: Say) -> Deployed:
    """Stop the server; the release stays, and `start` brings it back."""
    found = deployed(stack_file, settings)
    with found.store.lock(operation="stop"):
        found.engine.stop(found.server, say)
    return found


def logs(
    stack_file: Path, settings: Settings, *, lines: int, follow: bool
) -> Iterator[str]:
    """The server's own log."""
    found = deployed(stack_file, settings)
    return found.engine.logs(found.server, lines=lines, follow=follow)


def _requests(gates: Sequence[str], fields: Flat) -> tuple[GateRequest, ...]:
    for name in gates:
        if name not in GATES:
            raise UsageError(
                f"there is no gate `{name}`", hint=f"gates are: {', '.join(GATES)}"
            )
    return tuple(GateRequest(name, parameters_of(name, fields)) for name in gates)
