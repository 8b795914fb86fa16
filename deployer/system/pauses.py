"""Pauses between two looks at something that tells nobody when it changes.

They grow: what comes soon is seen soon, and what takes long is not asked all the time.
"""

import os
from collections.abc import Iterator


def growing(first: float, longest: float, factor: float = 1.5) -> Iterator[float]:
    """Seconds to pause, again and again, each ``factor`` times the one before.

    So nothing is noticed later than by ``factor`` - 1 of the time that it took, or
    by ``longest``.
    """
    pause = first
    while True:
        yield pause
        pause = min(pause * factor, longest)


def cores() -> int:
    """Cores that this process may use; fewer than there are inside a container."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
