"""The gate tools: tool calls arrive as a client expects them.

Upstream is known to fall short in three modes, on every build so far unless noted:
a named function is treated as `auto` (issue 26535), `none` leaves the tools in the
prompt so that a call comes back as raw text, and `required` is enforced only for some
templates, for Gemma 4 from a build between b11003 and b11218.  Without `modes` a build
is asked for what it enforces.  A stack that asks for more says with
`expect: known_limits` that it can live with these, and with nothing else.

`expect: whole_calls` is what `gates: auto` asks: a base model calls nothing, and the
server is as good as any.  What comes has to be whole, and what does not come is
inconclusive, blocks nothing, and is reported as not proven.
"""

import json
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeVar

from pydantic import ValidationError

from deployer.gates.harness.answers import (
    ASKED,
    ASKED_BOTH,
    CHAT,
    PARAMETERS,
    PROMPT,
    RESULT,
    Answer,
    Body,
    Broken,
    Choice,
    Event,
    Judgement,
    Shape,
    Streamed,
    ToolCallDelta,
    build_stated,
    call_problem,
    chat_body,
    chat_tools,
    events_of,
    excerpt,
    fail,
    failed,
    first_choice,
    first_problem,
    inapplicable,
    leak_in,
    messages_tools,
    ordered_chunks,
    passed,
    read,
    responses_tools,
    unclear,
    within,
)
from deployer.gates.harness.client import Client
from deployer.gates.harness.gate import Gate, O, Subject
from deployer.stack.fields import gate_options as asked
from deployer.stack.fields.values import JsonValue

_MAX_TOKENS, _CHEAP_TOKENS = 256, 64
"""Longest answers; the second one where no call has to come."""
_NAMED: Final = "add_numbers"
"""Another tool than the question asks for: `auto` would not call it."""
_ACCEPTS: Final = (
    "`expect: known_limits` accepts it: what upstream is known not to enforce"
)
_ENFORCES_REQUIRED: Final = 11218
_LIMITS: Final = {
    "required": "upstream enforces `required` for some templates only, for Gemma 4 "
    "from b11218 at the latest",
    "named": "upstream treats a named function as `auto` (issue 26535)",
    "none": "upstream leaves the tools in the prompt with `none`",
}


@dataclass(frozen=True, slots=True)
class Calls:
    """An answer for each mode, a streamed one, and one with a result of a tool."""

    props: Answer
    runs: tuple[tuple[str, Answer], ...] = ()
    """`tool_choice`, and the answer to it."""
    streamed: Streamed | None = None
    result: Answer | None = None
    parallel: Answer | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """Something a client would stumble over."""

    where: str
    what: str
    known: bool = False
    """It is a limit that upstream is known to have."""
    absent: bool = False
    """No call came, or it was cut: the model may have done that, not the server."""

    def __str__(self) -> str:
        reason = f" ({_LIMITS[self.where]})" if self.known else ""
        return f"{self.where}: {self.what}{reason}"


class Absent(Broken):
    """No call, or one that was cut."""


class Capabilities(Shape):
    """Abilities of the chat template, by llama-server."""

    supports_tools: bool = True


class TemplateProps(Shape):
    """The part of /props that describes the chat template."""

    chat_template_caps: Capabilities = Capabilities()


