"""The gates metrics, concurrency and speed: how much a server does at a time."""

import asyncio
import math
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final

from pydantic import RootModel

from deployer.errors import EngineError
from deployer.gates.harness.answers import (
    CHAT,
    PASSAGE,
    PROMPT,
    Answer,
    Body,
    Broken,
    Completion,
    ContextProps,
    Judgement,
    Shape,
    SlotCount,
    Streamed,
    Timings,
    chat_body,
    excerpt,
    fail,
    failed,
    first_text_seconds,
    inapplicable,
    is_web_page,
    ordered_chunks,
    passed,
    read,
    refused,
    show_time,
    unclear,
    unmeasured,
    within,
)
from deployer.gates.harness.client import Client, Target, Unanswered, connected
from deployer.gates.harness.gate import Gate, Subject
from deployer.planning.events import Outcome
from deployer.stack.fields import gate_options as asked
from deployer.stack.fields.values import seconds
from deployer.system.children import growing

_PROMPT_TOKENS: Final = "llamacpp:prompt_tokens_total"
_PREDICTED_TOKENS: Final = "llamacpp:tokens_predicted_total"
_FEW_TOKENS: Final = 4
_PATIENCE_SECONDS: Final = 1.0
"""The counters of a request are written a moment after its answer."""
_PAUSES: Final = (0.01, 0.1)


@dataclass(frozen=True, slots=True)
class Counted:
    """The counters on both sides of a request."""

    before: Answer
    completion: Answer
    after: Answer


class Metrics(Gate[asked.Metrics, Counted]):
    """Both counters have to be numbers, and grow by what the request took."""

    subject, limit, alone = Subject.QUALITY, 120, True

    async def measure(self, client: Client) -> Counted:
        """Read, ask, and read again until the counters have moved."""
        before = await client.get("/metrics")
        # Of a prompt that is cached a token is read again, and counted.
        completion = await client.post(CHAT, chat_body(PROMPT, _FEW_TOKENS))
        begun = client.clock()
        for pause in growing(*_PAUSES):
            found = Counted(before, completion, await client.get("/metrics"))
            late = client.clock() - begun > _PATIENCE_SECONDS
            judged = self.judgement(found)
            # Figures without a pass: all could be read, and has not moved far enough.
            if late or judged.outcome is Outcome.PASS or not judged.figures:
                break
            await asyncio.sleep(pause)
        return found

    def judge(self, measured: Counted) -> Judgement:
        """Compare the counters."""
        if measured.before.status == 501:
            return failed("/metrics is off; set `server.metrics: true`")
        before = _counters(measured.before)
        usage = read(measured.completion, Completion).usage
        prompt, predicted = (
            now - then
            for now, then in zip(_counters(measured.after), before, strict=True)
        )
        if predicted < 0 or prompt < 0:
            return failed("a counter went back: the server was restarted meanwhile")
        figures = {
            "prompt_tokens_counted": prompt,
            "predicted_tokens_counted": predicted,
        }
        if predicted < max(1, usage.completion_tokens):
            return failed(
                f"`{_PREDICTED_TOKENS}` grew by {predicted:.0f} over an answer of "
                f"{usage.completion_tokens} tokens",
                **figures,
            )
        if prompt < 1:
            return failed(f"`{_PROMPT_TOKENS}` did not grow with a request", **figures)
        return passed(
            f"the counters grew by {prompt:.0f} prompt and {predicted:.0f} predicted "
            f"tokens",
            **figures,
        )


def _counters(answer: Answer) -> tuple[float, float]:
    """Return the counted tokens of prompts and answers since the server started."""
    if answer.status != 200:
        raise Broken(refused(answer))
    if is_web_page(answer):
        fail(f"/metrics is a web page: `{excerpt(answer.body)}`")
    samples = samples_of(answer.body)
    if isinstance(samples, str):
        fail(f"/metrics is not Prometheus text: {samples}")
    for name in (_PROMPT_TOKENS, _PREDICTED_TOKENS):
        if name not in samples:
            fail(f"/metrics contains no `{name}`")
        if not math.isfinite(samples[name]) or samples[name] < 0:
            fail(f"`{name}` is {samples[name]}")
    return samples[_PROMPT_TOKENS], samples[_PREDICTED_TOKENS]


