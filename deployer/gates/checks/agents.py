"""The gates responses_api and messages_api: the routes that agents use."""

import json
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from pydantic import ValidationError

from deployer.gates.checks.tools import knows_tools
from deployer.gates.harness.answers import (
    Answer,
    Event,
    Judgement,
    Shape,
    Streamed,
    events_of,
    excerpt,
    fail,
    first_problem,
    passed,
    read,
    within,
)
from deployer.gates.harness.client import Client
from deployer.gates.harness.gate import Gate, O, Subject
from deployer.gates.harness.requests import (
    ASKED,
    PROMPT,
    RESULT,
    Body,
    call_problem,
    leak_in,
    messages_tools,
    responses_tools,
)
from deployer.stack.fields import gate_options as asked
from deployer.stack.fields.values import JsonValue

RESPONSES: Final = "/v1/responses"
MESSAGES: Final = "/v1/messages"
_MAX_TOKENS: Final = 128
S = TypeVar("S", bound=Shape)


@dataclass(frozen=True, slots=True)
class AgentAnswers:
    """A plain answer, a streamed one, one with tools, one to a result, and a count."""

    props: Answer
    plain: Answer
    streamed: Streamed
    called: Answer
    result: Answer
    counted: Answer | None = None


class Count(Shape):
    """The answer of /v1/messages/count_tokens."""

    input_tokens: int


class AgentGate(Gate[O, AgentAnswers]):
    """Each answer has to be one that a client can use."""

    subject, limit = Subject.ANSWERS, 300

    def judge(self, measured: AgentAnswers) -> Judgement:
        """Judge the answers one after the other."""
        with within("plain"):
            self._check_answer(measured.plain)
        with within("stream"):
            self._check_stream(measured.streamed)
        tools = "; its chat template knows no tools"
        if knows_tools(measured.props):
            tools = ", with tools and their results"
            with within("tools"):
                self._check_called(measured.called)
            with within("result"):
                self._check_answer(measured.result)
        counts = ""
        if measured.counted is not None:
            counts = ", counts tokens"
            with within("count"):
                count = read(measured.counted, Count).input_tokens
                if count < 1:
                    fail(f"counts {count} tokens")
        said = f"answers plainly and streamed{counts}{tools}"
        return passed(said, answer_seconds=measured.plain.seconds)

    @abstractmethod
    def _check_answer(self, answer: Answer) -> None:
        """Raise Broken unless it is an answer with text."""

    @abstractmethod
    def _check_called(self, answer: Answer) -> None:
        """Raise Broken unless tools are called in order."""

    @abstractmethod
    def _check_stream(self, streamed: Streamed) -> None:
        """Raise Broken unless the events are those of a whole answer with text."""


def _parsed(number: int, event: Event, shape: type[S]) -> S:
    try:
        return shape.model_validate_json(event.data)
    except ValidationError as error:
        fail(f"event {number} does not fit: {first_problem(error)}")


def _named(number: int, event: Event, kind: str) -> None:
    """Require that an event is named by its type."""
    if event.name != kind:
        fail(f"event {number} is named `{excerpt(event.name)}`, its type `{kind}`")


def _check_text(text: str) -> None:
    if leak := leak_in(text):
        fail(f"raw `{leak}` stands in the answer")
    if not text.strip():
        fail("the answer is empty")


def _check_calls(calls: Sequence[tuple[str, str]]) -> None:
    """Raise Broken at the first call, by name and arguments, that cannot be made."""
    for name, arguments in calls:
        if problem := call_problem(name, arguments):
            fail(problem)


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

    @property
    def text(self) -> str:
        """The text of all messages."""
        return "".join(
            part.text
            for item in self.output
            if item.type == "message"
            for part in item.content or ()
            if part.type == "output_text"
        )


class ResponseEvent(Shape):
    """One event of a streamed response."""

    type: str
    delta: str = ""
    response: dict[str, object] | None = None


