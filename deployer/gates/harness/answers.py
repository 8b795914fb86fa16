"""Answers of a server as values, read strictly, and the judgement of a gate.

Only what a gate judges is declared.  Numbers must be finite and of the right type, and
server-sent events well-formed: what a strict client could not read is not read here
either.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Final, NoReturn, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from deployer.planning.events import Outcome
from deployer.stack.fields.values import JsonValue, show_seconds


@dataclass(frozen=True, slots=True)
class Answer:
    """One whole HTTP answer."""

    status: int
    content_type: str
    body: bytes
    seconds: float
    """From the start of the request to the last byte."""

    @property
    def media_type(self) -> str:
        """The content type without its parameters."""
        return self.content_type.partition(";")[0].strip().lower()


@dataclass(frozen=True, slots=True)
class Event:
    """One server-sent event."""

    name: str
    data: str
    seconds: float
    """From the start of the request until it was there."""


@dataclass(frozen=True, slots=True)
class Streamed:
    """A streamed answer: its events, and the bytes they were made from."""

    answer: Answer
    events: tuple[Event, ...]
    broke: str = ""
    """Why the stream broke off; empty when it ended in order."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """The judgement of a gate on its measurement."""

    outcome: Outcome
    because: str
    figures: Mapping[str, float] = field(default_factory=dict)
    applicable: bool = True
    """False where the model lacks what the gate is about."""
    waived: bool = False
    """It blocks nothing, though the gate is not advisory."""


class Broken(Exception):  # noqa: N818 - ends a judgement, and is no mistake of ours
    """An answer that cannot lead to a pass; it carries the judgement."""

    def __init__(self, judgement: Judgement) -> None:
        super().__init__(judgement.because)
        self.judgement = judgement


def passed(because: str, **figures: float) -> Judgement:
    """It was proved."""
    return Judgement(Outcome.PASS, because, figures)


def failed(because: str, **figures: float) -> Judgement:
    """It was disproved."""
    return Judgement(Outcome.FAIL, because, figures)


def unclear(because: str, **figures: float) -> Judgement:
    """It answered, and the answer proves neither."""
    return Judgement(Outcome.INCONCLUSIVE, because, figures)


def inapplicable(because: str) -> Judgement:
    """The model lacks what the gate is about: asking for it is a mistake."""
    return Judgement(Outcome.INCONCLUSIVE, because, applicable=False)


def unmeasured(because: str, **figures: float) -> Judgement:
    """It could not be measured."""
    return Judgement(Outcome.ERROR, because, figures)


def fail(because: str, **figures: float) -> NoReturn:
    """End the judgement with a failure."""
    raise Broken(failed(because, **figures))


@contextmanager
def within(what: str, **figures: float) -> Iterator[None]:
    """Put `what` before the reason, and add figures, when a judgement ends inside."""
    try:
        yield
    except Broken as broken:
        one = broken.judgement
        because = f"{what}: {one.because}" if what else one.because
        told = {**figures, **one.figures}
        raise Broken(replace(one, because=because, figures=told)) from None


def excerpt(text: str | bytes, length: int = 80) -> str:
    """The beginning of a text on one line, for a message."""
    shown = text.decode(errors="replace") if isinstance(text, bytes) else text
    line = " ".join(shown[: 4 * length].split())
    line = "".join(c if c.isprintable() else "\ufffd" for c in line)
    return line if len(line) <= length else f"{line[: length - 1]}…"


def show_time(seconds: float) -> str:
    """A measured time for people, short ones in milliseconds."""
    return f"{1000 * seconds:.0f} ms" if seconds < 1 else show_seconds(seconds)


class Shape(BaseModel):
    """Base of everything a server sends."""

    model_config = ConfigDict(
        frozen=True, strict=True, extra="ignore", allow_inf_nan=False
    )


class ErrorDetail(Shape):
    """The inside of an error answer."""

    message: str
    type: str = ""


class ErrorAnswer(Shape):
    """`{"error": {"message": …, "type": …, "code": …}}`."""

    error: ErrorDetail


class Usage(Shape):
    """Tokens that a request took."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Timings(Shape):
    """llama-server's own clock for one request."""

    prompt_n: int
    prompt_ms: float
    predicted_n: int
    predicted_ms: float
    predicted_per_second: float | None = None
    prompt_per_second: float | None = None