def samples_of(body: bytes) -> Mapping[str, float] | str:
    """Return every sample without labels, or why the text does not parse."""
    # Imported here: 40 ms that the other gates need not pay.
    from prometheus_client.parser import (  # noqa: PLC0415
        text_string_to_metric_families,
    )

    try:
        families = list(text_string_to_metric_families(body.decode()))
    except (ValueError, IndexError, KeyError) as error:
        return excerpt(f"{error}") or type(error).__name__
    return {
        sample.name: float(sample.value)
        for family in families
        for sample in family.samples
        if not sample.labels
    }


def scrape(target: Target) -> dict[str, float]:
    """Return every sample without labels of a live server, or raise EngineError."""

    async def ask() -> Answer:
        async with connected(target) as http, asyncio.timeout(30):
            return await Client(http, target).get("/metrics")

    try:
        answer = asyncio.run(ask())
    except (Unanswered, TimeoutError) as error:
        raise EngineError(
            f"{target.url} gives no answer: {error}",
            hint="`deployer status` looks at it",
        ) from error
    if answer.status != 200:
        raise EngineError(
            f"{target.url}/metrics answers {answer.status}",
            hint="set `server.metrics: true`" if answer.status == 501 else "",
        )
    samples = samples_of(answer.body)
    if isinstance(samples, str):
        raise EngineError(f"{target.url}/metrics is not Prometheus text: {samples}")
    return dict(samples)


_LENGTHS: Final = (8, 64, 512)
"""Tokens of the answers; longer ones are asked for only if the short ones were too
quick to be seen together."""
_LONG_ENOUGH_SECONDS: Final = 0.5
_PAUSE_SECONDS: Final = 0.01


@dataclass(frozen=True, slots=True)
class Ended:
    """One of the answers, and when it was there."""

    answer: Answer | str
    """The answer, or why none came."""
    seconds: float
    """On the clock that all answers of the measurement share."""


@dataclass(frozen=True, slots=True)
class AtOnce:
    """Requests made at once."""

    wanted: int
    """How many were made; 0 when the number of slots is unknown."""
    ended: tuple[Ended, ...] = ()
    busy: tuple[int, ...] = ()
    """Slots that were active, each time /slots was asked."""
    slots: int | None = None
    """How many slots the server says it has."""


class Slot(Shape):
    """One slot of /slots."""

    is_processing: bool


class Slots(RootModel[tuple[Slot, ...]]):
    """The answer of /slots."""


class Concurrency(Gate[asked.Concurrency, AtOnce]):
    """All have to answer, and all have to be worked on at the same time.

    That N requests came back proves nothing: a queue does that too.  So /slots is
    watched while they run, and llama-server's own clock in each answer says when it
    worked on it.
    """

    subject, limit, alone = Subject.QUALITY, 300, True

    async def measure(self, client: Client) -> AtOnce:
        """Ask as often at once as there are slots, and watch them."""
        props = await client.get("/props")
        wanted = self.options.requests or self.target.slots
        try:
            slots = read(props, SlotCount).total_slots
        except Broken:
            if not wanted:
                raise
            slots = None
        found = AtOnce(wanted or slots or 0, slots=slots)
        for tokens in _LENGTHS if found.wanted else ():
            found = await _at_once(client, found, tokens)
            proved = self.judgement(found).outcome is Outcome.PASS
            if proved or max(one.seconds for one in found.ended) > _LONG_ENOUGH_SECONDS:
                break
        return found

    def judge(self, measured: AtOnce) -> Judgement:
        """Either witness proves it; both have to deny it, or one alone, to disprove."""
        wanted = measured.wanted
        if not wanted:
            return unclear("the server reports no slots")
        if wanted == 1 and self.options.requests is None:
            return inapplicable("the server has one slot: nothing runs beside it")
        completions = [(one, _completion(one, wanted)) for one in measured.ended]
        if len(completions) < wanted:
            return failed(f"{len(completions)} of {wanted} requests were answered")
        watched = max(measured.busy, default=None)
        clocked = _most_at_once(completions)
        figures = {"requests": float(wanted)}
        figures["all_answered_seconds"] = max(one.seconds for one in measured.ended)
        if watched is not None and watched >= wanted:
            because = f"{wanted} slots worked at the same time, as /slots shows"
            return passed(because, **figures)
        if clocked is not None and clocked >= wanted:
            because = f"{wanted} requests were worked on at the same time"
            return passed(f"{because}, by the server's own clock", **figures)
        seen = max(watched or 0, clocked or 0)
        if watched is None and clocked is None:
            because = "neither /slots nor timings in the answers show what ran when"
            return unclear(f"{because}; set `server.slots: true`", **figures)
        if clocked is None and len(measured.busy) < 3:
            because = f"/slots could be asked {len(measured.busy)} times only"
            return unclear(f"{because}, and showed {seen} of {wanted}", **figures)
        few = measured.slots is not None and measured.slots < wanted
        reason = f": the server has {measured.slots} slots" if few else ""
        because = f"at most {seen} of {wanted} requests were worked on at a time"
        return failed(f"{because}{reason}", **figures)


