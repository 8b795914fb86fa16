"""The live endpoint of a stack, for its clients."""

from pathlib import Path

from deployer.app.deployed import deployed
from deployer.app.judging import release_fields
from deployer.app.settings import Settings
from deployer.core.connect import Live


def live_of(stack_file: Path, settings: Settings) -> Live:
    """What clients need to know; raises UsageError where nothing is live."""
    found = deployed(stack_file, settings)
    end = found.engine.endpoint(found.server, candidate=False)
    fields = release_fields(found.state.live)
    alias, context = (fields.get(f) for f in ("model.alias", "server.ctx_size"))
    return Live(
        stack=found.state.stack,
        url=end.url,
        model=alias if isinstance(alias, str) else found.state.stack,
        api_key_env=end.api_key_env,
        context=context if isinstance(context, int) else None,
    )
