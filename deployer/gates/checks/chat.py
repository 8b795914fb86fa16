"""Gate chat: a chat completion answers with text."""

from dataclasses import dataclass

from deployer.gates.harness.answers import (
    Answer,
    Choice,
    Completion,
    Judgement,
    Usage,
    excerpt,
    failed,
    passed,
    read,
)
from deployer.gates.harness.client import Client
from deployer.gates.harness.requests import PROMPT, chat_body, leak_in
from deployer.gates.harness.target import Target
from deployer.stack.fields.gate_options import Chat

_MAX_TOKENS = 64


@dataclass(frozen=True, slots=True)
class Measurement:
    """What /v1/chat/completions said."""

    answer: Answer


async def measure(client: Client, parameters: Chat, _target: Target) -> Measurement:
    """Ask once, greedily."""
    body = chat_body(parameters.prompt or PROMPT, parameters.max_tokens or _MAX_TOKENS)
    return Measurement(await client.post("/v1/chat/completions", body))


def judge(measurement: Measurement, parameters: Chat, _target: Target) -> Judgement:
    """Text has to be there, ended in order, counted, and hold what was asked for."""
    match read(measurement.answer, Completion):
        case Judgement() as broken:
            return broken
        case completion:
            pass
    most = parameters.max_tokens or _MAX_TOKENS
    choice = completion.choices[0]
    problem = (
        shape_problem(choice)
        or usage_problem(completion.usage, most)
        or _text_problem(choice, parameters, most)
    )
    figures = {
        "answer_seconds": measurement.answer.seconds,
        "completion_tokens": float(completion.usage.completion_tokens),
    }
    if problem:
        return failed(problem, **figures)
    return passed(f"answered `{excerpt(choice.message.content or '', 60)}`", **figures)


def shape_problem(choice: Choice) -> str:
    """Return what a client would stumble over before it comes to the text."""
    if choice.message.role != "assistant":
        return f"the role is `{excerpt(choice.message.role)}`, not `assistant`"
    if choice.finish_reason not in {"stop", "length"}:
        reason = excerpt(str(choice.finish_reason))
        return f"`finish_reason` is `{reason}`, neither `stop` nor `length`"
    return ""


def usage_problem(usage: Usage, most: int) -> str:
    """Why the counted tokens cannot be true."""
    if usage.prompt_tokens < 1:
        return f"`usage` counts {usage.prompt_tokens} prompt tokens"
    if not 1 <= usage.completion_tokens <= most:
        return (
            f"`usage` counts {usage.completion_tokens} tokens of an answer "
            f"of at most {most}"
        )
    if usage.total_tokens != usage.prompt_tokens + usage.completion_tokens:
        return "`usage.total_tokens` is not the sum of prompt and completion"
    return ""


def _text_problem(choice: Choice, parameters: Chat, most: int) -> str:
    text = (choice.message.content or "").strip()
    if not text and choice.message.reasoning_content:
        return (
            f"only thinking came within {most} tokens, no answer; "
            f"raise `gates.chat.max_tokens`"
        )
    if not text:
        return "the answer is empty"
    if leak := leak_in(text):
        return f"`{leak}` of the chat template reached the client: `{excerpt(text)}`"
    wanted = parameters.contains
    if wanted is not None and wanted.casefold() not in text.casefold():
        return f"the answer does not hold `{wanted}`: `{excerpt(text)}`"
    return ""
