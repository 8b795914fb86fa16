"""Gate concurrency: every slot answers at the same time.

That N requests came back proves nothing: a queue does that too.  So /slots is watched
while they run, and llama-server's own clock in each answer says when it worked on it.
"""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass

from pydantic import RootModel, ValidationError

from deployer.gates.harness.answers import (
    Answer,
    Completion,
    Judgement,
    Shape,
    SlotCount,
    failed,
    passed,
    read,
    unclear,
)
from deployer.gates.harness.client import Client, Unanswered
from deployer.gates.harness.requests import chat_body
from deployer.gates.harness.target import Target
from deployer.planning.verdict import Outcome
from deployer.stack.fields.gate_options import Concurrency

_TOKENS = (64, 512)
"""Length of the answers; the longer ones are asked for only if the short ones were
too quick to be seen together."""
_LONG_ENOUGH_SECONDS = 0.5
_PAUSE_SECONDS = 0.01


@dataclass(frozen=True, slots=True)
class Ended:
    """One of the answers, and when it was there."""

    answer: Answer | str
    """The answer, or why none came."""
    seconds: float
    """On the clock that all answers of the measurement share."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """Requests made at once."""

    wanted: int
    """How many were made; 0 when nobody could say how many slots there are."""
    ended: tuple[Ended, ...] = ()
    busy: tuple[int, ...] = ()
    """Slots that were at work, each time /slots was asked."""
    slots: int | None = None
    """How many slots the server says it has."""
    unknown: Judgement | None = None
    """Why the number of slots could not be found out."""


class Slot(Shape):
    """One slot of /slots."""

    is_processing: bool


class Slots(RootModel[tuple[Slot, ...]]):
    """The answer of /slots."""


async def measure(
    client: Client, parameters: Concurrency, target: Target
) -> Measurement:
    """Ask as often at once as there are slots, and watch them."""
    props = read(await client.get("/props"), SlotCount)
    unknown = props if isinstance(props, Judgement) else None
    slots = props.total_slots if isinstance(props, SlotCount) else None
    wanted = parameters.requests or target.slots or slots or 0
    found = Measurement(wanted, slots=slots, unknown=unknown)
    for tokens in _TOKENS if wanted else ():
        found = await _at_once(client, found, tokens)
        proved = judge(found, parameters, target).outcome is Outcome.PASS
        if proved or max(one.seconds for one in found.ended) > _LONG_ENOUGH_SECONDS:
            break
    return found


def judge(
    measurement: Measurement, _parameters: Concurrency, _target: Target
) -> Judgement:
    """All have to answer, and all have to be worked on at the same time."""
    wanted = measurement.wanted
    if not wanted:
        return measurement.unknown or unclear("the server reports no slots")
    completions = []
    for one in measurement.ended:
        completion = _completion(one)
        if isinstance(completion, str):
            return failed(f"one of {wanted} requests at once failed: {completion}")
        completions.append((one, completion))
    if len(completions) < wanted:
        return failed(f"{len(completions)} of {wanted} requests were answered")
    watched = max(measurement.busy, default=None)
    clocked = _most_at_once(_intervals(completions))
    return _together(measurement, watched, clocked)


def _completion(ended: Ended) -> Completion | str:
    """The answer of one request, or what is wrong with it."""
    if isinstance(ended.answer, str):
        return ended.answer
    match read(ended.answer, Completion):
        case Judgement() as broken:
            return broken.because
        case completion:
            return completion


def _together(
    measurement: Measurement, watched: int | None, clocked: int | None
) -> Judgement:
    """Either witness proves it; both have to deny it, or one alone, to disprove it."""
    wanted = measurement.wanted
    figures = {"requests": float(wanted)}
    figures["all_answered_seconds"] = max(one.seconds for one in measurement.ended)
    if watched is not None and watched >= wanted:
        because = f"{wanted} slots worked at the same time, as /slots shows"
        return passed(because, **figures)
    if clocked is not None and clocked >= wanted:
        because = f"{wanted} requests were worked on at the same time"
        return passed(f"{because}, by the server's own clock", **figures)
    seen = max(count for count in (watched, clocked, 0) if count is not None)
    if watched is None and clocked is None:
        because = "neither /slots nor timings in the answers show what ran when"
        return unclear(f"{because}; set `server.slots: true`", **figures)
    if clocked is None and len(measurement.busy) < 3:
        because = f"/slots could be asked {len(measurement.busy)} times only"
        return unclear(f"{because}, and showed {seen} of {wanted}", **figures)
    few = measurement.slots is not None and measurement.slots < wanted
    reason = f": the server has {measurement.slots} slots" if few else ""
    because = f"at most {seen} of {wanted} requests were worked on at a time{reason}"
    return failed(because, **figures)


def _intervals(
    completions: Iterable[tuple[Ended, Completion]],
) -> tuple[tuple[float, float], ...] | None:
    """The middle half of the work on each request; None if an answer does not say.

    Answers reach the client a little late, so work that followed other work may seem
    to touch it: only what overlaps for long was done together.
    """
    found = []
    for ended, completion in completions:
        timings = completion.timings
        if timings is None or timings.prompt_ms < 0 or timings.predicted_ms <= 0:
            return None
        worked = (timings.prompt_ms + timings.predicted_ms) / 1000
        middle = ended.seconds - worked / 2
        found.append((middle - worked / 4, middle + worked / 4))
    return tuple(found)


def _most_at_once(intervals: tuple[tuple[float, float], ...] | None) -> int | None:
    """The largest number of intervals that share a moment."""
    if intervals is None:
        return None
    starts = [start for start, _ in intervals]
    return max(
        (sum(a <= start < b for a, b in intervals) for start in starts), default=None
    )


async def _at_once(client: Client, found: Measurement, tokens: int) -> Measurement:
    begun = client.clock()
    stop = asyncio.Event()

    async def ask(number: int) -> Ended:
        prompt = f"Count from {number} upwards."
        body = chat_body(prompt, tokens, ignore_eos=True)
        answer: Answer | str
        try:
            answer = await client.post("/v1/chat/completions", body)
        except Unanswered as error:
            answer = str(error)
        return Ended(answer, client.clock() - begun)

    async with asyncio.TaskGroup() as group:
        watching = group.create_task(_watched(client, stop))
        asking = [group.create_task(ask(n + 1)) for n in range(found.wanted)]
        await asyncio.wait(asking)
        stop.set()
    return Measurement(
        found.wanted,
        tuple(task.result() for task in asking),
        watching.result(),
        found.slots,
    )


async def _watched(client: Client, stop: asyncio.Event) -> tuple[int, ...]:
    """How many slots are at work, again and again until all answers are there."""
    counts: list[int] = []
    while not stop.is_set():
        try:
            answer = await client.peek("/slots")
            slots = Slots.model_validate_json(answer.body, strict=True).root
        except (Unanswered, ValidationError):
            break
        counts.append(sum(slot.is_processing for slot in slots))
        await asyncio.sleep(_PAUSE_SECONDS)
    return tuple(counts)
