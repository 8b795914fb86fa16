"""Gate thinking_budget: reasoning stops near each budget, and the answer follows.

A budget that is ignored looks right whenever a model thinks shortly by itself, so
each run is held against one without a budget.  The field `thinking_budget_tokens`
is understood by every build that has budgets at all.  Tokens are llama-server's own
count (`timings_per_token`) at the last piece of reasoning: splitting the text into
tokens again would not give the ones it was made of.
"""

from dataclasses import dataclass

from deployer.gates.checks.stream import order_problem
from deployer.gates.checks.thinking import LACKING, knows_thinking
from deployer.gates.harness.answers import (
    Answer,
    Judgement,
    Streamed,
    failed,
    inapplicable,
    passed,
    unclear,
)
from deployer.gates.harness.client import Client
from deployer.gates.harness.requests import QUESTION, Body, chat_body, leak_in
from deployer.gates.harness.sse import chunks_of
from deployer.gates.harness.target import Target
from deployer.stack.fields.gate_options import ThinkingBudget

_SLACK = 16
_BEYOND = 64
"""Tokens that the run without a budget gets beyond the largest budget."""
_ANSWER_TOKENS = 256
_ALIKE = 40
"""Letters of thinking that must not stand at the start of an answer."""


@dataclass(frozen=True, slots=True)
class Run:
    """One streamed answer."""

    budget: int | None
    streamed: Streamed


@dataclass(frozen=True, slots=True)
class Measurement:
    """A run without a budget, and one for each."""

    unlimited: Run
    limited: tuple[Run, ...]
    props: Answer


@dataclass(frozen=True, slots=True)
class Thought:
    """What a run thought, and how much of it."""

    content: str
    text: str
    tokens: int


async def measure(
    client: Client, parameters: ThinkingBudget, _target: Target
) -> Measurement:
    """Ask the same question without a budget and with each."""
    props = await client.get("/props")
    largest = max(parameters.tokens, default=0)
    most = largest + _slack(parameters) + _BEYOND
    unlimited = await _run(client, None, most)
    limited = [
        await _run(client, budget, budget + _slack(parameters) + _ANSWER_TOKENS)
        for budget in parameters.tokens
    ]
    return Measurement(unlimited, tuple(limited), props)


def judge(
    measurement: Measurement, parameters: ThinkingBudget, _target: Target
) -> Judgement:
    """Every budget has to be kept, though more was thought without one."""
    free = _thought(measurement.unlimited)
    if isinstance(free, Judgement):
        return free
    if not free.tokens:
        if knows_thinking(measurement.props):
            return unclear(
                "there is nothing to limit: no reasoning came without a budget either, "
                "though the chat template can think; look at `server.reasoning`"
            )
        return inapplicable(LACKING)
    figures = {"unlimited_tokens": float(free.tokens)}
    unproved = []
    for run in measurement.limited:
        kept = _thought(run)
        if isinstance(kept, Judgement):
            return failed(f"budget {run.budget}: {kept.because}", **figures)
        figures[f"budget_{run.budget}_tokens"] = float(kept.tokens)
        budget = run.budget or 0
        slack = _slack(parameters) if budget else 0
        if problem := _problem(kept, free, budget, slack):
            return failed(f"budget {budget}: {problem}", **figures)
        if free.tokens <= budget + slack or kept.tokens < budget // 2:
            unproved.append(str(budget))
    if unproved or not measurement.limited:
        return unclear(
            f"budget {', '.join(unproved) or '(none)'} is not proved: thinking ended "
            f"by itself, after {free.tokens} tokens without a budget",
            **figures,
        )
    budgets = ", ".join(str(run.budget) for run in measurement.limited)
    return passed(
        f"kept the budgets {budgets}; without one it thought {free.tokens} tokens "
        f"or more",
        **figures,
    )


def _problem(kept: Thought, free: Thought, budget: int, slack: int) -> str:
    """Return what is wrong with a run that had a budget; empty when nothing is."""
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


def _thought(run: Run) -> Thought | Judgement:
    timed = chunks_of(run.streamed)
    if isinstance(timed, Judgement):
        return timed
    if problem := order_problem(timed):
        return failed(problem)
    content = text = ""
    pieces = counted = 0
    for chunk in (one.chunk for one in timed):
        for choice in chunk.choices:
            content += choice.delta.content or ""
            text += choice.delta.reasoning_content or ""
            if (choice.delta.reasoning_content or "").strip():
                pieces += 1
                counted = chunk.timings.predicted_n if chunk.timings else 0
    return Thought(content.strip(), text.strip(), max(pieces, counted))


async def _run(client: Client, budget: int | None, max_tokens: int) -> Run:
    limit: Body = {} if budget is None else {"thinking_budget_tokens": budget}
    body = chat_body(
        QUESTION,
        max_tokens,
        chat_template_kwargs={"enable_thinking": True},
        stream=True,
        timings_per_token=True,
        **limit,
    )
    return Run(budget, await client.stream("/v1/chat/completions", body))


def _slack(parameters: ThinkingBudget) -> int:
    return _SLACK if parameters.slack is None else parameters.slack