class TokenList(Shape):
    """The answer of /tokenize."""

    tokens: tuple[int, ...]


class SlotCount(Shape):
    """The part of /props that counts slots."""

    total_slots: int


class SlotSettings(Shape):
    """Settings of one slot."""

    n_ctx: int


class BuildProps(Shape):
    """The part of /props that names the build."""

    build_info: str


BUILD_INFO: Final = re.compile(r"b(\d+)-(\S+)")
UNCOUNTED: Final = 1
"""Highest number that a clone without history reports."""


def build_stated(props: Answer | None) -> int | None:
    """The number of the build as /props states it; None where it states none."""
    try:
        text = read(props, BuildProps).build_info if props is not None else ""
    except Broken:
        return None
    found = BUILD_INFO.fullmatch(text)
    number = int(found[1]) if found else UNCOUNTED
    return number if number > UNCOUNTED else None


class ContextProps(Shape):
    """The part of /props that names the context of a slot."""

    default_generation_settings: SlotSettings


class CalledFunction(Shape):
    """The function of a tool call."""

    name: str
    arguments: str


class ToolCall(Shape):
    """One tool call of a whole answer."""

    id: str
    type: str
    function: CalledFunction


class Message(Shape):
    """The answer of the model."""

    role: str
    content: str | None = None
    reasoning_content: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()


class Choice(Shape):
    """One of the answers; llama-server gives one."""

    index: int
    message: Message
    finish_reason: str | None


class Completion(Shape):
    """The answer of /v1/chat/completions."""

    choices: tuple[Choice, ...] = Field(min_length=1)
    usage: Usage
    timings: Timings | None = None


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


S = TypeVar("S", bound=Shape)


def read(answer: Answer, shape: type[S]) -> S:
    """Return the answer as a shape; raise Broken when it is not one."""
    if answer.status != 200:
        raise Broken(refused(answer))
    try:
        return shape.model_validate_json(answer.body)
    except ValidationError as error:
        raise Broken(_unreadable(answer, error)) from error


def first_choice(answer: Answer) -> Choice:
    """Return the one answer of a completion; raise Broken when there is none."""
    return read(answer, Completion).choices[0]


def refused(answer: Answer) -> Judgement:
    """Judge an answer with another status than 200."""
    message = error_message(answer.body)
    said = f"HTTP {answer.status}" + (f": {message}" if message else "")
    match answer.status:
        case 401 | 403:
            return unmeasured(f"the key was refused: {said}")
        case status if 300 <= status < 400:
            return unmeasured(f"answered with a redirect elsewhere: {said}")
    if message:
        return failed(f"answered {said}")
    return unmeasured(
        f"answered {said} without an error of llama-server: "
        f"`{excerpt(answer.body) or 'empty'}`"
    )


def read_error(answer: Answer, shape: type[S]) -> S | None:
    """The body of a refusal as a shape; None when it is another one."""
    try:
        return shape.model_validate_json(answer.body)
    except ValidationError:
        return None


def error_message(body: str | bytes) -> str:
    """The message of an error answer; empty when it is none."""
    try:
        return excerpt(ErrorAnswer.model_validate_json(body).error.message, 200)
    except ValidationError:
        return ""


def _unreadable(answer: Answer, error: ValidationError) -> Judgement:
    first = error.errors(include_url=False, include_input=False)[0]
    if first["type"] == "json_invalid":
        kind = "a web page" if is_web_page(answer) else "something that is not JSON"
        return unmeasured(
            f"answered with {kind}: `{excerpt(answer.body) or 'nothing'}`"
        )
    if message := error_message(answer.body):
        return failed(f"answered HTTP 200 with an error inside: {message}")
    return failed(f"the answer does not fit: {first_problem(error)}")


def first_problem(error: ValidationError) -> str:
    """Where and how an answer first departs from its shape."""
    first = error.errors(include_url=False, include_input=False)[0]
    path = ".".join(str(part) for part in first["loc"]) or "the whole"
    return f"`{path}`: {first['msg'][:1].lower()}{first['msg'][1:]}"


