"""Stop and remove everything of a stack that runs."""

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from deployer.engines.local.supervise.find import stack_folder
from deployer.engines.local.supervise.survivors import ended_runs, holders, remove_runs
from deployer.engines.registry import ENGINES
from deployer.errors import StateError
from deployer.planning.events import Say, Talk
from deployer.planning.resources import Kind
from deployer.planning.state import Record
from deployer.planning.steps import steps_of
from deployer.usecases.apply import Applied, Confirm, carry_out
from deployer.usecases.context.deployed import Deployed, deployed, locked
from deployer.usecases.context.gc_roots import only_used_by, users
from deployer.usecases.context.settings import Settings
from deployer.usecases.steps import preflight


def destroy(
    stack_file: Path,
    settings: Settings,
    say: Say,
    confirm: Confirm,
    *,
    artefacts: bool,
    name: str | None = None,
) -> Applied | None:
    """Stop and remove everything that runs; None if declined.

    Builds and weights stay, but for those of this stack alone with ``artefacts``.
    Snapshots go, unless another stack needs one: they hold the memory of a server,
    prompts and keys included.  With a ``name``, of the stack that the file asked for
    before.
    """
    found = deployed(stack_file, settings, name, thoroughly=True)
    asked: list[bool] = []

    def agreed() -> bool:
        return asked[-1] if asked else confirm(found.plan_to({}))

    with (
        _stopping_on_full_disk(found, agreed, say),
        locked(stack_file, found.state.stack, settings, say, operation="destroy"),
    ):
        found = deployed(stack_file, settings, name, thoroughly=True)
        planned = found.plan_to({})
        preflight(found.engine, steps_of(planned.plan), found.state)
        if not planned.plan.is_empty:
            asked.append(confirm(planned))
            if not asked[-1]:
                return None
        mine = _only_of(found, settings) if artefacts else ()
        engine = found.engine
        done = carry_out(stack_file, settings, planned, engine, say, cause="destroy")
        _clear(found, settings, say)
        for record in mine:
            engine.discard(record, say)
        return done


def _clear(found: Deployed, settings: Settings, say: Say) -> None:
    """Remove the snapshots and run folders that a destroyed stack leaves."""
    stack = found.state.stack
    place = settings.state_place(found.file)
    for key in only_used_by(settings, place, stack, Kind.SNAPSHOT):
        settings.store.remove("snapshot", key)
    for lost in users(settings).unreachable:
        what = f"`{lost.stack}` in `{lost.place}`" if lost.stack else f"`{lost.place}`"
        text = f"what {what} needs is unknown, so no artefact was removed: {lost.why}"
        say(Talk(stack, text))
    if not ENGINES[found.state.engine].abilities.remote:
        folder = stack_folder(settings.home, found.file.parent, stack)
        remove_runs(ended_runs(folder, holders(settings.home)))


def _only_of(found: Deployed, settings: Settings) -> tuple[Record, ...]:
    """Builds and weights of a stack, live or kept, that no other stack names."""
    records = {
        record.key: record
        for release in found.state.releases
        for record in release.records.values()
    }
    records |= {record.key: record for record in found.state.live.values()}
    place = settings.state_place(found.file)
    keys = {
        key
        for kind in (Kind.BUILD, Kind.WEIGHTS)
        for key in only_used_by(settings, place, found.state.stack, kind)
    }
    return tuple(record for key, record in records.items() if key in keys)


_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


@contextmanager
def _stopping_on_full_disk(
    found: Deployed, agreed: Callable[[], bool], say: Say
) -> Iterator[None]:
    """Stop the servers of a stack where the block ends in a full disk.

    No one else has the lock then, since looking at it comes before writing it.  Raises
    StateError afterwards: the state still names what was stopped, and the next
    `destroy` finds it gone already.
    """
    try:
        yield
    except (StateError, OSError) as error:
        cause = error if isinstance(error, OSError) else error.__cause__
        full = isinstance(cause, OSError) and cause.errno in _FULL
        if not full or not agreed():
            raise
        loose = (it.record for it in found.state.loose)
        for record in (*found.state.live.values(), *loose):
            if record.kind is Kind.SERVER:
                found.engine.retire(record, say)
        raise StateError(
            f"the disk is full: {error}; the servers of `{found.state.stack}` were"
            " stopped all the same, and the state does not say so",
            hint=f"free some space, then run `deployer destroy {found.file}` again",
        ) from error
