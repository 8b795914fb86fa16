"""What a server answered, as values; and what a gate makes of it.

Only what a gate judges is declared.  Numbers must be finite and of the right type:
what a strict client could not read is not read here either.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from deployer.planning.verdict import Outcome
from deployer.stack.fields.values import show_seconds


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
    """What a gate makes of its measurement."""

    outcome: Outcome
    because: str
    figures: Mapping[str, float] = field(default_factory=dict)
    applicable: bool = True
    """False where the model lacks what the gate is about."""


def passed(because: str, **figures: float) -> Judgement:
    """It was proved."""
    return Judgement(Outcome.PASS, because, figures)


def failed(because: str, **figures: float) -> Judgement:
    """It was disproved."""
    return Judgement(Outcome.FAIL, because, figures)


def unclear(because: str, **figures: float) -> Judgement:
    """It answered, and what it said proves neither."""
    return Judgement(Outcome.INCONCLUSIVE, because, figures)


def inapplicable(because: str) -> Judgement:
    """The model lacks what the gate is about: asking for it is a mistake."""
    return Judgement(Outcome.INCONCLUSIVE, because, applicable=False)


def unmeasured(because: str, **figures: float) -> Judgement:
    """It could not be measured."""
    return Judgement(Outcome.ERROR, because, figures)


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


class SlotCount(Shape):
    """The part of /props that counts slots."""

    total_slots: int


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
    """What the model said."""

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


S = TypeVar("S", bound=Shape)


def read(answer: Answer, shape: type[S]) -> S | Judgement:
    """The answer as a shape, or the judgement that it is not one."""
    if answer.status != 200:
        return refused(answer)
    try:
        return shape.model_validate_json(answer.body)
    except ValidationError as error:
        return _unreadable(answer, error)


def refused(answer: Answer) -> Judgement:
    """Return what an answer with another status than 200 means."""
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
