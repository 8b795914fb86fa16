"""How a stack is to be read, and what becomes of what an earlier run left."""

from dataclasses import dataclass
from enum import StrEnum


class Pending(StrEnum):
    """What becomes of what an earlier run began and did not end."""

    ADOPT = "adopt"
    """It is settled first, and the plan goes on from there."""
    CLEAR = "clear"
    """It is settled, and nothing new is begun."""
    FAIL = "fail"
    """Nothing is done while there is any."""


@dataclass(frozen=True, slots=True)
class Options:
    """How a stack is to be read and compared."""

    engine: str | None = None
    """Instead of the engine that the file names."""
    locked: bool = False
    """Refuse to resolve anything that the lock file does not hold."""
    refresh: bool = False
    """Observe all that is live, also where that takes requests to somebody else."""
    observe: bool = False
    """Observe all that is live on this machine, as before an apply."""
    pending: Pending = Pending.ADOPT
    without_state: bool = False
    """Ask nobody what is deployed: all of the stack counts as new."""
    cached: bool = True
    """Take what earlier runs read of the same files."""