def is_web_page(answer: Answer) -> bool:
    """Return whether a person with a browser was expected."""
    start = answer.body[:200].lstrip().lower()
    return answer.media_type == "text/html" or start.startswith(
        (b"<!doctype", b"<html")
    )


DONE: Final = "[DONE]"
_FIELD: Final = re.compile(r"(?:data|event|id|retry)(?::|$)|:")
_LINE_END: Final = re.compile(r"\r\n|\n|\r")


def events_of(streamed: Streamed) -> tuple[Event, ...]:
    """Return the events; raise Broken unless they are a well-formed, whole stream."""
    answer = streamed.answer
    if answer.status != 200:
        raise Broken(refused(answer))
    if answer.media_type != "text/event-stream":
        kind = "a web page" if is_web_page(answer) else f"`{answer.content_type}`"
        fail(f"the stream is {kind} instead of `text/event-stream`")
    if streamed.broke:
        count = len(streamed.events)
        because = f"the stream broke off after {count} events: {streamed.broke}"
        raise Broken(unmeasured(because))
    if problem := _framing_problem(answer.body):
        fail(problem)
    return streamed.events


def chunks_of(streamed: Streamed) -> tuple[Timed, ...]:
    """Return the chunks of a chat stream, which has to end in `[DONE]`, or raise."""
    events = events_of(streamed)
    found: list[Timed] = []
    for number, event in enumerate(events, start=1):
        if event.data == DONE:
            if number != len(events):
                fail(f"{len(events) - number} events came after `{DONE}`")
            return tuple(found)
        try:
            chunk = Chunk.model_validate_json(event.data)
        except ValidationError as error:
            _bad_chunk(number, event, error)
        found.append(Timed(chunk, event.seconds))
    fail(f"the stream ended without `{DONE}` after {len(events)} events")


def ordered_chunks(streamed: Streamed) -> tuple[Timed, ...]:
    """Return the chunks; raise Broken unless a client can put them together."""
    timed = chunks_of(streamed)
    choices = [choice for one in timed for choice in one.chunk.choices]
    if len({one.chunk.id for one in timed}) > 1:
        fail("the chunks carry different ids")
    if not choices:
        fail("no chunk contains a choice")
    if choices[0].delta.role != "assistant":
        fail(f"the first delta has role `{choices[0].delta.role}`, not `assistant`")
    if others := sorted({choice.index for choice in choices} - {0}):
        fail(f"a choice has index {others[0]}, though one answer was asked for")
    reasons = [choice.finish_reason for choice in choices]
    ended = [reason for reason in reasons if reason is not None]
    if not ended:
        fail("no chunk has a `finish_reason`")
    if len(ended) > 1 or reasons[-1] is None:
        fail("deltas came after the `finish_reason`")
    if ended[0] not in {"stop", "length", "tool_calls"}:
        fail(f"`finish_reason` is `{excerpt(ended[0])}`")
    return timed


def first_text_seconds(timed: tuple[Timed, ...]) -> float:
    """Return when the first piece of answer or thinking came; raise without one."""
    for one in timed:
        for choice in one.chunk.choices:
            for piece in (choice.delta.reasoning_content, choice.delta.content):
                if piece and piece.strip():
                    return one.seconds
    fail("the stream contains no text")


def _bad_chunk(number: int, event: Event, error: ValidationError) -> NoReturn:
    if message := error_message(event.data):
        fail(f"event {number} is an error: {message}")
    if error.errors(include_url=False, include_input=False)[0]["type"] == (
        "json_invalid"
    ):
        fail(f"event {number} is not JSON: `{excerpt(event.data)}`")
    fail(f"event {number} does not fit: {first_problem(error)}")


def _framing_problem(raw: bytes) -> str:
    """Return the fault of the bytes, also one that a tolerant parser would skip."""
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


CHAT: Final = "/v1/chat/completions"
PROMPT: Final = "Say in one short sentence what the capital of France is."

PASSAGE: Final = "The quick brown fox jumps over the lazy dog. "
"""Every long prompt begins with it, again and again: what a server has read for one
gate is in its cache for the next."""
QUESTION: Final = "Which is larger, 9.11 or 9.9? Think about it, then answer."
"""Makes a model that can think do so."""

