"""How many things this process may do at the same time."""

import os


def cores() -> int:
    """Cores that this process may use; fewer than there are inside a container."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
