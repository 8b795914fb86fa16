"""The tools that gates offer to a model, and judging what it makes of them."""

from typing import Final

from pydantic import ConfigDict, ValidationError

from deployer.gates.harness.answers import excerpt
from deployer.gates.harness.shapes import Shape, first_problem
from deployer.stack.fields.values import JsonValue

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
