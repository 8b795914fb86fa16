"""Pauses between two looks at something that tells nobody when it changes.

They grow: what comes soon is seen soon, and what takes long is not asked all the time.
"""

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
