"""Events of an apply, and verdicts of gates: values that are shown, stored, counted."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from math import isfinite

from deployer.planning.progress import Progress
from deployer.planning.steps import Step
from deployer.stack.fields.values import JsonValue


class Outcome(StrEnum):
    """How a gate ended.  Only `PASS` lets a candidate be promoted."""

    PASS = "pass"  # noqa: S105 - a verdict, not a password
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"
    """It answered, but what it said proves neither."""
    ERROR = "error"
    """It could not be measured: no answer, a time-out, not the expected protocol."""


_SIGNS: Mapping[Outcome, str] = {
    Outcome.PASS: "✔",
    Outcome.FAIL: "✖",
    Outcome.INCONCLUSIVE: "?",
    Outcome.ERROR: "!",
}


ENDED: Mapping[Outcome, str] = {
    Outcome.PASS: "passed",
    Outcome.FAIL: "failed",
    Outcome.INCONCLUSIVE: "inconclusive",
    Outcome.ERROR: "not measured",
}
"""The outcomes in the words that sentences have for them, in the order of these."""
_LACKING = "not applicable"


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request and its answer, cut short and without secrets."""

    request: str
    """Method, path and body excerpt."""
    status: int | None
    """HTTP status; None when no answer came."""
    response: str
    seconds: float
    note: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The finding of one gate of one server."""

    gate: str
    outcome: Outcome
    because: str
    """One sentence a person can act on."""
    seconds: float = 0.0
    figures: Mapping[str, float] = field(default_factory=dict)
    """Measured numbers by name with its unit (``ttft_seconds``)."""
    evidence: tuple[Exchange, ...] = ()
    advisory: bool = False
    """Shown and recorded, but holds nothing back."""
    applicable: bool = True
    """False where the model lacks what the gate is about; then it is inconclusive."""

    @property
    def blocks(self) -> bool:
        """True where a candidate with this verdict must not be promoted."""
        return self.outcome is not Outcome.PASS and not self.advisory


def word(verdict: Verdict) -> str:
    """How it ended, in the word that people read."""
    ended = verdict.outcome.value if verdict.applicable else _LACKING
    return f"{ended}{' (advisory)' if verdict.advisory else ''}"


def sign(verdict: Verdict) -> str:
    """How it ended, as a sign; signs differ in shape, for colour alone says nothing."""
    return _SIGNS[verdict.outcome] if verdict.applicable else "–"  # noqa: RUF001 - a dash


def blocking(verdicts: Iterable[Verdict]) -> str:
    """Return how the gates ended that block a promotion; empty where none does."""
    ended: dict[str, list[str]] = {said: [] for said in (*ENDED.values(), _LACKING)}
    for it in verdicts:
        if it.blocks:
            ended[ENDED[it.outcome] if it.applicable else _LACKING].append(it.gate)
    return "; ".join(
        f"{said} {', '.join(f'`{gate}`' for gate in gates)}"
        for said, gates in ended.items()
        if gates
    )


def left_unproven(verdicts: Iterable[Verdict]) -> tuple[str, ...]:
    """Return the gates that proved nothing and block nothing, each with its reason."""
    open_ones = (it for it in verdicts if it.outcome is Outcome.INCONCLUSIVE)
    return tuple(f"{it.gate} ({it.because})" for it in open_ones if not it.blocks)


def all_let_pass(verdicts: Iterable[Verdict]) -> bool:
    """Return whether every gate lets the candidate be promoted."""
    return not any(verdict.blocks for verdict in verdicts)


def summary(verdict: Verdict) -> Mapping[str, JsonValue]:
    """The part of a verdict that is kept with the release; JSON holds no NaN."""
    figures = {k: v for k, v in verdict.figures.items() if isfinite(v)}
    return {
        "gate": verdict.gate,
        "outcome": verdict.outcome.value,
        "because": verdict.because,
        "seconds": round(verdict.seconds, 3),
        "advisory": verdict.advisory,
        "applicable": verdict.applicable,
        "figures": dict(figures),
    }


@dataclass(frozen=True, slots=True)
class Started:
    """A step begins."""

    step: Step


@dataclass(frozen=True, slots=True)
class Ended:
    """A step is done."""

    step: Step
    seconds: float


@dataclass(frozen=True, slots=True)
class Talk:
    """One line about what is going on inside a step."""

    about: str
    """Address of the resource."""
    text: str


@dataclass(frozen=True, slots=True)
class Used(Talk):
    """The bill of a run so far, as a line: it is also kept."""


@dataclass(frozen=True, slots=True)
class Judged:
    """A gate ended."""

    verdict: Verdict


@dataclass(frozen=True, slots=True)
class AtWork:
    """Gates are at work; said again and again, so that they can be ended."""

    gates: tuple[str, ...]
    seconds: float
    """Since the first of them began."""


Event = Started | Ended | Talk | Judged | AtWork | Progress

Say = Callable[[Event], None]
"""Takes an event; may raise CancelledError, which ends the step it came from."""
