"""Day to day: start, stop, restore, logs; no gate and no model is imported."""

from collections.abc import Iterator
from pathlib import Path

from deployer.engines.contract import Endpoint, Restored
from deployer.errors import UsageError
from deployer.planning.events import Say
from deployer.planning.resources import Kind
from deployer.usecases.context.deployed import Deployed, deployed
from deployer.usecases.context.settings import Settings


def start(stack_file: Path, settings: Settings, say: Say) -> Endpoint:
    """Start the live release where it does not run."""
    found = deployed(stack_file, settings, thoroughly=True)
    with found.store.lock(operation="start"):
        for stray in found.strays:
            found.engine.retire(stray, say)
        found.engine.start(found.server, found.needs, say)
    return found.engine.endpoint(found.server, candidate=False)


def restore(stack_file: Path, settings: Settings, say: Say) -> Restored:
    """Restore the live server from its snapshot now.

    Raises UsageError where there is no snapshot that can be used; the server that runs
    is left alone then.
    """
    found = deployed(stack_file, settings)
    server = found.server
    snapshot = next(
        (it for it in found.state.live.values() if it.kind is Kind.SNAPSHOT), None
    )
    if snapshot is None:
        raise UsageError(
            f"stack `{found.state.stack}` was deployed without a snapshot",
            hint="add `snapshot: {enabled: true}` and run `deployer apply`",
        )
    with found.store.lock(operation="restore"):
        if flaw := found.engine.flaw(snapshot, server):
            raise UsageError(
                f"the snapshot cannot be used: {flaw}",
                hint=f"`deployer apply {stack_file}` takes a new one; the live"
                " server was not touched",
            )
        restored = found.engine.restore(server, found.needs, say, beside=False)
        # A run that was killed may have left its clients outside.
        found.engine.start(server, found.needs, say)
        return restored


def stop(stack_file: Path, settings: Settings, say: Say) -> Deployed:
    """Stop the server; the release stays, and `start` starts it again."""
    found = deployed(stack_file, settings, thoroughly=True)
    with found.store.lock(operation="stop"):
        for stray in found.strays:
            found.engine.retire(stray, say)
        found.engine.stop(found.server, say)
    return found


def logs(
    stack_file: Path, settings: Settings, *, lines: int, follow: bool
) -> Iterator[str]:
    """The server's own log."""
    found = deployed(stack_file, settings)
    return found.engine.logs(found.server, lines=lines, follow=follow)
