"""The memory that a server needs, and where it has to fit: values, nothing computed.

No import here is slow: a plan that changes nothing shows its line from the cache.
"""

from dataclasses import dataclass

from deployer.stack.fields.values import JsonValue

Parts = tuple[tuple[str, int], ...]
"""Bytes by what they are for, in the order they are told."""


@dataclass(frozen=True, slots=True)
class Fit:
    """The memory of one kind that a server has, and what it needs of it."""

    where: str
    """``L40S 48 GB``, ``this machine``."""
    capacity: int
    """Bytes; 0 where nobody knows."""
    parts: Parts
    """Needed as soon as the server is healthy."""
    host: Parts = ()
    """Host memory beside it, where ``parts`` lie in a GPU."""
    grows: Parts = ()
    """Host memory that load can add."""
    unsure: tuple[str, ...] = ()
    """Unknown, and so not in the figures."""

    @property
    def total(self) -> int:
        """Bytes needed."""
        return sum(size for _, size in self.parts)

    @property
    def holds(self) -> bool:
        """True where it fits, or the capacity is unknown."""
        return not self.capacity or self.total <= self.capacity


def fit_data(fit: Fit) -> dict[str, JsonValue]:
    """A fit as JSON; bytes throughout."""
    return {
        "where": fit.where,
        "capacity": fit.capacity,
        "total": fit.total,
        "fits": fit.holds,
        "parts": dict(fit.parts),
        "host": dict(fit.host),
        "grows": dict(fit.grows),
        "unsure": list(fit.unsure),
    }