class ResponsesApi(AgentGate[asked.ResponsesApi]):
    """Items and events of OpenAI, as a client puts them together."""

    async def measure(self, client: Client) -> AgentAnswers:
        """Ask as an agent does: plainly, streamed, with tools, and with a result."""
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
        history: list[JsonValue] = [{"role": "user", "content": ASKED}, call, output]

        def body(asking: JsonValue, **more: JsonValue) -> Body:
            return {
                "input": asking,
                "max_output_tokens": _MAX_TOKENS,
                "temperature": 0,
                "chat_template_kwargs": {"enable_thinking": False},
                **more,
            }

        tools: Body = {"tools": responses_tools()}
        return AgentAnswers(
            props=await client.get("/props"),
            plain=await client.post(RESPONSES, body(PROMPT)),
            streamed=await client.stream(RESPONSES, body(PROMPT, stream=True)),
            called=await client.post(RESPONSES, body(ASKED, **tools)),
            result=await client.post(RESPONSES, body(history, **tools)),
        )

    def _check_answer(self, answer: Answer) -> None:
        response = read(answer, Response)
        if response.status != "completed":
            fail(f"the status is `{excerpt(response.status)}`, not `completed`")
        _check_text(response.text)

    def _check_called(self, answer: Answer) -> None:
        response = read(answer, Response)
        calls = [item for item in response.output if item.type == "function_call"]
        if not calls:
            said = excerpt(response.text, 40) or "nothing"
            fail(f"no function is called, the answer is `{said}`")
        if not all(call.call_id for call in calls):
            fail("a call has no `call_id`")
        _check_calls([(call.name, call.arguments) for call in calls])

    def _check_stream(self, streamed: Streamed) -> None:
        events = []
        for number, event in enumerate(events_of(streamed), start=1):
            one = _parsed(number, event, ResponseEvent)
            if one.type in {"error", "response.failed", "response.incomplete"}:
                fail(f"event {number} is `{one.type}`: {excerpt(event.data, 120)}")
            _named(number, event, one.type)
            events.append(one)
        if not events or events[0].type != "response.created":
            fail("the first event is not `response.created`")
        last = events[-1]
        if last.type != "response.completed":
            kind = excerpt(last.type)
            fail(f"the last event is `{kind}`, not `response.completed`")
        text = "".join(
            e.delta for e in events if e.type == "response.output_text.delta"
        )
        try:
            whole = Response.model_validate(last.response or {}, strict=False)
        except ValidationError as error:
            fail(f"`response.completed` does not fit: {first_problem(error)}")
        if not text.strip():
            fail("the stream contains no text")
        if text != whole.text:
            fail("the text of the deltas is not that of `response.completed`")


_ORDER: Final = (
    "message_start (block_start block_delta* block_stop)+ message_delta stop"
)


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


class MessageEvent(Shape):
    """One event of a streamed message."""

    type: str
    index: int | None = None
    delta: BlockDelta = BlockDelta()


class MessagesApi(AgentGate[asked.MessagesApi]):
    """Blocks and events of Anthropic, as a client puts them together."""

    async def measure(self, client: Client) -> AgentAnswers:
        """Ask as a client does: plainly, streamed, with tools, a result, to count."""
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

        def body(messages: list[JsonValue], **more: JsonValue) -> Body:
            return {
                "messages": messages,
                "max_tokens": _MAX_TOKENS,
                "temperature": 0,
                "chat_template_kwargs": {"enable_thinking": False},
                **more,
            }

        tools: Body = {"tools": messages_tools()}
        return AgentAnswers(
            props=await client.get("/props"),
            plain=await client.post(MESSAGES, body(plain)),
            streamed=await client.stream(MESSAGES, body(plain, stream=True)),
            called=await client.post(MESSAGES, body([question], **tools)),
            result=await client.post(MESSAGES, body(history, **tools)),
            counted=await client.post(f"{MESSAGES}/count_tokens", {"messages": plain}),
        )

    def _check_answer(self, answer: Answer) -> None:
        message = read(answer, MessageAnswer)
        if (message.type, message.role) != ("message", "assistant"):
            said = excerpt(f"{message.type} of {message.role}")
            fail(f"the answer is a `{said}`, not a `message of assistant`")
        if message.stop_reason not in {"end_turn", "max_tokens", "stop_sequence"}:
            fail(f"`stop_reason` is `{excerpt(str(message.stop_reason))}`")
        if message.usage.output_tokens < 1:
            fail(f"`usage` counts {message.usage.output_tokens} tokens of the answer")
        _check_text("".join(b.text for b in message.content if b.type == "text"))

    def _check_called(self, answer: Answer) -> None:
        message = read(answer, MessageAnswer)
        uses = [block for block in message.content if block.type == "tool_use"]
        if not uses:
            text = "".join(block.text for block in message.content)
            said = excerpt(text, 40) or "nothing"
            fail(f"no tool is used, the answer is `{said}`")
        if message.stop_reason != "tool_use":
            reason = excerpt(str(message.stop_reason))
            fail(f"`stop_reason` is `{reason}`, not `tool_use`")
        if not all(use.id for use in uses):
            fail("a use has no id")
        _check_calls([(use.name, json.dumps(use.input)) for use in uses])

    def _check_stream(self, streamed: Streamed) -> None:
        events = []
        for number, event in enumerate(events_of(streamed), start=1):
            one = _parsed(number, event, MessageEvent)
            if one.type == "error":
                fail(f"event {number} is an error: {excerpt(event.data, 120)}")
            _named(number, event, one.type)
            if one.type != "ping":
                events.append(one)
        if not _in_order(events):
            kinds = ", ".join(dict.fromkeys(one.type for one in events)) or "none"
            shown = excerpt(kinds, 120)
            fail(f"the events are not in the order `{_ORDER}`: {shown}")
        if not "".join(one.delta.text for one in events).strip():
            fail("the stream contains no text")


def _in_order(events: Sequence[MessageEvent]) -> bool:
    """Return whether a client that keeps one open block at a time can follow."""
    if [one.type for one in events[:1]] != ["message_start"]:
        return False
    if [one.type for one in events[-2:]] != ["message_delta", "message_stop"]:
        return False
    open_block: int | None = None
    blocks = 0
    for one in events[1:-2]:
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
