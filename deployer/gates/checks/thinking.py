"""The gates thinking and thinking_budget: reasoning that is asked for, and no more."""

from dataclasses import dataclass
from typing import Final

from deployer.gates.harness.answers import (
    Answer,
    Broken,
    Judgement,
    Shape,
    Streamed,
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
from deployer.gates.harness.requests import CHAT, QUESTION, Body, chat_body, leak_in
from deployer.stack.fields import gate_options as asked

_ON_TOKENS, _OFF_TOKENS = 256, 128
_SWITCHES: Final = ("enable_thinking", "reasoning_effort", "<think", "thinking")
"""What a chat template that can think mentions."""
_LACKING: Final = (
    "the chat template of this model cannot think, it mentions none of "
    f"`{'`, `'.join(_SWITCHES)}`; leave the gate out"
)


@dataclass(frozen=True, slots=True)
class OnAndOff:
    """The same question with thinking on and off, and the chat template."""

    on: Answer
    off: Answer
    props: Answer


class TemplateProps(Shape):
    """The part of /props that contains the chat template."""

    chat_template: str


class Thinking(Gate[asked.Thinking, OnAndOff]):
    """Reasoning has to be there when it is on, and nowhere when it is off."""

    subject, limit = Subject.ANSWERS, 300

    async def measure(self, client: Client) -> OnAndOff:
        """Ask twice; `chat_template_kwargs` of the request make the difference."""
        props = await client.get("/props")
        thinks: Body = {"chat_template_kwargs": {"enable_thinking": True}}
        on = await client.post(CHAT, chat_body(QUESTION, _ON_TOKENS, **thinks))
        off = await client.post(CHAT, chat_body(QUESTION, _OFF_TOKENS))
        return OnAndOff(on, off, props)

    def judge(self, measured: OnAndOff) -> Judgement:
        """Compare the two answers."""
        on, off = (first_choice(one).message for one in (measured.on, measured.off))
        thought = (on.reasoning_content or "").strip()
        figures = {
            "on_seconds": measured.on.seconds,
            "off_seconds": measured.off.seconds,
        }
        if leak := leak_in(on.content, off.content):
            because = f"`{leak}` of the chat template stands in the answer"
            return failed(because, **figures)
        if not thought and knows_thinking(measured.props):
            return failed(
                "no reasoning came with thinking on, though the chat template can "
                "think; look at `server.reasoning` and `server.reasoning_format`"
            )
        if not thought:
            return inapplicable(_LACKING)
        if (off.reasoning_content or "").strip():
            return failed(
                "it thinks although `enable_thinking` is false: "
                "`chat_template_kwargs` of a request have no effect",
                **figures,
            )
        if not (off.content or "").strip():
            return failed("the answer without thinking is empty", **figures)
        words = len(thought.split())
        because = f"thinks when it is on ({words} words), and not when it is off"
        return passed(because, **figures)


def knows_thinking(answer: Answer) -> bool:
    """Return whether the chat template in /props mentions a way to think."""
    try:
        template = read(answer, TemplateProps).chat_template
    except Broken:
        return False
    return any(switch in template for switch in _SWITCHES)


_SLACK: Final = 16
_BEYOND: Final = 64
"""Tokens that the run without a budget gets beyond the largest budget."""
_ANSWER_TOKENS: Final = 256
_ALIKE: Final = 40
"""Letters of thinking that must not stand at the start of an answer."""


@dataclass(frozen=True, slots=True)
class Budgeted:
    """A run without a budget, one for each by its tokens, and the chat template."""

    unlimited: Streamed
    limited: tuple[tuple[int, Streamed], ...]
    props: Answer


@dataclass(frozen=True, slots=True)
class Thought:
    """The reasoning of a run, and its length in tokens."""

    content: str
    text: str
    tokens: int


class ThinkingBudget(Gate[asked.ThinkingBudget, Budgeted]):
    """Every budget has to be kept, though more was thought without one.

    A budget that is ignored looks right whenever a model thinks shortly by itself, so
    each run is compared with one without a budget.  The field `thinking_budget_tokens`
    is understood by every build that has budgets at all.
    """

    subject, limit = Subject.ANSWERS, 600

    async def measure(self, client: Client) -> Budgeted:
        """Ask the same question without a budget and with each."""

        async def run(max_tokens: int, limit: Body) -> Streamed:
            body = chat_body(
                QUESTION,
                max_tokens,
                chat_template_kwargs={"enable_thinking": True},
                stream=True,
                timings_per_token=True,
                **limit,
            )
            return await client.stream(CHAT, body)

        props = await client.get("/props")
        budgets = self.options.tokens
        most = max(budgets, default=0) + self._slack + _BEYOND
        unlimited = await run(most, {})
        limited = [
            (one, await run(one + self._slack + _ANSWER_TOKENS, _budget(one)))
            for one in budgets
        ]
        return Budgeted(unlimited, tuple(limited), props)

    def judge(self, measured: Budgeted) -> Judgement:
        """Compare each budget with what was thought without one."""
        free = _thought(measured.unlimited)
        if not free.tokens and knows_thinking(measured.props):
            return unclear(
                "there is nothing to limit: no reasoning came without a budget either, "
                "though the chat template can think; look at `server.reasoning`"
            )
        if not free.tokens:
            return inapplicable(_LACKING)
        figures = {"unlimited_tokens": float(free.tokens)}
        unproved = []
        for budget, streamed in measured.limited:
            try:
                kept = _thought(streamed)
            except Broken as broken:
                fail(f"budget {budget}: {broken}", **figures)
            figures[f"budget_{budget}_tokens"] = float(kept.tokens)
            slack = self._slack if budget else 0
            if problem := _problem(kept, free, budget, slack):
                return failed(f"budget {budget}: {problem}", **figures)
            if free.tokens <= budget + slack or kept.tokens < budget // 2:
                unproved.append(str(budget))
        if unproved or not measured.limited:
            return unclear(
                f"budget {', '.join(unproved) or '(none)'} is not proved: thinking "
                f"ended by itself, after {free.tokens} tokens without a budget",
                **figures,
            )
        budgets = ", ".join(str(budget) for budget, _ in measured.limited)
        because = f"kept the budgets {budgets}; without one it thought {free.tokens}"
        return passed(f"{because} tokens or more", **figures)

    @property
    def _slack(self) -> int:
        return _SLACK if self.options.slack is None else self.options.slack


def _budget(tokens: int) -> Body:
    return {"thinking_budget_tokens": tokens}


def _problem(kept: Thought, free: Thought, budget: int, slack: int) -> str:
    """Return the fault of a run that had a budget; empty when there is none."""
    if leak := leak_in(kept.content, kept.text):
        return f"`{leak}` of the chat template stands in the answer"
    if kept.tokens > budget + slack:
        unlimited = "" if kept.tokens < free.tokens else ", as much as without a budget"
        return (
            f"thought {kept.tokens} tokens{unlimited}; builds b8665 to b8743 ignore "
            f"the budget of Gemma 4 unless they are patched"
        )
    # The marks around thinking count too: a budget of a few tokens may leave none.
    if budget > slack and not kept.tokens and free.tokens > budget + slack:
        return "no reasoning at all, though the budget allows some"
    if not kept.content:
        return "no answer followed the thinking"
    if kept.content.startswith(free.text[:_ALIKE]):
        return "the thinking came as the answer"
    return ""


def _thought(streamed: Streamed) -> Thought:
    """Return the reasoning of a stream, with llama-server's own count of its tokens.

    The count (`timings_per_token`) is that of the last piece of reasoning: splitting
    the text into tokens again would not give the ones it was made of.
    """
    content = text = ""
    pieces = counted = 0
    for chunk in (one.chunk for one in ordered_chunks(streamed)):
        for choice in chunk.choices:
            content += choice.delta.content or ""
            text += choice.delta.reasoning_content or ""
            if (choice.delta.reasoning_content or "").strip():
                pieces += 1
                counted = chunk.timings.predicted_n if chunk.timings else 0
    return Thought(content.strip(), text.strip(), max(pieces, counted))
