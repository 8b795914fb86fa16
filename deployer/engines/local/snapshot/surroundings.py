"""Surroundings of a process that a restored server has to take from here.

An image brings the nice value and the limits of the shell in which it was taken.  What
a server that starts cold would inherit is what its keeper has: it was started just now.
"""

import os
import resource
from contextlib import suppress
from pathlib import Path
from typing import Final

from deployer.engines.local.supervise.keepers import keepers_of
from deployer.errors import EngineError

_LIMITS: Final = {
    getattr(resource, name): name
    for name in sorted(dir(resource))
    if name.startswith("RLIMIT_")
}


def renew(pid: int) -> None:
    """Give a restored server the limits and the nice value of its keeper.

    Raises EngineError where the system does not allow that.
    """
    if not (keepers := keepers_of(pid)):
        raise EngineError("the process ended before it was restored")
    keeper = keepers[-1].pid
    try:
        for limit, name in _LIMITS.items():
            wanted = resource.prlimit(keeper, limit)
            if resource.prlimit(pid, limit) != wanted:
                what = f"its limit {name} to {wanted}"
                resource.prlimit(pid, limit, wanted)
        what = "its nice value"
        nice = os.getpriority(os.PRIO_PROCESS, keeper)
        # In Linux it belongs to a thread, and the pid names the first one only.
        for thread in Path(f"/proc/{pid}/task").iterdir():
            with suppress(ProcessLookupError):
                os.setpriority(os.PRIO_PROCESS, int(thread.name), nice)
    except (OSError, ValueError) as error:
        raise EngineError(f"the system refuses to set {what}: {error}") from error
