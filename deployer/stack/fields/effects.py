"""What a field may say about itself: its cost, its option, its unit.

No import here is slow: a plan that changes nothing must not pay for the model.
"""

from dataclasses import dataclass
from enum import IntEnum, StrEnum

from deployer.stack.fields.values import Unit


class Effect(IntEnum):
    """What a change of a field costs, weakest first."""

    NOTE = 0
    """Recorded, nothing is touched."""
    GATE = 1
    """What is live is validated again."""
    UPDATE = 2
    """Changed in place, no restart."""
    REDEPLOY = 3
    """The server is restarted, from the same snapshot where the engine can."""
    SNAPSHOT = 4
    """A new warm-up and capture; without snapshots a restart."""
    FETCH = 5
    """Other weights."""
    BUILD = 6
    """Another llama-server binary; also what a field without a mark costs."""


class Mark(StrEnum):
    """A property of a field that needs no value."""

    LOCKED = "locked"
    """The facts it resolves to stand in the key, not the field itself."""


@dataclass(frozen=True, slots=True)
class Flag:
    """The option of llama-server that a field becomes, for a range of builds.

    A boolean writes ``name`` when true and ``off`` when false; an empty word
    writes nothing.  ``on`` is a value written behind ``name`` when true
    (``--load-mode mmap``), ``off`` then holds words separated by a space.
    Builds are upstream's numbers, both ends included.
    """

    name: str
    off: str = ""
    since: int = 0
    until: int = 10**9


@dataclass(frozen=True, slots=True)
class Only:
    """The field has a meaning on this engine alone."""

    engine: str


@dataclass(frozen=True, slots=True)
class Marks:
    """Everything a field says about itself, with what it inherits."""

    effect: Effect = Effect.BUILD
    flags: tuple[Flag, ...] = ()
    unit: Unit | None = None
    locked: bool = False
    only: str | None = None
