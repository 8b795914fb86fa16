"""Looking at the world alone: what drifted from what was deployed."""

from pathlib import Path

from deployer.planning.plan import Plan, make_plan
from deployer.planning.state import node_of
from deployer.usecases.context.deployed import name_of
from deployer.usecases.context.hosts import reconciled, refuse_elsewhere
from deployer.usecases.context.settings import Settings
from deployer.usecases.plan import drift_of, live_once_settled


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
