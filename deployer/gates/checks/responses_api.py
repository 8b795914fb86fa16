"""Gate responses_api: /v1/responses works as IDE agents use it."""

from collections.abc import Iterator
from dataclasses import dataclass

from pydantic import ValidationError

from deployer.gates.checks.tools import knows_tools
from deployer.gates.harness.answers import (
    Answer,
    Event,
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
    responses_tools,
)
from deployer.gates.harness.sse import events_of
from deployer.gates.harness.target import Target
from deployer.stack.fields.gate_options import ResponsesApi
from deployer.stack.fields.values import JsonValue

PATH = "/v1/responses"
_MAX_TOKENS = 128


@dataclass(frozen=True, slots=True)
class Measurement:
    """A plain answer, a streamed one, one with tools, and one to a result."""

    props: Answer
    plain: Answer
    streamed: Streamed
    called: Answer
    result: Answer


class Part(Shape):
    """A piece of a message."""

    type: str
    text: str = ""


class Item(Shape):
    """A message, a call, or reasoning."""

    type: str
    content: tuple[Part, ...] | None = None
    call_id: str = ""
    name: str = ""
    arguments: str = ""


class Response(Shape):
    """The answer of /v1/responses."""

    status: str
    output: tuple[Item, ...]


class StreamEvent(Shape):
    """One event of a streamed response."""

    type: str
    delta: str = ""
    response: dict[str, object] | None = None


async def measure(
    client: Client, _parameters: ResponsesApi, _target: Target
) -> Measurement:
    """Ask as an agent does: plainly, streamed, with tools, and with a result."""
    user: JsonValue = {"role": "user", "content": ASKED}
    call: JsonValue = {
        "type": "function_call",
        "call_id": "call_1",
        "name": "get_weather",
        "arguments": '{"city":"Paris"}',
    }
    output: JsonValue = {
        "type": "function_call_output",
        "call_id": "call_1",
        "output": RESULT,
    }
    return Measurement(
        props=await client.get("/props"),
        plain=await client.post(PATH, _body(PROMPT)),
        streamed=await client.stream(PATH, _body(PROMPT, stream=True)),
        called=await client.post(PATH, _body(ASKED, tools=responses_tools())),
        result=await client.post(
            PATH, _body([user, call, output], tools=responses_tools())
        ),
    )


def judge(
    measurement: Measurement, _parameters: ResponsesApi, _target: Target
) -> Judgement:
    """Each of the four has to be what a client can use."""
    for what, found in _problems(measurement):
        if isinstance(found, Judgement):
            return Judgement(found.outcome, f"{what}: {found.because}")
        if found:
            return failed(f"{what}: {found}")
    tools = "; its chat template knows no tools"
    if knows_tools(measurement.props):
        tools = ", with tools and their results"
    figures = {"answer_seconds": measurement.plain.seconds}
    return passed(f"answers plainly and streamed{tools}", **figures)


def _problems(measurement: Measurement) -> Iterator[tuple[str, str | Judgement]]:
    yield "plain", _text_problem(measurement.plain)
    yield "stream", _stream_problem(measurement.streamed)
    if knows_tools(measurement.props):
        yield "tools", _called_problem(measurement.called)
        yield "result", _text_problem(measurement.result)


def _text_problem(answer: Answer) -> str | Judgement:
    response = read(answer, Response)
    if isinstance(response, Judgement):
        return response
    if response.status != "completed":
        return f"the status is `{excerpt(response.status)}`, not `completed`"
    text = _text_of(response)
    if leak := leak_in(text):
        return f"raw `{leak}` stands in the answer"
    return "" if text.strip() else "the answer is empty"


def _called_problem(answer: Answer) -> str | Judgement:
    response = read(answer, Response)
    if isinstance(response, Judgement):
        return response
    calls = [item for item in response.output if item.type == "function_call"]
    if not calls:
        said = excerpt(_text_of(response), 40) or "nothing"
        return f"no function is called, the answer is `{said}`"
    if not all(call.call_id for call in calls):
        return "a call has no `call_id`"
    problems = (call_problem(call.name, call.arguments) for call in calls)
    return next(filter(None, problems), "")


def _stream_problem(streamed: Streamed) -> str | Judgement:
    events = events_of(streamed)
    if isinstance(events, Judgement):
        return events
    read_events = []
    for number, event in enumerate(events, start=1):
        try:
            one = StreamEvent.model_validate_json(event.data)
        except ValidationError as error:
            return f"event {number} does not fit: {first_problem(error)}"
        if problem := _event_problem(number, event, one):
            return problem
        read_events.append(one)
    if not read_events or read_events[0].type != "response.created":
        return "the first event is not `response.created`"
    last = read_events[-1]
    if last.type != "response.completed":
        return f"the last event is `{excerpt(last.type)}`, not `response.completed`"
    told = "".join(
        one.delta for one in read_events if one.type == "response.output_text.delta"
    )
    return _end_problem(last, told)


def _event_problem(number: int, event: Event, one: StreamEvent) -> str:
    if one.type in {"error", "response.failed", "response.incomplete"}:
        return f"event {number} is `{one.type}`: {excerpt(event.data, 120)}"
    if event.name != one.type:
        return f"event {number} is named `{excerpt(event.name)}`, its type `{one.type}`"
    return ""


def _end_problem(last: StreamEvent, told: str) -> str:
    try:
        whole = Response.model_validate(last.response or {}, strict=False)
    except ValidationError as error:
        return f"`response.completed` does not fit: {first_problem(error)}"
    if not told.strip():
        return "the stream holds no text"
    if told != _text_of(whole):
        return "the text of the deltas is not that of `response.completed`"
    return ""


def _text_of(response: Response) -> str:
    return "".join(
        part.text
        for item in response.output
        if item.type == "message"
        for part in item.content or ()
        if part.type == "output_text"
    )


def _body(asked: JsonValue, **more: JsonValue) -> Body:
    return {
        "input": asked,
        "max_output_tokens": _MAX_TOKENS,
        "temperature": 0,
        "chat_template_kwargs": {"enable_thinking": False},
        **more,
    }
