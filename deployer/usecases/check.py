"""Day to day: check."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from deployer.engines.contract import Endpoint
from deployer.gates.harness.runner import GateRequest, Tell, run_gates
from deployer.gates.harness.target import Target
from deployer.planning.events import Event
from deployer.planning.plan import gates_of
from deployer.planning.verdict import Verdict
from deployer.stack.fields.values import Flat
from deployer.usecases.applying.gate_restore import restorable
from deployer.usecases.applying.run_gates import (
    process_of,
    release_fields,
    requests_of,
    target_of,
)
from deployer.usecases.context.deployed import deployed
from deployer.usecases.context.settings import Settings


@dataclass(frozen=True, slots=True)
class Checking:
    """Which gates are run, and how."""

    gates: tuple[str, ...] = ()
    """None: those that the stack lists."""
    jobs: int | None = None
    """How many run at once; None: as many as the server has slots."""
    repeat: int = 1
    """How often each is run."""
    fail_fast: bool = False
    """Begin none after one that holds back."""
    options: Flat = field(default_factory=dict)
    """Options of gates by dotted path, instead of those of the stack."""
    process: bool = True
    """Look at the process first, for gates that judge its memory or its log."""


@dataclass(frozen=True, slots=True)
class Checked:
    """What the gates found of a running server."""

    url: str
    verdicts: tuple[Verdict, ...]


def check(
    stack_file: Path, settings: Settings, checking: Checking, tell: Tell
) -> Checked:
    """Run gates against what is live: the named ones, or all that the stack lists."""
    found = deployed(stack_file, settings)
    server = found.server
    endpoint = found.engine.endpoint(server, candidate=False)
    folder = stack_file.parent.absolute()
    fields = release_fields(found.state.live)
    target = replace(target_of(endpoint, settings.keys(folder), fields), folder=folder)
    if checking.process:
        target = replace(target, process=process_of(found.engine.observe(server)))
    named = checking.gates or gates_of(server.fields)
    with restorable(
        target, found.engine, server, lambda _: found.needs, unheard, candidate=False
    ) as looked_at:
        requests = requests_of(named, {**server.fields, **checking.options})
        return _checked(requests, looked_at, checking, tell)


def check_url(
    url: str,
    api_key_env: str | None,
    settings: Settings,
    checking: Checking,
    tell: Tell,
) -> Checked:
    """Run gates against any llama-server."""
    endpoint = Endpoint(url=url, api_key_env=api_key_env)
    target = target_of(endpoint, settings.keys(), {})
    requests = requests_of(checking.gates or ("health", "chat", "stream"), {})
    return _checked(requests, target, checking, tell)


def unheard(_event: Event) -> None:
    """Takes what a copy says; the table of the gates is all that is shown."""


def _checked(
    requests: Sequence[GateRequest], target: Target, checking: Checking, tell: Tell
) -> Checked:
    verdicts = run_gates(
        requests,
        target,
        say=tell,
        jobs=checking.jobs,
        repeat=checking.repeat,
        fail_fast=checking.fail_fast,
    )
    return Checked(target.url, verdicts)
