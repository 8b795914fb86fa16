"""Promote an earlier release again."""

from pathlib import Path

from deployer.engines.registry import ENGINES
from deployer.errors import UsageError
from deployer.planning.events import Say
from deployer.planning.state import Release, State, node_of
from deployer.planning.steps import steps_of
from deployer.usecases.apply import Applied, Confirm, carry_out
from deployer.usecases.context.deployed import deployed, locked
from deployer.usecases.context.settings import Settings
from deployer.usecases.plan import drift_of
from deployer.usecases.steps import preflight


def rollback(
    stack_file: Path,
    settings: Settings,
    number: int | None,
    say: Say,
    confirm: Confirm,
) -> Applied | None:
    """Promote an earlier release again, from the state alone; None if declined."""
    name = deployed(stack_file, settings, thoroughly=True).state.stack
    with locked(stack_file, name, settings, say, operation="rollback"):
        found = deployed(stack_file, settings, thoroughly=True)
        release = earlier(found.state, number)
        graph = {a: node_of(r) for a, r in release.records.items()}
        remote = ENGINES[found.state.engine].abilities.remote
        drift = () if remote else drift_of(stack_file, settings, found.state, graph)
        planned = found.plan_to(graph, drift)
        preflight(found.engine, steps_of(planned.plan))
        if not planned.plan.is_empty and not confirm(planned):
            return None
        cause = f"rollback to {release.number}"
        return carry_out(stack_file, settings, planned, found.engine, say, cause=cause)


def earlier(state: State, number: int | None) -> Release:
    """The release to roll back to: the one before the live one, unless named."""
    live = state.live_release.number if state.live_release else 0
    if number is None:
        before = [r for r in state.releases if r.number != live]
        if not before:
            raise UsageError(
                f"stack `{state.stack}` has no earlier release to roll back to",
                hint="`deployer history` lists the retained releases",
            )
        return before[-1]
    if (found := state.release(number)) is not None:
        return found
    kept = ", ".join(str(r.number) for r in state.releases) or "none"
    raise UsageError(f"release {number} is not retained", hint=f"retained: {kept}")
