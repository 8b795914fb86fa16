"""The gate tools: tool calls arrive as a client expects them.

Upstream is known to fall short in three modes, on every build so far unless noted:
a named function is treated as `auto` (issue 26535), `none` leaves the tools in the
prompt so that a call comes back as raw text, and `required` is enforced only for some
templates, for Gemma 4 from a build between b11003 and b11218.  A stack says with
`expect: known_limits` that it can live with these, and with nothing else.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from deployer.gates.harness.answers import (
    Answer,
    Broken,
    Choice,
    Judgement,
    Shape,
    Streamed,
    ToolCallDelta,
    excerpt,
    fail,
    failed,
    first_choice,
    inapplicable,
    ordered_chunks,
    passed,
    read,
    unclear,
)
from deployer.gates.harness.client import Client
from deployer.gates.harness.gate import Gate, Subject
from deployer.gates.harness.requests import (
    ASKED,
    ASKED_BOTH,
    CHAT,
    PARAMETERS,
    RESULT,
    Body,
    call_problem,
    chat_body,
    chat_tools,
    leak_in,
)
from deployer.stack.fields import gate_options as asked
from deployer.stack.fields.values import JsonValue

_MAX_TOKENS: Final = 256
_NAMED: Final = "add_numbers"
"""Another tool than the question asks for: `auto` would not call it."""
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

    def __str__(self) -> str:
        reason = f" ({_LIMITS[self.where]})" if self.known else ""
        return f"{self.where}: {self.what}{reason}"


class Capabilities(Shape):
    """What llama-server found the chat template to support."""

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
        modes = self.options.modes
        runs = [(mode, await client.post(CHAT, _body(mode))) for mode in modes]
        streamed = result = parallel = None
        if "auto" in modes:
            streamed = await client.stream(CHAT, {**_body("auto"), "stream": True})
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
        lenient = self.options.expect == "known_limits"
        if wrong := [one for one in findings if not (lenient and one.known)]:
            known = all(one.known for one in wrong)
            hint = "; `expect: known_limits` accepts it" if known else ""
            return failed(f"{'; '.join(map(str, wrong))}{hint}")
        tried = ", ".join(mode for mode, _ in measured.runs)
        accepted = f"; accepted: {'; '.join(map(str, findings))}" if findings else ""
        also = ", two calls came at once" if measured.parallel is not None else ""
        also += " and a result was answered" if measured.result is not None else ""
        return passed(f"calls are as a client expects them ({tried}){also}{accepted}")


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
    calls = choice.message.tool_calls
    if leak := leak_in(choice.message.content):
        yield Finding(mode, f"raw `{leak}` stands in the answer")
        return
    if not calls:
        said = excerpt(choice.message.content or "", 40) or "nothing"
        limit = mode in _LIMITS
        yield Finding(mode, f"no tool is called, the answer is `{said}`", known=limit)
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
    if leak := leak_in("".join(choice.delta.content or "" for choice in choices)):
        fail(f"raw `{leak}` stands in the answer")
    pieces = [piece for choice in choices for piece in choice.delta.tool_calls]
    if not pieces:
        fail("no tool is called")
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
