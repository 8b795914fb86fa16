"""Gate context: a prompt that fills a slot is answered, and one beyond it is refused.

How many tokens a text has depends on the model and its chat template, so two short
prompts are asked first: llama-server's own count of them (`usage`) tells how much one
sentence more adds.  A server that silently cuts a long prompt counts fewer tokens
than were sent, and a needle in the middle is what it loses first.
"""

from dataclasses import dataclass
from typing import Final

from deployer.gates.harness.answers import (
    Answer,
    Completion,
    ErrorDetail,
    Judgement,
    Shape,
    excerpt,
    failed,
    passed,
    read,
    read_error,
    unclear,
)
from deployer.gates.harness.client import Client
from deployer.gates.harness.requests import Body, chat_body
from deployer.gates.harness.target import Target
from deployer.stack.fields.gate_options import Context

PATH: Final = "/v1/chat/completions"
REFUSAL: Final = "exceed_context_size_error"
_SENTENCE: Final = "The grass is green. "
_FEW, _MORE = 2, 6
"""Sentences in the two short prompts."""
_ANSWER_TOKENS: Final = 32
_SPARE_TOKENS: Final = 4
_NEAR: Final = 0.1
"""How far below its aim the long prompt may end, as a share; or this many tokens."""
_NEAR_TOKENS: Final = 64


@dataclass(frozen=True, slots=True)
class Measurement:
    """The two long prompts, or why they could not be made."""

    size: int = 0
    """Context of a slot, in tokens."""
    sent: int = 0
    """Tokens that the long prompt should have."""
    near: Answer | None = None
    over: Answer | None = None
    unknown: Judgement | None = None


class Generation(Shape):
    """Settings of one slot."""

    n_ctx: int


class ContextProps(Shape):
    """The part of /props that tells the context of a slot."""

    default_generation_settings: Generation


class Refusal(ErrorDetail):
    """The error for a prompt that is too long."""

    n_prompt_tokens: int
    n_ctx: int


class RefusalAnswer(Shape):
    """The answer to a prompt that is too long."""

    error: Refusal


@dataclass(frozen=True, slots=True)
class _Counts:
    """How the tokens of a prompt grow with its sentences."""

    fixed: float
    each: float

    def sentences(self, tokens: int) -> int:
        return int((tokens - self.fixed) / self.each)

    def tokens(self, sentences: int) -> int:
        return round(self.fixed + self.each * sentences)


async def measure(client: Client, parameters: Context, _target: Target) -> Measurement:
    """Learn how tokens are counted, then ask near the limit and beyond it."""
    props = read(await client.get("/props"), ContextProps)
    if isinstance(props, Judgement):
        return Measurement(unknown=props)
    size = props.default_generation_settings.n_ctx
    counts = await _counted(client, parameters)
    if isinstance(counts, Judgement):
        return Measurement(size, unknown=counts)
    aim = _aim(size, parameters) - _ANSWER_TOKENS - _SPARE_TOKENS
    near, over = counts.sentences(aim), counts.sentences(size) + 2
    if near < _FEW:
        small = unclear(f"a context of {size} tokens is too small to be filled")
        return Measurement(size, unknown=small)
    return Measurement(
        size,
        counts.tokens(near),
        await client.post(PATH, _body(parameters, near, _ANSWER_TOKENS)),
        await client.post(PATH, _body(parameters, over, 1)),
    )


def judge(measurement: Measurement, parameters: Context, _target: Target) -> Judgement:
    """The long prompt has to arrive whole, the one beyond it must be refused."""
    near, over = measurement.near, measurement.over
    if near is None or over is None:
        return measurement.unknown or unclear("no long prompt was asked")
    completion = read(near, Completion)
    if isinstance(completion, Judgement):
        because = f"a prompt of {measurement.sent} tokens: {completion.because}"
        return Judgement(completion.outcome, because)
    counted = completion.usage.prompt_tokens
    figures = {
        "context_tokens": float(measurement.size),
        "prompt_tokens": float(counted),
        "prompt_seconds": near.seconds,
    }
    problem = (
        _cut_problem(measurement.sent, counted)
        or _answer_problem(completion, parameters)
        or _refusal_problem(over, measurement.size)
    )
    if problem:
        return failed(problem, **figures)
    aim = _aim(measurement.size, parameters)
    if aim - counted > max(_NEAR_TOKENS, _NEAR * aim):
        return unclear(f"the prompt has {counted} of {aim} tokens only", **figures)
    found = " and its needle was found" if parameters.needle else ""
    return passed(
        f"a prompt of {counted} tokens was answered{found}, one beyond the "
        f"{measurement.size} of a slot was refused",
        **figures,
    )


def _aim(size: int, parameters: Context) -> int:
    return min(size, parameters.tokens or size)


def _cut_problem(sent: int, counted: int) -> str:
    if counted < sent - max(8, sent // 50):
        return f"a prompt of about {sent} tokens was cut to {counted}"
    return ""


def _answer_problem(completion: Completion, parameters: Context) -> str:
    message = completion.choices[0].message
    text = (message.content or "").strip()
    counted = completion.usage.prompt_tokens
    if not text and not (message.reasoning_content or "").strip():
        return f"a prompt of {counted} tokens is answered with nothing"
    needle = parameters.needle
    if needle is not None and needle.casefold() not in text.casefold():
        return f"`{needle}` in the middle of {counted} tokens is answered with " + (
            f"`{excerpt(text, 60)}`" if text else "thinking alone"
        )
    return ""


def _refusal_problem(answer: Answer, size: int) -> str:
    """Return what is wrong with the answer to a prompt over the context."""
    if answer.status == 200:
        return f"a prompt over the {size} tokens of a slot is answered: it was cut"
    error = read_error(answer, RefusalAnswer)
    wanted = f"HTTP 400 `{REFUSAL}` with `n_prompt_tokens` and `n_ctx`"
    if answer.status != 400 or error is None or error.error.type != REFUSAL:
        said = f"HTTP {answer.status} `{excerpt(answer.body)}`"
        return f"a prompt over the context is answered with {said} instead of {wanted}"
    if error.error.n_ctx != size or error.error.n_prompt_tokens <= size:
        return (
            f"the refusal of a long prompt says {error.error.n_prompt_tokens} tokens "
            f"in a context of {error.error.n_ctx}, which is {size}"
        )
    return ""


async def _counted(client: Client, parameters: Context) -> _Counts | Judgement:
    tokens = []
    for sentences in (_FEW, _MORE):
        answer = await client.post(PATH, _body(parameters, sentences, 1))
        completion = read(answer, Completion)
        if isinstance(completion, Judgement):
            return completion
        tokens.append(completion.usage.prompt_tokens)
    each = (tokens[1] - tokens[0]) / (_MORE - _FEW)
    if each <= 0:
        return failed(
            f"`usage.prompt_tokens` does not grow with the prompt: {tokens[0]}, "
            f"then {tokens[1]}"
        )
    return _Counts(tokens[0] - each * _FEW, each)


def _body(parameters: Context, sentences: int, max_tokens: int) -> Body:
    needle = parameters.needle
    hidden = f"The magic word is {needle}. " if needle else ""
    question = "What is the magic word?" if needle else "Which colour is the grass?"
    before = sentences // 2
    text = _SENTENCE * before + hidden + _SENTENCE * (sentences - before) + question
    return chat_body(text, max_tokens)
