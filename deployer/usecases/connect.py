"""The live endpoint of a stack, for its clients."""

from pathlib import Path

from deployer.gates.checks.props import context_per_slot
from deployer.show.client_configs import Live
from deployer.stack.fields.values import Flat
from deployer.usecases.applying.run_gates import release_fields
from deployer.usecases.context.deployed import deployed
from deployer.usecases.context.settings import Settings


def live_of(stack_file: Path, settings: Settings) -> Live:
    """Return what clients need to know; raises UsageError where nothing is live."""
    found = deployed(stack_file, settings)
    end = found.engine.endpoint(found.server, candidate=False)
    fields = release_fields(found.state.live)
    alias = fields.get("model.alias")
    return Live(
        stack=found.state.stack,
        url=end.url,
        model=alias if isinstance(alias, str) else found.state.stack,
        api_key_env=end.api_key_env,
        context=_context(fields),
    )


def _context(fields: Flat) -> int | None:
    """Return what one slot has: all of them share what the stack states."""
    whole, parallel = fields.get("server.ctx_size"), fields.get("server.parallel")
    if not isinstance(whole, int) or not whole:
        return None
    slots = parallel if isinstance(parallel, int) and parallel > 0 else None
    unified = fields.get("server.kv_unified") is True
    return context_per_slot(whole, slots, unified=unified)
