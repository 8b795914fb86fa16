"""Keepers: processes that set namespaces up for a server, and last as long as it."""

import os
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

import psutil

from deployer.errors import EngineError

MARKER: Final = "DEPLOYER_SERVER"
"""Variable of a server's environment, and of its keepers': `<address>@<key>`."""

OVER: Final = frozenset({psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD})
"""Where a process that ended is until its parent, or the kernel, reaps it."""

_LONGEST: Final = 30.0
_PAUSE: Final = 0.002
_END_SECONDS: Final = 10.0


def kept_by(keeper: int) -> int:
    """The pid of the server below a keeper, once it is a session of its own.

    Raises `EngineError` when the keeper ends first, or takes too long.
    """
    process = psutil.Process(keeper)
    deadline = time.monotonic() + _LONGEST
    while time.monotonic() < deadline:
        with suppress(psutil.Error, OSError):
            for below in process.children(recursive=True):
                leads = os.getsid(below.pid) == below.pid
                if leads and below.status() not in OVER:
                    return below.pid
        with suppress(psutil.TimeoutExpired):
            process.wait(timeout=_PAUSE)
            raise EngineError("the process ended before there was a server")
    end_keepers([process])
    raise EngineError(f"there was no server within {_LONGEST:.0f} s")


def keepers_of(server: int) -> list[psutil.Process]:
    """The processes above a server that were started for it alone."""
    found = []
    with suppress(psutil.Error):
        for above in psutil.Process(server).parents():
            if MARKER not in above.environ():
                break
            found.append(above)
    return found


def end_keepers(keepers: Sequence[psutil.Process]) -> None:
    """Keepers end with their server; one that does not is ended, outermost first."""
    if _all_ended(keepers):
        return
    kill_keepers(keepers)
    _all_ended(keepers)


def kill_keepers(keepers: Sequence[psutil.Process]) -> None:
    """Kill them, outermost first; what is left in their namespaces goes along."""
    for keeper in reversed(keepers):
        with suppress(psutil.NoSuchProcess):
            keeper.kill()


def _all_ended(keepers: Sequence[psutil.Process]) -> bool:
    """Return whether they are over within a while; a child of ours is reaped."""
    deadline = time.monotonic() + _END_SECONDS
    while time.monotonic() < deadline:
        if all(_is_over(keeper) for keeper in keepers):
            return True
        time.sleep(_PAUSE)
    return False


def _is_over(keeper: psutil.Process) -> bool:
    with suppress(psutil.TimeoutExpired, psutil.NoSuchProcess):
        keeper.wait(timeout=0)
        return True
    try:
        # An orphan is over though whoever it was left to has not reaped it yet.
        return keeper.status() in OVER
    except psutil.NoSuchProcess:
        return True
