"""Gate speed: time to the first token and tokens a second; always recorded.

The token rates are llama-server's own (`timings`), the time to the first token is the
client's, network included.  All are those of one stream on an idle, warm server.
"""

from dataclasses import dataclass

from deployer.core.gate_options import Speed
from deployer.core.units import seconds
from deployer.gates.answers import (
    Answer,
    Judgement,
    Streamed,
    failed,
    passed,
    show_time,
    unmeasured,
)
from deployer.gates.asking import chat_body
from deployer.gates.client import Client
from deployer.gates.shapes import Completion, Timings, read
from deployer.gates.sse import chunks_of
from deployer.gates.stream import order_problem, told_by
from deployer.gates.target import Target

_WARM_TOKENS = 8
_TOKENS = 128
_LONG = "The quick brown fox jumps over the lazy dog. " * 40
_RUNS = 3
"""Streams measured; the fastest counts, for what slows a server down is chance."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """Streams of a short prompt, and an answer to a long one."""

    streams: tuple[Streamed, ...]
    long: Answer


@dataclass(frozen=True, slots=True)
class Pace:
    """What one stream shows."""

    first_seconds: float
    per_second: float


async def measure(client: Client, _parameters: Speed, _target: Target) -> Measurement:
    """Warm up, then stream answers of a fixed length, then read a long prompt."""
    warm = chat_body("Hello", _WARM_TOKENS, ignore_eos=True)
    await client.post("/v1/chat/completions", warm)
    body = chat_body(
        "Tell me a story.",
        _TOKENS,
        ignore_eos=True,
        stream=True,
        stream_options={"include_usage": True},
        cache_prompt=False,
    )
    streams = [await client.stream("/v1/chat/completions", body) for _ in range(_RUNS)]
    long = chat_body(_LONG, 1, cache_prompt=False)
    return Measurement(tuple(streams), await client.post("/v1/chat/completions", long))


def judge(measurement: Measurement, parameters: Speed, _target: Target) -> Judgement:
    """The limits of the stack have to be kept; the numbers have to be there anyway."""
    paces = []
    for streamed in measurement.streams:
        pace = _pace(streamed)
        if isinstance(pace, Judgement):
            return pace
        paces.append(pace)
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
    }
    shown = f"first token after {show_time(first)}, {rate:.1f} tokens/s"
    if problem := _too_slow(parameters, first, rate):
        return failed(problem, **figures)
    return passed(f"{shown}, prompt {read_rate:.0f} tokens/s", **figures)


def _too_slow(parameters: Speed, first: float, rate: float) -> str:
    if parameters.ttft is not None and first > seconds(parameters.ttft):
        limit = show_time(seconds(parameters.ttft))
        return f"the first token took {show_time(first)}, more than `ttft: {limit}`"
    least = parameters.tokens_per_second
    if least is not None and rate < least:
        return f"{rate:.1f} tokens/s, less than `tokens_per_second: {least:g}`"
    return ""


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
    if rate is None:
        return unmeasured("the stream holds no `timings` to tell its speed")
    return Pace(first, rate)


def _rate(timings: Timings | None) -> float | None:
    """Tokens a second after the first one."""
    if timings is None or timings.predicted_ms <= 0 or timings.predicted_n < 1:
        return None
    return 1000 * timings.predicted_n / timings.predicted_ms
