"""Traps of thinking and of tool calls."""

from typing import Final

from deployer.core.notices import Severity
from deployer.llama.trap import UPSTREAM, Case, Trap


def _asks_for_budget(case: Case) -> str:
    gates = case.stack.gates
    if gates is not None and gates.thinking_budget is not None:
        return "gates.thinking_budget"
    budget = case.server.reasoning_budget
    limited = budget is not None and budget >= 0
    return "server.reasoning_budget" if limited else ""


def _ignored_budget(case: Case) -> str:
    affected = case.is_gemma4 and not case.is_patched
    return _asks_for_budget(case) if affected else ""


def _unbounded(case: Case) -> str:
    knows_tags = case.is_patched or (case.build or 0) >= 8744
    free = case.server.reasoning_budget in (None, -1)
    thinks = case.server.reasoning != "off"
    return "llama_cpp.tag" if case.is_gemma4 and knows_tags and free and thinks else ""


def _budget_of_31b(case: Case) -> str:
    large = case.is_gemma4 and "31b" in case.names
    return _asks_for_budget(case) if large else ""


def _server_wins(case: Case) -> str:
    budget = case.server.reasoning_budget
    gates = case.stack.gates
    asked = gates is not None and gates.thinking_budget is not None
    stated = budget is not None and budget >= 0
    return "server.reasoning_budget" if asked and stated else ""


def _message(case: Case) -> str:
    said = case.server.reasoning_budget_message
    return "server.reasoning_budget_message" if said is not None else ""


def _zero(case: Case) -> str:
    return "server.reasoning_budget" if case.server.reasoning_budget == 0 else ""


def _qwen_cut(case: Case) -> str:
    return _asks_for_budget(case) if "qwen" in case.names else ""


def _strict_mode(mode: str, case: Case) -> str:
    tools = case.stack.gates.tools if case.stack.gates is not None else None
    strict = tools is not None and tools.expect == "strict" and not tools.advisory
    return "gates.tools" if strict and tools and mode in tools.modes else ""


def _gemma4_tools(case: Case) -> str:
    gates = case.stack.gates
    asked = gates is not None and gates.tools is not None
    return "gates.tools" if asked and case.is_gemma4 else ""


def _grammar(case: Case) -> str:
    gates = case.stack.gates
    asked = gates is not None and gates.json_schema is not None
    return "gates.json_schema" if asked and case.is_gemma4 else ""


THINKING: Final = (
    Trap(
        "budget-ignored",
        Severity.ERROR,
        "Gemma 4 with a thinking budget, without the patch `gemma4-thinking-tags`",
        _ignored_budget,
        "the thinking budget of Gemma 4 has no effect",
        "`llama_cpp.patches: [gemma4-thinking-tags]`, or `tag: b8744` or later",
        f"{UPSTREAM}21697",
        since=8665,
        until=8743,
    ),
    Trap(
        "thinking-unbounded",
        Severity.WARNING,
        "Gemma 4 without `server.reasoning_budget` (or an earlier build with the patch"
        " for its tags)",
        _unbounded,
        "without a budget thinking never has to end: a request can hang until its"
        " tokens are used up",
        "`server.reasoning_budget: 4096`, or `tag: b8929` or later",
        "https://github.com/ggml-org/llama.cpp/pull/21697",
        since=8665,
        until=8900,
    ),
    Trap(
        "budget-at-once",
        Severity.WARNING,
        "Gemma 4 31B with a thinking budget",
        _budget_of_31b,
        "a thinking budget is used up the moment thinking begins",
        "another build, such as `tag: b8929`",
        f"{UPSTREAM}21902",
        since=8783,
        until=8783,
    ),
    Trap(
        "budget-of-server-wins",
        Severity.WARNING,
        "`server.reasoning_budget` beside the gate `thinking_budget`",
        _server_wins,
        "the budget of a request is ignored where the server has one of its own, so"
        " the gate `thinking_budget` fails",
        "leave `server.reasoning_budget` out, or `tag: b9763` or later",
        f"{UPSTREAM}21697",
        since=8672,
        until=9496,
    ),
    Trap(
        "budget-message",
        Severity.WARNING,
        "`server.reasoning_budget_message` is set",
        _message,
        "the message at the end of a budget comes out garbled",
        "leave it out, or `tag: b9093` or later",
        f"{UPSTREAM}22717",
        since=9033,
        until=9078,
    ),
    Trap(
        "budget-zero",
        Severity.WARNING,
        "`server.reasoning_budget: 0`",
        _zero,
        "with a budget of 0 the thinking can arrive as the answer",
        "`server.reasoning: off`, or `chat_template_kwargs: {enable_thinking: false}`",
        "https://github.com/docker/model-runner/issues/1039",
    ),
    Trap(
        "budget-cut",
        Severity.WARNING,
        "Qwen with a thinking budget",
        _qwen_cut,
        "a budget that cuts thinking leaves `</think>` in the answer",
        "another build",
        f"{UPSTREAM}28182",
        since=9960,
        until=9960,
    ),
    Trap(
        "tool-choice-named",
        Severity.WARNING,
        "the gate `tools` asks for `named`, strictly",
        lambda case: _strict_mode("named", case),
        "a `tool_choice` that names a function is silently `auto`: the gate passes by"
        " chance only",
        "`gates: {tools: {modes: [auto, required]}}`, or `expect: known_limits`",
        f"{UPSTREAM}26535",
    ),
    Trap(
        "tool-choice-none",
        Severity.WARNING,
        "the gate `tools` asks for `none`, strictly (`modes` unset does)",
        lambda case: _strict_mode("none", case),
        "with `tool_choice: none` the tools stay in the prompt, and the raw text of a"
        " call can reach the user: the gate fails where the model calls",
        "`expect: known_limits`, or leave `none` out of `gates.tools.modes`",
        f"{UPSTREAM}26535",
    ),
    Trap(
        "tool-choice-required",
        Severity.WARNING,
        "the gate `tools` asks for `required`, strictly (`modes` unset does)",
        lambda case: _strict_mode("required", case),
        "`tool_choice: required` does not force a call with every parser, nor"
        " arguments that fit the schema",
        "`expect: known_limits`, or `tag: b11218` or later",
        f"{UPSTREAM}26535",
        until=11217,
    ),
    Trap(
        "gemma4-tool-calls",
        Severity.NOTE,
        "Gemma 4 with the gate `tools`",
        _gemma4_tools,
        "the grammar and the parser of Gemma 4's tool calls were repaired until b8950",
        "`tag: b8950` or later",
        f"{UPSTREAM}22420",
        since=8637,
        until=8949,
    ),
    Trap(
        "grammar-unused-token",
        Severity.NOTE,
        "Gemma 4 with the gate `json_schema`",
        _grammar,
        "a grammar can crash the server at an `<unused>` token (reported on builds of"
        " this range)",
        "prefer tools to `response_format`, or another build",
        f"{UPSTREAM}23677",
        since=9000,
        until=9999,
    ),
)
