"""The record of a stack, as the one value behind the page and the JSON.

What nobody recorded is None or absent, never a guess.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import isfinite
from statistics import median

from deployer.planning.events import Outcome, Verdict, summary
from deployer.stack.fields.values import JsonValue

TTFT, RATE = "ttft_seconds", "tokens_per_second"
_NEVER = 1e9


@dataclass(frozen=True, slots=True)
class Run:
    """A release, or a candidate that failed its gates."""

    at: str
    """UTC, ISO 8601."""
    cause: str
    number: int | None
    """None: it led to no release."""
    live: bool
    kept: bool
    """It can be rolled back to."""
    held_back: bool
    changes: tuple[str, ...] | None
    """Changes against the release before; None: not recorded."""
    used: tuple[str, ...]
    """The bill of the run, as reported then."""
    verdicts: tuple[Verdict, ...]
    """Verdicts of its gates, without evidence."""
    starts: str = ""
    """The seconds that its candidate took to start; empty: not recorded."""

    @property
    def name(self) -> str:
        """Its name for people."""
        if self.number is not None:
            return f"release {self.number}"
        return "not promoted" if self.held_back else "judged again"

    @property
    def passed(self) -> int:
        """How many gates passed."""
        return sum(one.outcome is Outcome.PASS for one in self.verdicts)

    def figure(self, name: str) -> float | None:
        """A measured number: of the gate `speed`, or else of `stream`."""
        for gate in ("speed", "stream"):
            for one in self.verdicts:
                value = one.figures.get(name)
                if one.gate == gate and value is not None and is_measurable(value):
                    return value
        return None


@dataclass(frozen=True, slots=True)
class Seen:
    """One probe of `watch`."""

    at: str
    path: str
    ok: bool
    ttft_seconds: float | None
    limit_seconds: float
    because: str


@dataclass(frozen=True, slots=True)
class Spread:
    """Some probes together."""

    count: int
    failed: int
    breaches: int
    last: float | None
    half: float | None
    """Half of them took no longer."""
    most: float | None
    """19 of 20 took no longer."""
    worst: float | None
    limit: float | None
    """The limit of the last one."""


@dataclass(frozen=True, slots=True)
class Cost:
    """The price of a container that is awake, by the price table: an estimate."""

    awake_hour: float
    always: int
    """Containers that are awake whether anybody asks or not."""
    prices: str
    """The day of the prices."""


@dataclass(frozen=True, slots=True)
class Overview:
    """Everything that is recorded of one stack."""

    stack: str
    file: str
    engine: str = ""
    serial: int | None = None
    live: int | None = None
    """Number of the live release."""
    made_of: tuple[tuple[str, str], ...] = ()
    """Live resources, by kind."""
    runs: tuple[Run, ...] = ()
    """Newest first."""
    probes: tuple[Seen, ...] = ()
    """Oldest first."""
    cost: Cost | None = None
    notes: tuple[str, ...] = ()
    error: str = ""
    """Why nothing is known of it."""
    hint: str = ""

    @property
    def live_run(self) -> Run | None:
        """The live release."""
        return next((run for run in self.runs if run.live), None)

    @property
    def gates(self) -> tuple[str, ...]:
        """Every gate that ever said something, in the order of the newest run."""
        names = (one.gate for run in self.runs for one in run.verdicts)
        return tuple(dict.fromkeys(names))


def is_measurable(value: float) -> bool:
    """Return whether a clock could have shown this; a server may claim anything."""
    return 0 <= value < _NEVER


def spread(probes: Sequence[Seen]) -> Spread:
    """Return what some probes measured, together."""
    known = sorted(p.ttft_seconds for p in probes if p.ttft_seconds is not None)
    late = [p.ttft_seconds is None or p.ttft_seconds > p.limit_seconds for p in probes]
    return Spread(
        count=len(probes),
        failed=sum(not probe.ok for probe in probes),
        breaches=sum(slow or not p.ok for slow, p in zip(late, probes, strict=True)),
        last=probes[-1].ttft_seconds if probes else None,
        half=median(known) if known else None,
        most=known[min(len(known) - 1, int(0.95 * len(known)))] if known else None,
        worst=known[-1] if known else None,
        limit=probes[-1].limit_seconds if probes else None,
    )


def verdict_of(kept: Mapping[str, JsonValue]) -> Verdict | None:
    """A verdict as it was kept with a release; None for what is none."""
    match kept:
        case {"gate": str(gate), "outcome": str(ended)} if ended in set(Outcome):
            pass
        case _:
            return None
    figures, because = kept.get("figures"), kept.get("because")
    return Verdict(
        gate=gate,
        outcome=Outcome(ended),
        because=because if isinstance(because, str) else "",
        figures=dict(_numbers(figures)) if isinstance(figures, dict) else {},
        advisory=kept.get("advisory") is True,
        applicable=kept.get("applicable") is not False,
    )


def overview_data(overview: Overview) -> dict[str, JsonValue]:
    """The same for programs."""
    found = asdict(replace(overview, runs=()))
    return {
        **found,
        "made_of": dict(overview.made_of),
        "runs": [_run_data(run) for run in overview.runs],
    }


def _run_data(run: Run) -> JsonValue:
    found = asdict(replace(run, verdicts=()))
    del found["verdicts"]
    return {
        **found,
        "ttft_seconds": run.figure(TTFT),
        "tokens_per_second": run.figure(RATE),
        "gates": [dict(summary(one)) for one in run.verdicts],
    }


def _numbers(figures: Mapping[str, JsonValue]) -> Iterator[tuple[str, float]]:
    for name, value in figures.items():
        match value:
            case bool():
                continue
            case int() | float() if isfinite(value):
                yield name, float(value)
            case _:
                continue