def _completion(ended: Ended, wanted: int) -> Completion:
    try:
        if isinstance(ended.answer, str):
            fail(ended.answer)
        return read(ended.answer, Completion)
    except Broken as broken:
        fail(f"one of {wanted} requests at once failed: {broken}")


def _most_at_once(completions: Iterable[tuple[Ended, Completion]]) -> int | None:
    """Return how many answers were worked on at the same moment, if all tell.

    Answers reach the client a little late, so work that followed other work may seem
    to touch it: only what overlaps for long, in the middle half of the work on each,
    was done together.
    """
    intervals = []
    for ended, completion in completions:
        timings = completion.timings
        if timings is None or timings.prompt_ms < 0 or timings.predicted_ms <= 0:
            return None
        worked = (timings.prompt_ms + timings.predicted_ms) / 1000
        middle = ended.seconds - worked / 2
        intervals.append((middle - worked / 4, middle + worked / 4))
    return max(
        (sum(a <= start < b for a, b in intervals) for start, _ in intervals),
        default=None,
    )


async def _at_once(client: Client, found: AtOnce, tokens: int) -> AtOnce:
    begun = client.clock()
    stop = asyncio.Event()

    async def ask(number: int) -> Ended:
        body = chat_body(f"Count from {number} upwards.", tokens, ignore_eos=True)
        answer: Answer | str
        try:
            answer = await client.post(CHAT, body)
        except Unanswered as error:
            answer = str(error)
        return Ended(answer, client.clock() - begun)

    async with asyncio.TaskGroup() as group:
        watching = group.create_task(_watched(client, stop))
        asking = [group.create_task(ask(n + 1)) for n in range(found.wanted)]
        await asyncio.wait(asking)
        stop.set()
    ended = tuple(task.result() for task in asking)
    return replace(found, ended=ended, busy=watching.result())


async def _watched(client: Client, stop: asyncio.Event) -> tuple[int, ...]:
    """Count the active slots again and again until all answers are there."""
    counts: list[int] = []
    while not stop.is_set():
        try:
            answer = await client.peek("/slots")
            slots = Slots.model_validate_json(answer.body, strict=True).root
        except (Unanswered, ValueError):
            break
        counts.append(sum(slot.is_processing for slot in slots))
        await asyncio.sleep(_PAUSE_SECONDS)
    return tuple(counts)


_TOKENS: Final = 32
"""Length of a stream."""
_LONG: Final = PASSAGE * 40
_TIMES: Final = 3
"""Streams measured; the fastest counts, for what slows a server down is chance."""


@dataclass(frozen=True, slots=True)
class Paced:
    """Streams of a short prompt, and an answer to a long one."""

    streams: tuple[Streamed, ...]
    long: Answer
    together: tuple[Streamed, ...] = ()
    """One stream for each slot, all at once."""
    together_seconds: float = 0.0
    """From the first request to the last token."""


@dataclass(frozen=True, slots=True)
class Pace:
    """The speed of one stream."""

    first_seconds: float
    per_second: float
    tokens: int


