"""Run gates against a server: in order of cost, side by side where that is fair."""

import asyncio
import math
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Final, TypeVar

import httpx2

from deployer.errors import UsageError
from deployer.gates import GATES, gate_of
from deployer.gates.harness.answers import (
    Broken,
    Judgement,
    SlotCount,
    excerpt,
    read,
    unmeasured,
)
from deployer.gates.harness.client import Client, Target, Unanswered, connected
from deployer.gates.harness.gate import gate_class
from deployer.planning.events import Exchange, Outcome, Verdict
from deployer.stack.fields.gate_options import Gate as Parameters
from deployer.stack.fields.values import seconds, show_seconds

_WORST_LAST: Final = (
    Outcome.PASS,
    Outcome.INCONCLUSIVE,
    Outcome.ERROR,
    Outcome.FAIL,
)


def together(runs: Sequence[Verdict]) -> Verdict:
    """The verdict of all runs, of which there is at least one.

    Reason and evidence are those of the first of the worst runs.  A figure is the
    median of its values, with `lowest_…` and `highest_…` beside it.
    """
    if len(runs) == 1:
        return runs[0]
    worst = max(runs, key=lambda run: _WORST_LAST.index(run.outcome))
    alike = sum(run.outcome is worst.outcome for run in runs)
    return replace(
        worst,
        because=f"{alike} of {len(runs)} runs: {worst.because}",
        seconds=sum(run.seconds for run in runs),
        figures=_spread([run.figures for run in runs]),
    )


def _spread(figures: Sequence[Mapping[str, float]]) -> Mapping[str, float]:
    found: dict[str, float] = {}
    for name in dict.fromkeys(name for one in figures for name in one):
        values = [one[name] for one in figures if name in one]
        found[name] = median(values)
        if min(values) != max(values):
            found[f"lowest_{name}"] = min(values)
            found[f"highest_{name}"] = max(values)
    return found


HEALTH = "health"
_SENTENCE_LENGTH = 600
_TELL_SECONDS = 0.2
_SLOTS_SECONDS = 10.0

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class GateRequest:
    """A gate to run, and what the stack asks of it."""

    name: str
    """As in the table of gates; behind a dot, which one of several of that gate."""
    parameters: Parameters


@dataclass(frozen=True, slots=True)
class GateEvent:
    """A gate began, or ended with a verdict."""

    gate: str
    verdict: Verdict | None = None


@dataclass(frozen=True, slots=True)
class Waiting:
    """Gates are at work; told a few times a second, so that a listener can end it."""

    gates: tuple[str, ...]
    seconds: float
    """Since the first of them began."""


Tell = Callable[[GateEvent | Waiting], None]
"""Takes what happens; what it raises ends the run at once."""


@dataclass(frozen=True, slots=True)
class _Run:
    """Shared by the gates of one run."""

    http: httpx2.AsyncClient
    target: Target
    say: Tell
    repeat: int
    fail_fast: bool
    clock: Callable[[], float]
    blocked_by: list[str] = field(default_factory=list)
    """Gates that blocked promotion so far."""
    began: dict[str, float] = field(default_factory=dict)
    """When the gates that are at work began."""


def run_gates(
    requests: Sequence[GateRequest],
    target: Target,
    *,
    say: Tell,
    jobs: int | None = None,
    repeat: int = 1,
    fail_fast: bool = False,
    clock: Callable[[], float] = time.monotonic,
) -> tuple[Verdict, ...]:
    """Run the gates and return their verdicts, in the order of the table of gates.

    At most `jobs` run at once, never more than the server has slots, and those that
    measure time or counters run alone.  Each is run `repeat` times, and its worst
    outcome counts.  If health is asked for and does not pass, nothing else is run; with
    `fail_fast` no gate begins after one that blocks.  Whatever the server does
    becomes a verdict; raises UsageError for a gate that does not exist or is asked for
    twice, and what `say` raises, which ends what is at work.
    """
    ordered = _ordered(requests)

    async def run_all() -> tuple[Verdict, ...]:
        async with connected(target) as http:
            run = _Run(http, target, say, max(1, repeat), fail_fast, clock)
            verdicts = await _told(run, _all(run, ordered, jobs))
        return tuple(verdicts[request.name] for request in ordered)

    return asyncio.run(run_all())


def _ordered(requests: Sequence[GateRequest]) -> tuple[GateRequest, ...]:
    by_name = {request.name: request for request in requests}
    if unknown := sorted(name for name in by_name if gate_of(name) not in GATES):
        raise UsageError(
            f"there is no gate `{unknown[0]}`", f"gates are {', '.join(GATES)}"
        )
    if len(by_name) < len(requests):
        raise UsageError("a gate is asked for twice")
    order = tuple(GATES)
    ordered = sorted(by_name, key=lambda name: order.index(gate_of(name)))
    return tuple(by_name[name] for name in ordered)


async def _told(run: _Run, working: Coroutine[object, object, T]) -> T:
    """Tell again and again what is at work; a listener that raises ends the work."""
    work = asyncio.create_task(working)
    try:
        while not (await asyncio.wait({work}, timeout=_TELL_SECONDS))[0]:
            began = min(run.began.values(), default=run.clock())
            run.say(Waiting(tuple(run.began), run.clock() - began))
        return work.result()
    finally:
        # Whoever listens may have ended the run: nothing goes on behind its back.
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)


