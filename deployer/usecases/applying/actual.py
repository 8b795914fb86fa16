"""A state with what runs on this machine, where the two differ."""

from pathlib import Path

from deployer.engines.contract import Engine
from deployer.engines.registry import ABILITIES, may_live
from deployer.errors import EngineError
from deployer.planning.actual import reconcile, serving_keys
from deployer.planning.plan import Drift
from deployer.planning.resources import Graph
from deployer.planning.state import State
from deployer.usecases.context.settings import Settings


def reconciled(
    state: State,
    settings: Settings,
    stack_file: Path,
    graph: Graph,
    *,
    thoroughly: bool,
) -> tuple[State, tuple[Drift, ...]]:
    """Return the state with the servers here that it lacks, and each as drift.

    Without ``thoroughly`` only the run folders are read, which costs next to nothing.
    """
    if state.engine not in ABILITIES or ABILITIES[state.engine].remote:
        return state, ()
    known = serving_keys(state)
    if not thoroughly:
        found = may_live(state.engine, state.stack, settings.place(stack_file))
        if all(any(key.startswith(it) for key in known) for it in found):
            return state, ()
    engine = settings.engine(state.engine, stack_file)
    running = engine.servers(state.stack, known, thoroughly=thoroughly)
    return reconcile(state, running, graph)


def prove(state: State, engine: Engine) -> None:
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
