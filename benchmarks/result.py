"""What a case comes to: sentences, tables, plots, and every single measurement."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from deployer.stack.fields.values import JsonValue


@dataclass(frozen=True, slots=True)
class Table:
    """A table of text; the first column names the row."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    title: str = ""


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar of a plot: its median is drawn long, every value as a dot."""

    label: str
    values: tuple[float, ...]
    ours: bool = False


@dataclass(frozen=True, slots=True)
class Bars:
    """A plot of bars, side by side in one unit."""

    name: str
    """Of its file, without `.svg`."""
    title: str
    unit: str
    bars: tuple[Bar, ...]
    log: bool = False
    limits: Mapping[str, float] = field(default_factory=dict)
    """Lines across all bars, by what they are."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a plot."""

    label: str
    points: tuple[tuple[float, float], ...]
    ours: bool = False


@dataclass(frozen=True, slots=True)
class Lines:
    """A plot of how something grows."""

    name: str
    """Of its file, without `.svg`."""
    title: str
    across: str
    up: str
    lines: tuple[Line, ...]
    log: bool = False


Plot = Bars | Lines


@dataclass(frozen=True, slots=True)
class Result:
    """What a case comes to."""

    title: str
    about: tuple[str, ...]
    """How it was measured, a sentence each."""
    tables: tuple[Table, ...]
    plots: tuple[Plot, ...] = ()
    notes: tuple[str, ...] = ()
    """What the tables say, and what could not be measured, a sentence each."""
    text: str = ""
    """What a script printed."""
    samples: JsonValue = None
    """Every single measurement."""


@dataclass(frozen=True, slots=True)
class Run:
    """What a case is run with."""

    case: str
    rounds: int
    folder: Path
    """Gone after the case."""
    cache: Path
    """Kept between runs: the store, environments of peers."""
    peers: Path | None
    """Environments of peers; None: ours alone."""
    offline: bool
    """The network is out of reach, and not merely unused."""

    @property
    def home(self) -> Path:
        """The store of the stacks that are measured."""
        return self.cache / "home"

    def say(self, text: str) -> None:
        """A line of progress."""
        print(f"  {text}", flush=True)
