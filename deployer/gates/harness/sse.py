"""Server-sent events, read strictly: what a tolerant client would skip is a finding."""

import re
from dataclasses import dataclass

from pydantic import ValidationError

from deployer.gates.harness.answers import (
    Event,
    Judgement,
    Shape,
    Streamed,
    Timings,
    Usage,
    error_message,
    excerpt,
    failed,
    first_problem,
    is_web_page,
    refused,
    unmeasured,
)

DONE = "[DONE]"
_FIELD = re.compile(r"(?:data|event|id|retry)(?::|$)|:")
_LINE_END = re.compile(r"\r\n|\n|\r")


class CalledDelta(Shape):
    """A piece of the function of a tool call."""

    name: str | None = None
    arguments: str | None = None


class ToolCallDelta(Shape):
    """A piece of a tool call."""

    index: int
    id: str | None = None
    type: str | None = None
    function: CalledDelta = CalledDelta()


class Delta(Shape):
    """A piece of a message."""

    role: str | None = None
    content: str | None = None
    reasoning_content: str | None = None
    tool_calls: tuple[ToolCallDelta, ...] = ()


class ChunkChoice(Shape):
    """A piece of one of the answers."""

    index: int
    delta: Delta
    finish_reason: str | None = None


class Chunk(Shape):
    """One event of a streamed chat completion."""

    id: str
    choices: tuple[ChunkChoice, ...]
    usage: Usage | None = None
    timings: Timings | None = None


@dataclass(frozen=True, slots=True)
class Timed:
    """A chunk, and when it came."""

    chunk: Chunk
    seconds: float


def events_of(streamed: Streamed) -> tuple[Event, ...] | Judgement:
    """The events, or why they are not a well-formed stream that ended in order."""
    answer = streamed.answer
    if answer.status != 200:
        return refused(answer)
    if answer.media_type != "text/event-stream":
        kind = "a web page" if is_web_page(answer) else f"`{answer.content_type}`"
        return failed(f"the stream is {kind} instead of `text/event-stream`")
    if streamed.broke:
        count = len(streamed.events)
        return unmeasured(
            f"the stream broke off after {count} events: {streamed.broke}"
        )
    if problem := _framing_problem(answer.body):
        return failed(problem)
    return streamed.events


def chunks_of(streamed: Streamed) -> tuple[Timed, ...] | Judgement:
    """The chunks of a chat stream, which has to end in `[DONE]`."""
    match events_of(streamed):
        case Judgement() as broken:
            return broken
        case events:
            pass
    found: list[Timed] = []
    for number, event in enumerate(events, start=1):
        if event.data == DONE:
            if number != len(events):
                return failed(f"{len(events) - number} events came after `{DONE}`")
            return tuple(found)
        try:
            chunk = Chunk.model_validate_json(event.data)
        except ValidationError as error:
            return _bad_chunk(number, event, error)
        found.append(Timed(chunk, event.seconds))
    return failed(f"the stream ended without `{DONE}` after {len(events)} events")


def _bad_chunk(number: int, event: Event, error: ValidationError) -> Judgement:
    if message := error_message(event.data):
        return failed(f"event {number} is an error: {message}")
    if error.errors(include_url=False, include_input=False)[0]["type"] == (
        "json_invalid"
    ):
        return failed(f"event {number} is not JSON: `{excerpt(event.data)}`")
    return failed(f"event {number} does not fit: {first_problem(error)}")


def _framing_problem(raw: bytes) -> str:
    """Return what is wrong with the bytes, though a tolerant parser may not mind."""
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        return f"the stream is not UTF-8 at byte {error.start}"
    if not text:
        return "the stream is empty"
    lines = _LINE_END.split(text)
    for number, line in enumerate(lines, start=1):
        if line and not _FIELD.match(line):
            return f"line {number} of the stream is no event: `{excerpt(line)}`"
    if lines[-1] or (len(lines) > 1 and lines[-2]):
        return f"the stream ended inside an event: `{excerpt(text[-80:])}`"
    return ""
