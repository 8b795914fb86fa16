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


class Memory(StrEnum):
    """How the memory of a server depends on an option."""

    COMPUTED = "computed"
    """By a formula of `deployer fit`, which reads the field under its own name."""
    UNKNOWN = "unknown"
    """In a way that is not computed: it may fit where the figures say no."""


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


HERE = "file://"
"""Begins the address of a repository on this machine."""
TEMPLATE_ENDING = ".jinja"
"""Tells a chat template of the user's own from the name of one in llama.cpp."""


@dataclass(frozen=True, slots=True)
class File:
    """The field names a file, or each of its items does, relative to the stack."""

    ending: str = ""
    """Another value is no file."""
    beside: str = ""
    """Field of the same section without which it is no file."""
    function: bool = False
    """A function of the file follows the last colon."""
    optional: bool = False
    """It need not be there: any word of a command may be a file."""
    digest: str = ""
    """Field that records the digest of its content: `{path}`, `{section}`, `{name}`."""


@dataclass(frozen=True, slots=True)
class Folder:
    """The field names a folder, relative to the stack."""

    scheme: str = ""
    """Another value is no folder of this machine."""


@dataclass(frozen=True, slots=True)
class Marks:
    """Everything a field says about itself, with what it inherits."""

    effect: Effect = Effect.BUILD
    flags: tuple[Flag, ...] = ()
    unit: Unit | None = None
    locked: bool = False
    only: str | None = None
    memory: Memory | None = None