class Tools(Gate[asked.Tools, Calls]):
    """Everything found counts, but for what the stack says it can live with."""

    subject, limit = Subject.ANSWERS, 600

    async def measure(self, client: Client) -> Calls:
        """Offer two tools in each mode, stream once, and hand a result back."""
        props = await client.get("/props")
        if not knows_tools(props):
            return Calls(props)
        modes = self._modes(props)
        bodies = {mode: {**_body(mode), "max_tokens": self._most} for mode in modes}
        runs = [(mode, await client.post(CHAT, body)) for mode, body in bodies.items()]
        streamed = result = parallel = None
        if self._is_cheap and any(
            it.absent for it in _findings(Calls(props, (*runs,)))
        ):
            return Calls(props, tuple(runs))  # a stream of the same shows no more
        if "auto" in modes or self._is_cheap:
            body = bodies["auto" if "auto" in modes else modes[-1]]
            streamed = await client.stream(CHAT, {**body, "stream": True})
        if self._is_cheap:
            return Calls(props, tuple(runs), streamed)
        if self.options.roundtrip:
            result = await client.post(CHAT, _result_body())
        if self.options.parallel:
            parallel = await client.post(CHAT, _parallel_body())
        return Calls(props, tuple(runs), streamed, result, parallel)

    def judge(self, measured: Calls) -> Judgement:
        """Judge every call as a client would read it."""
        if not knows_tools(measured.props):
            return inapplicable(
                "the chat template of this model knows no tools, as "
                "`chat_template_caps` of /props say; leave the gate out"
            )
        if not (measured.runs or measured.result or measured.parallel):
            return unclear("no mode is asked for")
        findings = list(_findings(measured))
        absent = [one for one in findings if one.absent]
        if self._is_cheap and absent and len(absent) == len(findings):
            because = (
                f"{'; '.join(map(str, absent))}: what a call would be is not proven"
            )
            return replace(unclear(because), waived=True)
        lenient = self.options.expect == "known_limits"
        if wrong := [one for one in findings if not (lenient and one.known)]:
            known = all(one.known for one in wrong)
            hint = f"; {_ACCEPTS}" if known else ""
            return failed(f"{'; '.join(map(str, wrong))}{hint}")
        tried = ", ".join(mode for mode, _ in measured.runs)
        accepted = f"; accepted: {'; '.join(map(str, findings))}" if findings else ""
        also = ", two calls came at once" if measured.parallel is not None else ""
        also += " and a result was answered" if measured.result is not None else ""
        return passed(f"calls are as a client expects them ({tried}){also}{accepted}")

    def _modes(self, props: Answer) -> tuple[str, ...]:
        """The modes to try: unless they are stated, what the build enforces.

        `none` is enforced by no build so far, `required` for every template from the
        first build that was seen to.  No source shows that, so the number decides: as
        the server states it, else that of the stack.
        """
        if self.options.modes is not None:
            return self.options.modes
        build = build_stated(props) or self.target.build or 0
        if build < _ENFORCES_REQUIRED:
            return ("auto",)
        return ("required",) if self._is_cheap else ("auto", "required")

    @property
    def _is_cheap(self) -> bool:
        """Only calls that come are judged: nothing is asked but for one."""
        return self.options.expect == "whole_calls"

    @property
    def _most(self) -> int:
        return _CHEAP_TOKENS if self._is_cheap else _MAX_TOKENS


def knows_tools(answer: Answer) -> bool:
    """Return whether the chat template knows tools; it does unless /props denies it."""
    try:
        return read(answer, TemplateProps).chat_template_caps.supports_tools
    except Broken:
        return True


def _findings(measured: Calls) -> Iterator[Finding]:
    for mode, answer in measured.runs:
        try:
            choice = first_choice(answer)
        except Broken as broken:
            # A call that the parser cannot read is how `required` shows its limit.
            known = mode == "required" and "format" in str(broken)
            yield Finding(mode, str(broken), known=known)
        else:
            if mode == "none":
                yield from _not_called(choice)
            else:
                yield from _called(mode, choice)
    try:
        if measured.streamed is not None:
            _check_stream(measured.streamed)
    except Absent as broken:
        yield Finding("stream", str(broken), absent=True)
    except Broken as broken:
        yield Finding("stream", str(broken))
    try:
        if measured.result is not None:
            _check_result(measured.result)
    except Broken as broken:
        yield Finding("result", str(broken))
    if measured.parallel is not None:
        yield from _called_together(measured.parallel)


def _not_called(choice: Choice) -> Iterator[Finding]:
    message = choice.message
    if message.tool_calls:
        yield Finding("none", f"`{message.tool_calls[0].function.name}` is called")
    elif leak := leak_in(message.content):
        yield Finding("none", f"raw `{leak}` stands in the answer", known=True)
    elif not (message.content or "").strip():
        yield Finding("none", "the answer is empty")


def _called(mode: str, choice: Choice) -> Iterator[Finding]:
    calls, is_cut = choice.message.tool_calls, choice.finish_reason == "length"
    if leak := leak_in(choice.message.content):
        yield Finding(mode, f"raw `{leak}` stands in the answer", absent=is_cut)
        return
    if not calls:
        said = excerpt(choice.message.content or "", 40) or "nothing"
        what = f"no tool is called, the answer is `{said}`"
        yield Finding(mode, what, mode in _LIMITS, absent=is_cut or mode == "auto")
        return
    for call in calls:
        if problem := call_problem(call.function.name, call.function.arguments):
            yield Finding(mode, problem)
        elif mode == "named" and call.function.name != _NAMED:
            other = f"`{call.function.name}` is called instead of `{_NAMED}`"
            yield Finding(mode, other, known=True)
        if not call.id:
            yield Finding(mode, "a call has no id")
    if len({call.id for call in calls}) < len(calls):
        yield Finding(mode, "two calls have the same id")
    if choice.finish_reason != "tool_calls":
        reason = excerpt(str(choice.finish_reason))
        yield Finding(mode, f"`finish_reason` is `{reason}`, not `tool_calls`")