async def _all(
    run: _Run, ordered: Sequence[GateRequest], jobs: int | None
) -> Mapping[str, Verdict]:
    verdicts: dict[str, Verdict] = {}
    for request in ordered:
        if request.name == HEALTH:
            verdicts[HEALTH] = await _one(run, request)
    rest = [request for request in ordered if request.name != HEALTH]
    health = verdicts.get(HEALTH)
    if health is not None and health.outcome is not Outcome.PASS:
        verdicts |= {one.name: _not_run(run, one, HEALTH) for one in rest}
    else:
        verdicts |= await _side_by_side(run, rest, jobs)
        for request in rest:
            if gate_class(request.name).alone:
                verdicts[request.name] = await _one(run, request)
    return verdicts


async def _side_by_side(
    run: _Run, requests: Sequence[GateRequest], jobs: int | None
) -> Mapping[str, Verdict]:
    shared = [request for request in requests if not gate_class(request.name).alone]
    slots = await _slots(run) if len(shared) > 1 and jobs != 1 else 1
    room = asyncio.Semaphore(min(jobs or slots, slots))

    async def one(request: GateRequest) -> Verdict:
        async with room:
            return await _one(run, request)

    tasks = [asyncio.create_task(one(request)) for request in shared]
    try:
        found = await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return {verdict.gate: verdict for verdict in found}


async def _slots(run: _Run) -> int:
    """Requests that the server works on at once; more would wait, and measure that."""
    if (stated := run.target.slots) is not None:
        return max(1, stated)
    try:
        async with asyncio.timeout(_SLOTS_SECONDS):
            answer = await Client(run.http, run.target).get("/props")
        return max(1, read(answer, SlotCount).total_slots)
    except (TimeoutError, Unanswered, Broken):
        return 1


async def _one(run: _Run, request: GateRequest) -> Verdict:
    """All runs of one gate, unless another one ended it all."""
    if run.fail_fast and run.blocked_by:
        return _not_run(run, request, run.blocked_by[0])
    run.say(GateEvent(request.name))
    run.began[request.name] = run.clock()
    try:
        verdict = together([await _once(run, request) for _ in range(run.repeat)])
    finally:
        del run.began[request.name]
    if verdict.blocks:
        run.blocked_by.append(request.name)
    run.say(GateEvent(request.name, verdict))
    return verdict


async def _once(run: _Run, request: GateRequest) -> Verdict:
    """Measure and judge, within the gate's time."""
    gate = gate_class(request.name)(request.parameters, run.target)
    client = Client(run.http, run.target, gate=request.name, clock=run.clock)
    stated = request.parameters.timeout
    limit = gate.longest if stated is None else seconds(stated)
    begun = run.clock()
    try:
        async with asyncio.timeout(limit):
            measured = await gate.measure(client)
        judgement = gate.judgement(measured)
    except TimeoutError:
        judgement = _out_of_time(client, request.name, limit)
    except Unanswered as error:
        judgement = unmeasured(str(error))
    except Broken as broken:
        judgement = broken.judgement
    took = run.clock() - begun
    await client.declare_refusals()
    return _verdict(request, judgement, client, took)


def _out_of_time(client: Client, name: str, limit: float) -> Judgement:
    last = client.evidence[-1] if client.evidence else None
    shown = show_seconds(limit)
    if last is not None and last.status == httpx2.codes.SERVICE_UNAVAILABLE:
        return unmeasured(_unavailable(last, shown))
    hint = f"`gates.{name}.timeout` allows more"
    if last is None:
        return unmeasured(f"no answer within {shown}; {hint}")
    return unmeasured(f"not done within {shown}, at {_first_words(last)}; {hint}")


def _unavailable(exchange: Exchange, shown: str) -> str:
    """HTTP 503 is what llama-server says while it loads, and many a proxy always."""
    if '"Loading model"' in exchange.response:
        return f"still loading (HTTP 503) after {shown}"
    said = excerpt(exchange.response, 60) or "nothing"
    return f"still HTTP 503 after {shown}, not of a model that loads: `{said}`"


def _first_words(exchange: Exchange) -> str:
    return " ".join(exchange.request.split()[:2])


def _verdict(
    request: GateRequest, judgement: Judgement, client: Client, took: float
) -> Verdict:
    """The verdict, without secrets and without figures that are no numbers."""
    judged = with_numbers(judgement)
    return Verdict(
        gate=request.name,
        outcome=judged.outcome,
        # What the server wrote stands in there: no key, no line, no escape of it.
        because=excerpt(client.hidden(judged.because), _SENTENCE_LENGTH),
        seconds=took,
        figures=judged.figures,
        evidence=tuple(client.evidence),
        advisory=bool(request.parameters.advisory) or judged.waived,
        applicable=judged.applicable,
    )


def with_numbers(judgement: Judgement) -> Judgement:
    """The judgement with finite figures only; one that lost a figure is no pass."""
    figures = {n: v for n, v in judgement.figures.items() if math.isfinite(v)}
    lost = sorted(judgement.figures.keys() - figures.keys())
    if lost and judgement.outcome is Outcome.PASS:
        return unmeasured(f"`{lost[0]}` is not a number", **figures)
    return replace(judgement, figures=figures)


def _not_run(run: _Run, request: GateRequest, because_of: str) -> Verdict:
    verdict = Verdict(
        gate=request.name,
        outcome=Outcome.ERROR,
        because=f"not run: {because_of} did not pass",
        advisory=bool(request.parameters.advisory),
    )
    run.say(GateEvent(request.name, verdict))
    return verdict
