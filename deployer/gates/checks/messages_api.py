"""Gate messages_api: /v1/messages works as Anthropic clients use it."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pydantic import ValidationError

from deployer.gates.checks.tools import knows_tools
from deployer.gates.harness.answers import (
    Answer,
    Judgement,
    Shape,
    Streamed,
    excerpt,
    failed,
    first_problem,
    passed,
    read,
)
from deployer.gates.harness.client import Client
from deployer.gates.harness.requests import (
    ASKED,
    PROMPT,
    RESULT,
    Body,
    call_problem,
    leak_in,
    messages_tools,
)
from deployer.gates.harness.sse import events_of
from deployer.gates.harness.target import Target
from deployer.stack.fields.gate_options import MessagesApi
from deployer.stack.fields.values import JsonValue

PATH = "/v1/messages"
_MAX_TOKENS = 128
_ORDER = "message_start (block_start block_delta* block_stop)+ message_delta stop"


@dataclass(frozen=True, slots=True)
class Measurement:
    """A plain answer, a streamed one, one with tools, one to a result, and a count."""

    props: Answer
    plain: Answer
    streamed: Streamed
    called: Answer
    result: Answer
    counted: Answer


class Block(Shape):
    """A piece of a message: text, thinking, or the use of a tool."""

    type: str
    text: str = ""
    id: str = ""
    name: str = ""
    input: dict[str, object] | None = None


class MessageUsage(Shape):
    """Tokens that a message took."""

    input_tokens: int
    output_tokens: int


class MessageAnswer(Shape):
    """The answer of /v1/messages."""

    type: str
    role: str
    content: tuple[Block, ...]
    stop_reason: str | None
    usage: MessageUsage


class BlockDelta(Shape):
    """A piece of a block."""

    type: str = ""
    text: str = ""


class StreamEvent(Shape):
    """One event of a streamed message."""

    type: str
    index: int | None = None
    delta: BlockDelta = BlockDelta()


class Count(Shape):
    """The answer of /v1/messages/count_tokens."""

    input_tokens: int


async def measure(
    client: Client, _parameters: MessagesApi, _target: Target
) -> Measurement:
    """Ask as a client does: plainly, streamed, with tools, with a result, to count."""
    question: JsonValue = {"role": "user", "content": ASKED}
    use: JsonValue = {
        "type": "tool_use",
        "id": "toolu_1",
        "name": "get_weather",
        "input": {"city": "Paris"},
    }
    result: JsonValue = {
        "type": "tool_result",
        "tool_use_id": "toolu_1",
        "content": RESULT,
    }
    history: list[JsonValue] = [
        question,
        {"role": "assistant", "content": [use]},
        {"role": "user", "content": [result]},
    ]
    plain: list[JsonValue] = [{"role": "user", "content": PROMPT}]
    tools = messages_tools()
    return Measurement(
        props=await client.get("/props"),
        plain=await client.post(PATH, _body(plain)),
        streamed=await client.stream(PATH, _body(plain, stream=True)),
        called=await client.post(PATH, _body([question], tools=tools)),
        result=await client.post(PATH, _body(history, tools=tools)),
        counted=await client.post(f"{PATH}/count_tokens", {"messages": plain}),
    )


def judge(
    measurement: Measurement, _parameters: MessagesApi, _target: Target
) -> Judgement:
    """Each of them has to be what a client can use."""
    for what, found in _problems(measurement):
        if isinstance(found, Judgement):
            return Judgement(found.outcome, f"{what}: {found.because}")
        if found:
            return failed(f"{what}: {found}")
    tools = "; its chat template knows no tools"
    if knows_tools(measurement.props):
        tools = ", with tools and their results"
    figures = {"answer_seconds": measurement.plain.seconds}
    return passed(f"answers plainly and streamed, counts tokens{tools}", **figures)


def _problems(measurement: Measurement) -> Iterator[tuple[str, str | Judgement]]:
    yield "plain", _text_problem(measurement.plain)
    yield "stream", _stream_problem(measurement.streamed)
    if knows_tools(measurement.props):
        yield "tools", _called_problem(measurement.called)
        yield "result", _text_problem(measurement.result)
    yield "count", _count_problem(measurement.counted)


def _text_problem(answer: Answer) -> str | Judgement:
    message = read(answer, MessageAnswer)
    if isinstance(message, Judgement):
        return message
    if (message.type, message.role) != ("message", "assistant"):
        said = excerpt(f"{message.type} of {message.role}")
        return f"the answer is a `{said}`, not a `message of assistant`"
    if message.stop_reason not in {"end_turn", "max_tokens", "stop_sequence"}:
        return f"`stop_reason` is `{excerpt(str(message.stop_reason))}`"
    if message.usage.output_tokens < 1:
        return f"`usage` counts {message.usage.output_tokens} tokens of the answer"
    text = "".join(block.text for block in message.content if block.type == "text")
    if leak := leak_in(text):
        return f"raw `{leak}` stands in the answer"
    return "" if text.strip() else "the answer is empty"


def _called_problem(answer: Answer) -> str | Judgement:
    message = read(answer, MessageAnswer)
    if isinstance(message, Judgement):
        return message
    uses = [block for block in message.content if block.type == "tool_use"]
    if not uses:
        text = "".join(block.text for block in message.content)
        return f"no tool is used, the answer is `{excerpt(text, 40) or 'nothing'}`"
    if message.stop_reason != "tool_use":
        return f"`stop_reason` is `{excerpt(str(message.stop_reason))}`, not `tool_use`"
    if not all(use.id for use in uses):
        return "a use has no id"
    problems = (call_problem(use.name, json.dumps(use.input)) for use in uses)
    return next(filter(None, problems), "")


def _stream_problem(streamed: Streamed) -> str | Judgement:
    events = events_of(streamed)
    if isinstance(events, Judgement):
        return events
    told = []
    for number, event in enumerate(events, start=1):
        try:
            one = StreamEvent.model_validate_json(event.data)
        except ValidationError as error:
            return f"event {number} does not fit: {first_problem(error)}"
        if one.type == "error":
            return f"event {number} is an error: {excerpt(event.data, 120)}"
        if event.name != one.type:
            name = excerpt(event.name)
            return f"event {number} is named `{name}`, its type `{one.type}`"
        told.append(one)
    told = [one for one in told if one.type != "ping"]
    if not _in_order(told):
        kinds = ", ".join(dict.fromkeys(one.type for one in told)) or "none"
        return f"the events are not in the order `{_ORDER}`: {excerpt(kinds, 120)}"
    text = "".join(one.delta.text for one in told)
    return "" if text.strip() else "the stream holds no text"


def _in_order(told: Sequence[StreamEvent]) -> bool:
    """Return whether a client that keeps one open block at a time can follow."""
    if [one.type for one in told[:1]] != ["message_start"]:
        return False
    if [one.type for one in told[-2:]] != ["message_delta", "message_stop"]:
        return False
    open_block: int | None = None
    blocks = 0
    for one in told[1:-2]:
        match one.type:
            case "content_block_start" if open_block is None and one.index == blocks:
                open_block, blocks = blocks, blocks + 1
            case "content_block_delta" if one.index is not None:
                if one.index != open_block:
                    return False
            case "content_block_stop" if one.index is not None:
                if one.index != open_block:
                    return False
                open_block = None
            case _:
                return False
    return open_block is None and blocks > 0


def _count_problem(answer: Answer) -> str | Judgement:
    count = read(answer, Count)
    if isinstance(count, Judgement):
        return count
    return "" if count.input_tokens > 0 else f"counts {count.input_tokens} tokens"


def _body(messages: list[JsonValue], **more: JsonValue) -> Body:
    return {
        "messages": messages,
        "max_tokens": _MAX_TOKENS,
        "temperature": 0,
        "chat_template_kwargs": {"enable_thinking": False},
        **more,
    }
