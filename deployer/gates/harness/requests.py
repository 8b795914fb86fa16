"""Request bodies that several gates send."""

from typing import Final

from pydantic import ConfigDict, ValidationError

from deployer.gates.harness.answers import Shape, excerpt, first_problem
from deployer.stack.fields.values import JsonValue

CHAT: Final = "/v1/chat/completions"
PROMPT: Final = "Say in one short sentence what the capital of France is."

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
    """What a tool takes; nothing else may be handed to it."""

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
    """What a client that runs the tool would stumble over; empty when nothing."""
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
