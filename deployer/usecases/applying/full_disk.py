"""Stopping what runs where a full disk lets nothing be written any more."""

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from deployer.errors import StateError
from deployer.planning.events import Say
from deployer.planning.resources import Kind
from deployer.usecases.context.deployed import Deployed

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


@contextmanager
def stopping_even_so(
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
