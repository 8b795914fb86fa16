"""What a server answered, as values; and what a gate makes of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from deployer.planning.verdict import Outcome
from deployer.stack.fields.units import show_seconds


@dataclass(frozen=True, slots=True)
class Answer:
    """One whole HTTP answer."""

    status: int
    content_type: str
    body: bytes
    seconds: float
    """From the start of the request to the last byte."""

    @property
    def media_type(self) -> str:
        """The content type without its parameters."""
        return self.content_type.partition(";")[0].strip().lower()


@dataclass(frozen=True, slots=True)
class Event:
    """One server-sent event."""

    name: str
    data: str
    seconds: float
    """From the start of the request until it was there."""


@dataclass(frozen=True, slots=True)
class Streamed:
    """A streamed answer: its events, and the bytes they were made from."""

    answer: Answer
    events: tuple[Event, ...]
    broke: str = ""
    """Why the stream broke off; empty when it ended in order."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a gate makes of its measurement."""

    outcome: Outcome
    because: str
    figures: Mapping[str, float] = field(default_factory=dict)
    applicable: bool = True
    """False where the model lacks what the gate is about."""


def passed(because: str, **figures: float) -> Judgement:
    """It was proved."""
    return Judgement(Outcome.PASS, because, figures)


def failed(because: str, **figures: float) -> Judgement:
    """It was disproved."""
    return Judgement(Outcome.FAIL, because, figures)


def unclear(because: str, **figures: float) -> Judgement:
    """It answered, and what it said proves neither."""
    return Judgement(Outcome.INCONCLUSIVE, because, figures)


def inapplicable(because: str) -> Judgement:
    """The model lacks what the gate is about: asking for it is a mistake."""
    return Judgement(Outcome.INCONCLUSIVE, because, applicable=False)


def unmeasured(because: str, **figures: float) -> Judgement:
    """It could not be measured."""
    return Judgement(Outcome.ERROR, because, figures)


def excerpt(text: str | bytes, length: int = 80) -> str:
    """The beginning of a text on one line, for a message."""
    shown = text.decode(errors="replace") if isinstance(text, bytes) else text
    line = " ".join(shown[: 4 * length].split())
    line = "".join(c if c.isprintable() else "\ufffd" for c in line)
    return line if len(line) <= length else f"{line[: length - 1]}…"


def show_time(seconds: float) -> str:
    """A measured time for people, short ones in milliseconds."""
    return f"{1000 * seconds:.0f} ms" if seconds < 1 else show_seconds(seconds)