Body = dict[str, JsonValue]


def chat_body(prompt: str, max_tokens: int, **more: JsonValue) -> Body:
    """A chat request that answers alike every time, and at once: without thinking.

    Templates that know no `enable_thinking` do not look at it.
    """
    return {
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": max_tokens,
        "temperature": 0,
        "seed": 1,
        "chat_template_kwargs": {"enable_thinking": False},
        **more,
    }


THINKING_MARKS: Final = (
    "<|channel>",
    "<channel|>",
    "<|channel|>",
    "<think>",
    "</think>",
    "[THINK]",
    "[/THINK]",
)
TOOL_MARKS: Final = (
    "<|tool_call>",
    "<tool_call|>",
    "<|tool_response>",
    "<tool_response|>",
    "<tool_call>",
    "</tool_call>",
    "<function=",
    "[TOOL_CALLS]",
    "<|python_tag|>",
    '<|"|>',
)
TURN_MARKS: Final = (
    *("<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|end|>"),
    *("<start_of_turn>", "<end_of_turn>", "<|turn>", "<turn|>", "<eos>", "<bos>"),
    *("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|begin_of_text|>"),
    *("<|system|>", "<|user|>", "<|assistant|>", "<|observation|>"),
    *("<|start|>", "<|message|>", "<|return|>", "[INST]", "[/INST]", "</s>"),
    *("<｜User｜>", "<｜Assistant｜>", "<｜end▁of▁sentence｜>"),  # noqa: RUF001 - as DeepSeek writes them
)
"""Marks of turns: in an answer they show a wrong template or stop text."""


def leak_in(*texts: str | None) -> str:
    """The first mark that stands in one of the texts; empty when none does."""
    found = (
        mark
        for mark in (*THINKING_MARKS, *TOOL_MARKS, *TURN_MARKS)
        for text in texts
        if text and mark in text
    )
    return next(found, "")


ASKED: Final = "What is the weather in Paris? Use the tool."
ASKED_BOTH: Final = (
    "What is the weather in Paris, and what is 1 + 2? Call both tools at once."
)
RESULT: Final = '{"temperature_celsius": 21, "sky": "clear"}'


class Arguments(Shape):
    """The arguments of a tool; it takes no others."""

    model_config = ConfigDict(extra="forbid")


class Weather(Arguments):
    """The arguments of `get_weather`."""

    city: str


class Sum(Arguments):
    """The arguments of `add_numbers`."""

    a: int
    b: int


TOOLS: Final[dict[str, type[Arguments]]] = {"get_weather": Weather, "add_numbers": Sum}
PURPOSES: Final = {
    "get_weather": "Tells the weather of a city.",
    "add_numbers": "Adds two numbers.",
}
PARAMETERS: Final[dict[str, dict[str, JsonValue]]] = {
    "get_weather": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
        "additionalProperties": False,
    },
    "add_numbers": {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
        "required": ["a", "b"],
        "additionalProperties": False,
    },
}


def chat_tools() -> list[JsonValue]:
    """The tools as /v1/chat/completions wants them."""
    return [
        {"type": "function", "function": {**_described(name), "parameters": schema}}
        for name, schema in PARAMETERS.items()
    ]


def responses_tools() -> list[JsonValue]:
    """The tools as /v1/responses wants them."""
    return [
        {"type": "function", **_described(name), "parameters": schema}
        for name, schema in PARAMETERS.items()
    ]


def messages_tools() -> list[JsonValue]:
    """The tools as /v1/messages wants them."""
    return [
        {**_described(name), "input_schema": schema}
        for name, schema in PARAMETERS.items()
    ]


def call_problem(name: str, arguments: str) -> str:
    """Return the flaw that a client running the tool would meet; empty for none."""
    takes = TOOLS.get(name)
    if takes is None:
        return f"`{excerpt(name, 40)}` is called, which was not offered"
    try:
        takes.model_validate_json(arguments)
    except ValidationError as error:
        shown = excerpt(arguments, 60) or "nothing"
        return f"`{name}` is called with `{shown}`: {first_problem(error)}"
    return ""


def _described(name: str) -> dict[str, JsonValue]:
    return {"name": name, "description": PURPOSES[name]}
