"""Gate tools: tool calls arrive as a client expects them.

Upstream is known to fall short in three modes, on every build so far unless noted:
a named function is treated as `auto` (issue 26535), `none` leaves the tools in the
prompt so that a call comes back as raw text, and `required` is enforced only for some
templates, for Gemma 4 from a build between b11003 and b11218.  A stack says with
`expect: known_limits` that it can live with these, and with nothing else.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from deployer.gates.checks.stream import order_problem
from deployer.gates.checks.thinking import first_choice
from deployer.gates.harness.answers import (
    Answer,
    Choice,
    Judgement,
    Shape,
    Streamed,
    excerpt,
    failed,
    inapplicable,
    passed,
    read,
    unclear,
)
from deployer.gates.harness.client import Client
from deployer.gates.harness.requests import (
    ASKED,
    ASKED_BOTH,
    PARAMETERS,
    RESULT,
    Body,
    call_problem,
    chat_body,
    chat_tools,
    leak_in,
)
from deployer.gates.harness.sse import ToolCallDelta, chunks_of
from deployer.gates.harness.target import Target
from deployer.stack.fields.gate_options import Tools
from deployer.stack.fields.values import JsonValue

_MAX_TOKENS = 256
_NAMED = "add_numbers"
"""Another tool than the question asks for: `auto` would not call it."""
_LIMITS = {
    "required": "upstream enforces `required` for some templates only, for Gemma 4 "
    "from b11218 at the latest",
    "named": "upstream treats a named function as `auto` (issue 26535)",
    "none": "upstream leaves the tools in the prompt with `none`",
}


@dataclass(frozen=True, slots=True)
class Run:
    """One value of `tool_choice`, and the answer to it."""

    mode: str
    answer: Answer


@dataclass(frozen=True, slots=True)
class Measurement:
    """A run for each mode, a streamed one, and one with a result of a tool."""

    props: Answer
    runs: tuple[Run, ...]
    streamed: Streamed | None
    result: Answer | None
    parallel: Answer | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """Something a client would stumble over."""

    where: str
    what: str
    known: bool = False
    """Whether it is a limit that upstream is known to have."""

    def __str__(self) -> str:
        reason = f" ({_LIMITS[self.where]})" if self.known else ""
        return f"{self.where}: {self.what}{reason}"


class Capabilities(Shape):
    """What llama-server found the chat template to support."""

    supports_tools: bool = True


class TemplateProps(Shape):
    """The part of /props that describes the chat template."""

    chat_template_caps: Capabilities = Capabilities()


async def measure(client: Client, parameters: Tools, _target: Target) -> Measurement:
    """Offer two tools in each mode, stream once, and hand a result back."""
    props = await client.get("/props")
    if not knows_tools(props):
        return Measurement(props, (), None, None)
    runs = [
        Run(mode, await client.post("/v1/chat/completions", _body(mode)))
        for mode in parameters.modes
    ]
    streamed = None
    if "auto" in parameters.modes:
        body = {**_body("auto"), "stream": True}
        streamed = await client.stream("/v1/chat/completions", body)
    result = None
    if parameters.roundtrip:
        result = await client.post("/v1/chat/completions", _result_body())
    parallel = None
    if parameters.parallel:
        parallel = await client.post("/v1/chat/completions", _parallel_body())
    return Measurement(props, tuple(runs), streamed, result, parallel)


def judge(measurement: Measurement, parameters: Tools, _target: Target) -> Judgement:
    """Everything found counts, but for what the stack says it can live with."""
    if not knows_tools(measurement.props):
        return inapplicable(
            "the chat template of this model knows no tools, as `chat_template_caps` "
            "of /props say; leave the gate out"
        )
    if not (measurement.runs or measurement.result or measurement.parallel):
        return unclear("no mode is asked for")
    findings = list(_findings(measurement))
    lenient = parameters.expect == "known_limits"
    wrong = [one for one in findings if not (lenient and one.known)]
    if wrong:
        hint = ""
        if all(one.known for one in wrong):
            hint = "; `expect: known_limits` accepts it"
        return failed(f"{'; '.join(map(str, wrong))}{hint}")
    tried = ", ".join(run.mode for run in measurement.runs)
    accepted = f"; accepted: {'; '.join(map(str, findings))}" if findings else ""
    also = ", two calls came at once" if measurement.parallel is not None else ""
    also += " and a result was answered" if measurement.result is not None else ""
    return passed(f"calls are as a client expects them ({tried}){also}{accepted}")


def knows_tools(answer: Answer) -> bool:
    """Return whether the chat template knows tools; it does unless /props denies it."""
    props = read(answer, TemplateProps)
    return isinstance(props, Judgement) or props.chat_template_caps.supports_tools


def _findings(measurement: Measurement) -> Iterator[Finding]:
    for run in measurement.runs:
        choice = first_choice(run.answer)
        if isinstance(choice, Judgement):
            # A call that the parser cannot read is how `required` shows its limit.
            known = run.mode == "required" and "format" in choice.because
            yield Finding(run.mode, choice.because, known=known)
        elif run.mode == "none":
            yield from _not_called(choice)
        else:
            yield from _called(run.mode, choice)
    streamed, result = measurement.streamed, measurement.result
    if streamed is not None and (problem := _stream_problem(streamed)):
        yield Finding("stream", problem)
    if result is not None and (problem := _result_problem(result)):
        yield Finding("result", problem)
    if measurement.parallel is not None:
        yield from _called_together(measurement.parallel)


def _not_called(choice: Choice) -> Iterator[Finding]:
    if choice.message.tool_calls:
        yield Finding(
            "none", f"`{choice.message.tool_calls[0].function.name}` is called"
        )
    elif leak := leak_in(choice.message.content):
        yield Finding("none", f"raw `{leak}` stands in the answer", known=True)
    elif not (choice.message.content or "").strip():
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
    """Yield what is wrong with the answer that should hold a call of each tool."""
    choice = first_choice(answer)
    if isinstance(choice, Judgement):
        yield Finding("parallel", choice.because)
        return
    yield from _called("parallel", choice)
    called = {call.function.name for call in choice.message.tool_calls}
    if called and (missing := sorted(PARAMETERS.keys() - called)):
        yield Finding("parallel", f"`{missing[0]}` is not called in the same answer")


def _stream_problem(streamed: Streamed) -> str:
    """Return what is wrong with the call in a stream; empty when nothing is."""
    timed = chunks_of(streamed)
    if isinstance(timed, Judgement):
        return timed.because
    if problem := order_problem(timed):
        return problem
    choices = [choice for one in timed for choice in one.chunk.choices]
    if leak := leak_in("".join(choice.delta.content or "" for choice in choices)):
        return f"raw `{leak}` stands in the answer"
    pieces = [piece for choice in choices for piece in choice.delta.tool_calls]
    if not pieces:
        return "no tool is called"
    if choices[-1].finish_reason != "tool_calls":
        return f"`finish_reason` is `{choices[-1].finish_reason}`, not `tool_calls`"
    return _pieces_problem(pieces)


def _pieces_problem(pieces: Sequence[ToolCallDelta]) -> str:
    """Pieces have to come call by call, with id and name on the first of each."""
    numbers = list(dict.fromkeys(piece.index for piece in pieces))
    if numbers != list(range(len(numbers))):
        return f"the calls have the indices {numbers}"
    for number in numbers:
        mine = [piece for piece in pieces if piece.index == number]
        first, *more = mine
        if not first.id or not first.function.name:
            return f"the first piece of call {number} has no id or no name"
        if any(piece.id not in {None, "", first.id} for piece in more):
            return f"the id of call {number} changes"
        if any(piece.function.name for piece in more):
            return f"the name of call {number} comes twice"
        arguments = "".join(piece.function.arguments or "" for piece in mine)
        if problem := call_problem(first.function.name, arguments):
            return problem
    return ""


def _result_problem(answer: Answer) -> str:
    """Return what is wrong with the answer to a result; empty when nothing is."""
    choice = first_choice(answer)
    if isinstance(choice, Judgement):
        return choice.because
    if leak := leak_in(choice.message.content):
        return f"raw `{leak}` stands in the answer"
    if choice.message.tool_calls:
        return "the tool is called again instead of an answer"
    if not (choice.message.content or "").strip():
        return "no answer follows the result of a tool"
    return ""


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
