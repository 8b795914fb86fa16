"""The gates chat and stream: a chat completion, whole and in pieces."""

import asyncio
import re
from typing import Final

from deployer.gates.harness.answers import (
    Answer,
    Completion,
    Event,
    Judgement,
    Streamed,
    excerpt,
    fail,
    failed,
    first_text_seconds,
    ordered_chunks,
    passed,
    read,
    show_time,
    unclear,
)
from deployer.gates.harness.client import Client
from deployer.gates.harness.gate import Gate, Subject
from deployer.gates.harness.requests import CHAT, PROMPT, chat_body, leak_in
from deployer.stack.fields import gate_options as asked
from deployer.stack.fields.values import seconds

_CHAT_TOKENS, _STREAM_TOKENS = 64, 32


class Chat(Gate[asked.Chat, Answer]):
    """Text has to be there, ended in order, counted, and contain what was asked for.

    A question that comes back, marks of turns and text without an end are no answer.
    """

    subject, limit = Subject.ANSWERS, 120

    async def measure(self, client: Client) -> Answer:
        """Ask once, greedily."""
        prompt = self.options.prompt or PROMPT
        return await client.post(CHAT, chat_body(prompt, self._most))

    def judge(self, measured: Answer) -> Judgement:
        """Look at everything that a client would stumble over."""
        completion = read(measured, Completion)
        figures = {
            "answer_seconds": measured.seconds,
            "completion_tokens": float(completion.usage.completion_tokens),
        }
        choice = completion.choices[0]
        text = (choice.message.content or "").strip()
        if problem := self._envelope_problem(completion) or self._text_problem(
            completion, text
        ):
            return failed(problem, **figures)
        if choice.finish_reason == "length" and self.options.max_tokens is None:
            return unclear(
                f"the answer did not end within {self._most} tokens: "
                f"`{excerpt(text, 60)}`; look at the chat template and its stop texts, "
                f"or raise `gates.chat.max_tokens`",
                **figures,
            )
        if period := _repeated(text):
            because = f"the answer repeats `{excerpt(period, 60)}` without an end"
            return unclear(because, **figures)
        return passed(f"answered `{excerpt(text, 60)}`", **figures)

    @property
    def _most(self) -> int:
        return self.options.max_tokens or _CHAT_TOKENS

    def _envelope_problem(self, completion: Completion) -> str:
        """Return what a client would stumble over before it comes to the text."""
        choice, usage = completion.choices[0], completion.usage
        if choice.message.role != "assistant":
            return f"the role is `{excerpt(choice.message.role)}`, not `assistant`"
        if choice.finish_reason not in {"stop", "length"}:
            reason = excerpt(str(choice.finish_reason))
            return f"`finish_reason` is `{reason}`, neither `stop` nor `length`"
        if usage.prompt_tokens < 1:
            return f"`usage` counts {usage.prompt_tokens} prompt tokens"
        if not 1 <= usage.completion_tokens <= self._most:
            return (
                f"`usage` counts {usage.completion_tokens} tokens of an answer "
                f"of at most {self._most}"
            )
        if usage.total_tokens != usage.prompt_tokens + usage.completion_tokens:
            return "`usage.total_tokens` is not the sum of prompt and completion"
        return ""

    def _text_problem(self, completion: Completion, text: str) -> str:
        if not text and completion.choices[0].message.reasoning_content:
            return (
                f"only thinking came within {self._most} tokens, no answer; "
                f"raise `gates.chat.max_tokens`"
            )
        if not text:
            return "the answer is empty"
        shown = f"`{excerpt(text)}`"
        if leak := leak_in(text):
            return f"`{leak}` of the chat template reached the client: {shown}"
        if _echoes(text, self.options.prompt or PROMPT):
            return f"the answer repeats the question: {shown}"
        wanted = self.options.contains
        if wanted is not None and wanted.casefold() not in text.casefold():
            return f"the answer does not contain `{wanted}`: {shown}"
        return ""


_ECHO_WORDS: Final = 4
"""A shorter question may be a part of its answer, such as a greeting."""
_PERIODS: Final = 3


def _echoes(text: str, prompt: str) -> bool:
    """Return whether a question is repeated, however it is punctuated."""
    said, asked_for = (re.findall(r"\w+", one.casefold()) for one in (text, prompt))
    if len(asked_for) < _ECHO_WORDS:
        return False
    return f" {' '.join(asked_for)} " in f" {' '.join(said)} "


def _repeated(text: str) -> str:
    """Return the sentence or line that an answer ends in three times; else empty."""
    lines = [it.strip() for it in re.split(r"(?<=[.!?])\s|\n", text) if it.strip()]
    # The last one may be cut.
    for ended in (lines, lines[:-1]):
        last = ended[-_PERIODS:]
        if len(last) == _PERIODS and len(set(last)) == 1:
            return last[0]
    return ""


class Stream(Gate[asked.Stream, Streamed | None]):
    """The frames, the order of the chunks, the text, and when it began.

    Nothing is measured where nothing comes within `ttft`: a server that hangs is not
    waited for.
    """

    subject, limit, alone = Subject.ANSWERS, 120, True

    async def measure(self, client: Client) -> Streamed | None:
        """Stream one greedy answer; hang up where nothing comes within `ttft`."""
        body = chat_body(
            PROMPT, _STREAM_TOKENS, stream=True, stream_options={"include_usage": True}
        )
        limit = None if self.options.ttft is None else seconds(self.options.ttft)
        patience = asyncio.timeout(limit)

        def hear(_: Event) -> None:
            patience.reschedule(None)

        try:
            async with patience:
                return await client.stream(CHAT, body, hear)
        except TimeoutError:
            return None

    def judge(self, measured: Streamed | None) -> Judgement:
        """Put the stream together as a client does."""
        ttft = self.options.ttft
        limit = None if ttft is None else seconds(ttft)
        most = f"more than the {show_time(limit or 0)} of `ttft`"
        if measured is None:
            fail(f"the first token took {most}")
        timed = ordered_chunks(measured)
        first = first_text_seconds(timed)
        figures = {
            "ttft_seconds": first,
            "stream_seconds": measured.answer.seconds,
            "chunks": float(len(timed)),
        }
        took = show_time(first)
        if limit is not None and first > limit:
            return failed(f"the first token took {took}, {most}", **figures)
        return passed(f"{len(timed)} chunks, the first token after {took}", **figures)
