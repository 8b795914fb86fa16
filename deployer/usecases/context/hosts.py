"""The machine that a state belongs to, where its servers are processes of one.

With a state in a bucket, any machine can read what another one runs; only that one
can see, replace and end it.
"""

import os
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from deployer.engines.place import may_live
from deployer.engines.registry import ENGINES
from deployer.errors import EngineError
from deployer.planning.plan import Drift
from deployer.planning.state import State
from deployer.spelling import harmless
from deployer.usecases.context.settings import Settings

if TYPE_CHECKING:
    from deployer.engines.contract import Engine
    from deployer.planning.resources import Graph

VARIABLE = "DEPLOYER_HOST"
"""Names this machine where nothing else identifies it: clones, containers."""
_MACHINE_IDS = (Path("/etc/machine-id"), Path("/var/lib/dbus/machine-id"))
_LENGTH = 16
"""Characters of the digest: the ID itself must not be published (machine-id(5))."""


class Host(NamedTuple):
    """A machine, as the state names it."""

    name: str
    machine: str


def this_host(settings: Settings) -> Host:
    """Return this machine: by DEPLOYER_HOST, by its machine ID, or by its name."""
    name = os.uname().nodename
    if stated := settings.environment.get(VARIABLE):
        return Host(stated, _digest(stated))
    for file in _MACHINE_IDS:
        try:
            found = file.read_text(encoding="ascii").strip()
        except (OSError, ValueError):
            continue
        if found and found != "uninitialized":
            return Host(name, _digest(found))
    return Host(name, _digest(name))


def placed(state: State, settings: Settings) -> State:
    """Return the state as one of this machine, where its engine runs servers here."""
    if not _on_a_machine(state):
        return state
    here = this_host(settings)
    return replace(state, host=here.name, machine=here.machine)


def elsewhere(state: State, settings: Settings, stack_file: Path) -> str:
    """Return the name of the other machine that a stack runs on; empty for none.

    That is none where the state names nothing that may run, or no machine, and where
    its live server runs here: a machine may have got another ID.
    """
    if not _on_a_machine(state) or not state.machine:
        return ""
    if not (state.live or state.loose or state.promoting):
        return ""
    if state.machine == this_host(settings).machine:
        return ""
    server = state.server
    found = may_live(state.engine, state.stack, settings.place(stack_file))
    if server is not None and any(server.key.startswith(it) for it in found):
        return ""
    return harmless(state.host) or "?"


def refuse_elsewhere(state: State | None, settings: Settings, stack_file: Path) -> None:
    """Raise EngineError where the stack runs on another machine."""
    if state is not None and (host := elsewhere(state, settings, stack_file)):
        raise EngineError(
            f"stack `{state.stack}` runs on host `{host}`, and this is"
            f" `{harmless(this_host(settings).name)}`",
            hint=f"run the command on `{host}`; if that machine is gone:"
            f" `deployer state take-over {stack_file} {host}`",
        )


def taken_over(state: State, settings: Settings) -> State:
    """Return the state without all that another machine ran; releases stay."""
    gone = replace(state, loose=()).forgotten()
    return placed(gone, settings)


def _on_a_machine(state: State) -> bool:
    """Return whether its engine runs servers as processes of one machine."""
    return state.engine in ENGINES and not ENGINES[state.engine].abilities.remote


def _digest(text: str) -> str:
    return sha256(f"deployer host {text}".encode()).hexdigest()[:_LENGTH]


def reconciled(
    state: State,
    settings: Settings,
    stack_file: Path,
    graph: "Graph",
    *,
    thoroughly: bool,
) -> tuple[State, tuple[Drift, ...]]:
    """Return the state with the servers here that it lacks, and each as drift.

    Without ``thoroughly`` only the run folders are read, which costs next to nothing.
    """
    if state.engine not in ENGINES or ENGINES[state.engine].abilities.remote:
        return state, ()
    known = frozenset(record.key for record in state.serving)
    if not thoroughly:
        found = may_live(state.engine, state.stack, settings.place(stack_file))
        if all(any(key.startswith(it) for key in known) for it in found):
            return state, ()
    from deployer.planning.plan import reconcile  # noqa: PLC0415 - only where one is

    engine = settings.engine(state.engine, stack_file)
    running = engine.servers(state.stack, known, thoroughly=thoroughly)
    return reconcile(state, running, graph)


def prove(state: State, engine: "Engine") -> None:
    """Raise EngineError where what runs is not what the state says, after a run."""
    live = {record.key for record in state.live.values()}
    # No key counts as known, so that each is asked whether clients reach it.
    for server in engine.servers(state.stack, (), thoroughly=True):
        if server.record.key not in live:
            raise EngineError(
                f"pid {server.pid} of `{state.stack}` still runs on port"
                f" {server.port}, beside what the state says",
                hint="run the command again",
            )
        if not server.serves:
            raise EngineError(
                f"clients of port {server.port} do not reach the live server, pid"
                f" {server.pid}",
                hint="run the command again; `ss -ltnp` shows who listens there",
            )