class Speed(Gate[asked.Speed, Paced]):
    """The limits of the stack have to be kept; the numbers have to be there anyway.

    The token rates are llama-server's own (`timings`), the time to the first token is
    the client's, network included.  They are those of one stream on an idle, warm
    server, and then of as many streams at once as there are slots, which share what the
    server can do.
    """

    subject, limit, alone = Subject.QUALITY, 300, True

    async def measure(self, client: Client) -> Paced:
        """Stream answers of one length, read a long prompt, and fill the slots."""
        props = await client.get("/props")
        slots, prompt = self.target.slots or 1, _LONG
        with suppress(Broken):
            slots = self.target.slots or max(1, read(props, SlotCount).total_slots)
        with suppress(Broken):
            # A token has a letter at least: half of them fit into every slot.
            context = read(props, ContextProps).default_generation_settings.n_ctx
            prompt = _LONG[: context // 2]
        tokens, times = self.options.tokens or _TOKENS, self.options.times or _TIMES
        alone = _story(0, tokens)
        streams = [await client.stream(CHAT, alone) for _ in range(times)]
        long = chat_body(prompt, 1, cache_prompt=False)
        if slots < 2:
            return Paced(tuple(streams), await client.post(CHAT, long))
        begun = client.clock()
        asking = (client.stream(CHAT, _story(it, tokens)) for it in range(slots))
        ended = await asyncio.gather(*asking, return_exceptions=True)
        took = client.clock() - begun
        together = []
        for one in ended:
            if isinstance(one, BaseException):
                raise one
            together.append(one)
        read_last = await client.post(CHAT, long)  # the gate `context` reads on from it
        return Paced(tuple(streams), read_last, tuple(together), took)

    def judge(self, measured: Paced) -> Judgement:
        """Read the clocks, and compare them with the limits."""
        paces = [_pace(one) for one in measured.streams]
        with within(f"{len(measured.together)} streams at once"):
            together = [_pace(one) for one in measured.together]
        timings = read(measured.long, Completion).timings
        if not paces or timings is None or timings.prompt_ms <= 0:
            return unmeasured("the answers contain no `timings`")
        first = min(pace.first_seconds for pace in paces)
        rate, slowest = (f(pace.per_second for pace in paces) for f in (max, min))
        read_rate = 1000 * timings.prompt_n / timings.prompt_ms
        figures = {
            "ttft_seconds": first,
            "tokens_per_second": rate,
            "slowest_stream_tokens_per_second": slowest,
            "prompt_tokens_per_second": read_rate,
        }
        # Without a model of the noise: each stream is above the median by even odds.
        sure = 1 - 0.5 ** len(paces)
        shown = f"TTFT {show_time(first)}, {rate:.1f} tokens/s"
        shown += f" (median above {slowest:.1f} at {sure:.0%} confidence)"
        shown += f", prompt {read_rate:.0f} tokens/s"
        if together:
            tokens = sum(pace.tokens for pace in together)
            took = measured.together_seconds
            shared = tokens / took if took else 0.0
            figures |= {
                "parallel_streams": float(len(together)),
                "parallel_ttft_seconds": max(one.first_seconds for one in together),
                "parallel_tokens_per_second": shared,
            }
            shown += f"; {len(together)} streams at once {shared:.1f} tokens/s together"
        ttft, least = self.options.ttft, self.options.tokens_per_second
        if ttft is not None and first > seconds(ttft):
            because = f"the first token took {show_time(first)}, more than"
            return failed(f"{because} `ttft: {show_time(seconds(ttft))}`", **figures)
        if least is not None and rate < least:
            because = f"{rate:.1f} tokens/s, less than `tokens_per_second: {least:g}`"
            return failed(because, **figures)
        return passed(shown, **figures)


def _pace(streamed: Streamed) -> Pace:
    timed = ordered_chunks(streamed)
    first = first_text_seconds(timed)
    told = [one.chunk.timings for one in timed if one.chunk.timings]
    timings: Timings | None = told[-1] if told else None
    if timings is None or timings.predicted_ms <= 0 or timings.predicted_n < 1:
        because = "the stream contains no `timings` to tell its speed"
        raise Broken(unmeasured(because))
    rate = 1000 * timings.predicted_n / timings.predicted_ms
    return Pace(first, rate, timings.predicted_n)


def _story(number: int, tokens: int) -> Body:
    """Ask for an answer of a fixed length; numbers make different prompts."""
    return chat_body(
        f"Tell me story {number}.",
        tokens,
        ignore_eos=True,
        stream=True,
        stream_options={"include_usage": True},
        cache_prompt=False,
    )