def _called_together(answer: Answer) -> Iterator[Finding]:
    """Yield the faults of the answer that should contain a call of each tool."""
    try:
        choice = first_choice(answer)
    except Broken as broken:
        yield Finding("parallel", str(broken))
        return
    yield from _called("parallel", choice)
    called = {call.function.name for call in choice.message.tool_calls}
    if called and (missing := sorted(PARAMETERS.keys() - called)):
        yield Finding("parallel", f"`{missing[0]}` is not called in the same answer")


def _check_stream(streamed: Streamed) -> None:
    """Raise Broken unless a client can put the streamed call together."""
    timed = ordered_chunks(streamed)
    choices = [choice for one in timed for choice in one.chunk.choices]
    is_cut = bool(choices) and choices[-1].finish_reason == "length"
    if leak := leak_in("".join(choice.delta.content or "" for choice in choices)):
        because = f"raw `{leak}` stands in the answer"
        raise (Absent if is_cut else Broken)(failed(because))
    pieces = [piece for choice in choices for piece in choice.delta.tool_calls]
    if not pieces:
        raise Absent(failed("no tool is called"))
    if choices[-1].finish_reason != "tool_calls":
        fail(f"`finish_reason` is `{choices[-1].finish_reason}`, not `tool_calls`")
    numbers = list(dict.fromkeys(piece.index for piece in pieces))
    if numbers != list(range(len(numbers))):
        fail(f"the calls have the indices {numbers}")
    for number in numbers:
        _check_pieces(number, [piece for piece in pieces if piece.index == number])


def _check_pieces(number: int, pieces: Sequence[ToolCallDelta]) -> None:
    """Require id and name of a call on its first piece, and on no other."""
    first, *more = pieces
    if not first.id or not first.function.name:
        fail(f"the first piece of call {number} has no id or no name")
    if any(piece.id not in {None, "", first.id} for piece in more):
        fail(f"the id of call {number} changes")
    if any(piece.function.name for piece in more):
        fail(f"the name of call {number} comes twice")
    arguments = "".join(piece.function.arguments or "" for piece in pieces)
    if problem := call_problem(first.function.name, arguments):
        fail(problem)


def _check_result(answer: Answer) -> None:
    """Raise Broken unless the result of a tool is answered with text."""
    message = first_choice(answer).message
    if leak := leak_in(message.content):
        fail(f"raw `{leak}` stands in the answer")
    if message.tool_calls:
        fail("the tool is called again instead of an answer")
    if not (message.content or "").strip():
        fail("no answer follows the result of a tool")


def _body(mode: str) -> Body:
    choices: dict[str, JsonValue] = {
        "named": {"type": "function", "function": {"name": _NAMED}}
    }
    # What needs no tool shows best whether one can be demanded.
    prompt = "Say hello." if mode == "required" else ASKED
    return chat_body(
        prompt, _MAX_TOKENS, tools=chat_tools(), tool_choice=choices.get(mode, mode)
    )


def _parallel_body() -> Body:
    return chat_body(
        ASKED_BOTH,
        _MAX_TOKENS,
        tools=chat_tools(),
        tool_choice="auto",
        parallel_tool_calls=True,
    )


def _result_body() -> Body:
    call: JsonValue = {
        "id": "call_1",
        "type": "function",
        "function": {"name": "get_weather", "arguments": '{"city":"Paris"}'},
    }
    messages: list[JsonValue] = [
        {"role": "user", "content": ASKED},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": RESULT},
    ]
    return chat_body("", _MAX_TOKENS, tools=chat_tools(), messages=messages)


RESPONSES: Final = "/v1/responses"
MESSAGES: Final = "/v1/messages"
_MAX_OUTPUT_TOKENS: Final = 128
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
                "max_output_tokens": _MAX_OUTPUT_TOKENS,
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
                "max_tokens": _MAX_OUTPUT_TOKENS,
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
