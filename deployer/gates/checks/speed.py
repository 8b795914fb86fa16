"""Gate speed: time to the first token and tokens a second; always recorded.

The token rates are llama-server's own (`timings`), the time to the first token is the
client's, network included.  They are those of one stream on an idle, warm server, and
then of as many streams at once as there are slots, which share what the server can do.
"""

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from deployer.gates.checks.context import ContextProps
from deployer.gates.checks.stream import order_problem, told_by
from deployer.gates.harness.answers import (
    Answer,
    Completion,
    Judgement,
    SlotCount,
    Streamed,
    Timings,
    failed,
    passed,
    read,
    show_time,
    unmeasured,
)
from deployer.gates.harness.client import Client
from deployer.gates.harness.requests import Body, chat_body
from deployer.gates.harness.sse import chunks_of
from deployer.gates.harness.target import Target
from deployer.stack.fields.gate_options import Speed
from deployer.stack.fields.values import seconds

_WARM_TOKENS = 8
_TOKENS = 128
_LONG = "The quick brown fox jumps over the lazy dog. " * 40
_PATH = "/v1/chat/completions"
_RUNS = 3
"""Streams measured; the fastest counts, for what slows a server down is chance."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """Streams of a short prompt, and an answer to a long one."""

    streams: tuple[Streamed, ...]
    long: Answer
    together: tuple[Streamed, ...] = ()
    """One stream for each slot, all at once."""
    together_seconds: float = 0.0
    """From the first request to the last token."""


@dataclass(frozen=True, slots=True)
class Pace:
    """What one stream shows."""

    first_seconds: float
    per_second: float
    tokens: int


async def measure(client: Client, _parameters: Speed, target: Target) -> Measurement:
    """Warm up, stream answers of a fixed length, read a long prompt, fill the slots."""
    props = await client.get("/props")
    count, context = read(props, SlotCount), read(props, ContextProps)
    slots = target.slots or (
        1 if isinstance(count, Judgement) else max(1, count.total_slots)
    )
    warm = chat_body("Hello", _WARM_TOKENS, ignore_eos=True)
    await client.post(_PATH, warm)
    streams = [await client.stream(_PATH, _story(0)) for _ in range(_RUNS)]
    prompt = _LONG
    if not isinstance(context, Judgement):
        # A token has a letter at least: half of them fit into every slot.
        prompt = _LONG[: context.default_generation_settings.n_ctx // 2]
    long = await client.post(_PATH, chat_body(prompt, 1, cache_prompt=False))
    if slots < 2:
        return Measurement(tuple(streams), long)
    begun = client.clock()
    asked = (client.stream(_PATH, _story(number)) for number in range(slots))
    ended = await asyncio.gather(*asked, return_exceptions=True)
    took = client.clock() - begun
    together = []
    for one in ended:
        if isinstance(one, BaseException):
            raise one
        together.append(one)
    return Measurement(tuple(streams), long, tuple(together), took)


def judge(measurement: Measurement, parameters: Speed, _target: Target) -> Judgement:
    """The limits of the stack have to be kept; the numbers have to be there anyway."""
    paces, together = _paces(measurement.streams), _paces(measurement.together)
    if isinstance(paces, Judgement):
        return paces
    if isinstance(together, Judgement):
        said = f"{len(measurement.together)} streams at once: {together.because}"
        return Judgement(together.outcome, said)
    reading = read(measurement.long, Completion)
    if isinstance(reading, Judgement):
        return reading
    if not paces or reading.timings is None or reading.timings.prompt_ms <= 0:
        return unmeasured("the answers hold no `timings`")
    first = min(pace.first_seconds for pace in paces)
    rate = max(pace.per_second for pace in paces)
    read_rate = 1000 * reading.timings.prompt_n / reading.timings.prompt_ms
    figures = {
        "ttft_seconds": first,
        "tokens_per_second": rate,
        "prompt_tokens_per_second": read_rate,
        **_shared(together, measurement.together_seconds),
    }
    if problem := _too_slow(parameters, first, rate):
        return failed(problem, **figures)
    shown = f"first token after {show_time(first)}, {rate:.1f} tokens/s"
    shown += f", prompt {read_rate:.0f} tokens/s"
    if together:
        rate = figures["parallel_tokens_per_second"]
        shown += f"; {len(together)} streams at once {rate:.1f} tokens/s together"
    return passed(shown, **figures)


def _shared(together: list[Pace], seconds_taken: float) -> Mapping[str, float]:
    """The figures of streams at once; none where there is one slot."""
    if not together:
        return {}
    tokens = sum(pace.tokens for pace in together)
    return {
        "parallel_streams": float(len(together)),
        "parallel_ttft_seconds": max(pace.first_seconds for pace in together),
        "parallel_tokens_per_second": tokens / seconds_taken if seconds_taken else 0.0,
    }


def _too_slow(parameters: Speed, first: float, rate: float) -> str:
    if parameters.ttft is not None and first > seconds(parameters.ttft):
        limit = show_time(seconds(parameters.ttft))
        return f"the first token took {show_time(first)}, more than `ttft: {limit}`"
    least = parameters.tokens_per_second
    if least is not None and rate < least:
        return f"{rate:.1f} tokens/s, less than `tokens_per_second: {least:g}`"
    return ""


def _paces(streams: Iterable[Streamed]) -> list[Pace] | Judgement:
    found = []
    for streamed in streams:
        pace = _pace(streamed)
        if isinstance(pace, Judgement):
            return pace
        found.append(pace)
    return found


def _pace(streamed: Streamed) -> Pace | Judgement:
    timed = chunks_of(streamed)
    if isinstance(timed, Judgement):
        return timed
    if problem := order_problem(timed):
        return failed(problem)
    first = told_by(timed).first_seconds
    timings = next(
        (one.chunk.timings for one in reversed(timed) if one.chunk.timings), None
    )
    if first is None:
        return failed("the stream holds no text")
    rate = _rate(timings)
    if timings is None or rate is None:
        return unmeasured("the stream holds no `timings` to tell its speed")
    return Pace(first, rate, timings.predicted_n)


def _story(number: int) -> Body:
    """A request for an answer of a fixed length; numbers make different prompts."""
    return chat_body(
        f"Tell me story {number}.",
        _TOKENS,
        ignore_eos=True,
        stream=True,
        stream_options={"include_usage": True},
        cache_prompt=False,
    )


def _rate(timings: Timings | None) -> float | None:
    """Tokens a second after the first one."""
    if timings is None or timings.predicted_ms <= 0 or timings.predicted_n < 1:
        return None
    return 1000 * timings.predicted_n / timings.predicted_ms
