"""Gate stream: a streamed answer is well-formed events, and ends in `[DONE]`."""

import asyncio
from dataclasses import dataclass

from deployer.gates.harness.answers import (
    Event,
    Judgement,
    Streamed,
    excerpt,
    failed,
    passed,
    show_time,
)
from deployer.gates.harness.client import Client
from deployer.gates.harness.requests import PROMPT, chat_body
from deployer.gates.harness.sse import ChunkChoice, Timed, chunks_of
from deployer.gates.harness.target import Target
from deployer.stack.fields.gate_options import Stream
from deployer.stack.fields.values import seconds

_MAX_TOKENS = 32


@dataclass(frozen=True, slots=True)
class Measurement:
    """The stream as it came."""

    streamed: Streamed | None
    """None where nothing came within `ttft`: a server that hangs is not waited for."""


@dataclass(frozen=True, slots=True)
class Told:
    """What a stream told, put together."""

    text: str
    """Answer and thinking in the order in which they came."""
    first_seconds: float | None
    """When the first piece of text was there."""


async def measure(client: Client, parameters: Stream, _target: Target) -> Measurement:
    """Stream one greedy answer; hang up where nothing comes within `ttft`."""
    body = chat_body(
        PROMPT, _MAX_TOKENS, stream=True, stream_options={"include_usage": True}
    )
    limit = None if parameters.ttft is None else seconds(parameters.ttft)
    patience = asyncio.timeout(limit)

    def hear(_: Event) -> None:
        patience.reschedule(None)

    try:
        async with patience:
            streamed = await client.stream("/v1/chat/completions", body, hear)
    except TimeoutError:
        return Measurement(None)
    return Measurement(streamed)


def judge(measurement: Measurement, parameters: Stream, _target: Target) -> Judgement:
    """The frames, the order of the chunks, the text, and when it began."""
    streamed = measurement.streamed
    if streamed is None:
        limit = show_time(seconds(parameters.ttft))
        return failed(f"the first token took more than the {limit} of `ttft`")
    match chunks_of(streamed):
        case Judgement() as broken:
            return broken
        case timed:
            pass
    if problem := order_problem(timed):
        return failed(problem)
    told = told_by(timed)
    if told.first_seconds is None:
        return failed("the stream holds no text")
    figures = {
        "ttft_seconds": told.first_seconds,
        "stream_seconds": streamed.answer.seconds,
        "chunks": float(len(timed)),
    }
    took = show_time(told.first_seconds)
    if parameters.ttft is not None and told.first_seconds > seconds(parameters.ttft):
        limit = show_time(seconds(parameters.ttft))
        because = f"the first token took {took}, more than the {limit} of `ttft`"
        return failed(because, **figures)
    return passed(f"{len(timed)} chunks, the first token after {took}", **figures)


def order_problem(timed: tuple[Timed, ...]) -> str:
    """What breaks a client that puts the chunks together; empty when nothing does."""
    if len({one.chunk.id for one in timed}) > 1:
        return "the chunks carry different ids"
    choices = [choice for one in timed for choice in one.chunk.choices]
    if not choices:
        return "no chunk holds a choice"
    if choices[0].delta.role != "assistant":
        return f"the first delta has role `{choices[0].delta.role}`, not `assistant`"
    if others := sorted({choice.index for choice in choices} - {0}):
        return f"a choice has index {others[0]}, though one answer was asked for"
    return _end_problem(choices)


def _end_problem(choices: list[ChunkChoice]) -> str:
    reasons = [choice.finish_reason for choice in choices]
    ended = [reason for reason in reasons if reason is not None]
    if not ended:
        return "no chunk has a `finish_reason`"
    if len(ended) > 1 or reasons[-1] is None:
        return "deltas came after the `finish_reason`"
    if ended[0] not in {"stop", "length", "tool_calls"}:
        return f"`finish_reason` is `{excerpt(ended[0])}`"
    return ""


def told_by(timed: tuple[Timed, ...]) -> Told:
    """The text of the chunks, and when it began."""
    pieces = [
        (one.seconds, piece)
        for one in timed
        for choice in one.chunk.choices
        for piece in (choice.delta.reasoning_content, choice.delta.content)
        if piece
    ]
    text = "".join(piece for _, piece in pieces)
    begun = next((at for at, piece in pieces if piece.strip()), None)
    return Told(text, begun)
