"""The gate json_schema, and the schemas that a file of prompts expects."""

import json
from collections.abc import Iterator
from typing import Final, Literal

from pydantic import ConfigDict, ValidationError

from deployer.gates.harness.answers import (
    Answer,
    Judgement,
    Shape,
    excerpt,
    failed,
    first_choice,
    first_problem,
    passed,
)
from deployer.gates.harness.client import Client
from deployer.gates.harness.gate import Gate, Subject
from deployer.gates.harness.requests import CHAT, chat_body
from deployer.stack.fields import gate_options as asked
from deployer.stack.fields.values import JsonValue

_MAX_TOKENS: Final = 512
# Nothing in it hints at JSON: only an enforced schema makes the answer valid.
_PROMPT: Final = "Tell me about Paris."


class City(Shape):
    """The answer as the schema wants it."""

    model_config = ConfigDict(extra="forbid")

    name: str
    kind: Literal["city", "river"]
    rank: int


SCHEMA: Final[dict[str, JsonValue]] = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "kind": {"enum": ["city", "river"]},
        "rank": {"type": "integer"},
    },
    "required": ["name", "kind", "rank"],
    "additionalProperties": False,
}


class JsonSchema(Gate[asked.JsonSchema, Answer]):
    """The whole answer has to be one JSON value that fits."""

    subject, limit = Subject.ANSWERS, 180

    async def measure(self, client: Client) -> Answer:
        """Ask once, with a schema.

        The budget is there for templates that think on with `enable_thinking` off as
        soon as a grammar forbids the answer's first words.
        """
        wanted: JsonValue = {
            "type": "json_schema",
            "json_schema": {"name": "city", "strict": True, "schema": SCHEMA},
        }
        body = chat_body(
            _PROMPT, _MAX_TOKENS, response_format=wanted, thinking_budget_tokens=0
        )
        return await client.post(CHAT, body)

    def judge(self, measured: Answer) -> Judgement:
        """Validate the answer."""
        choice = first_choice(measured)
        text = choice.message.content or ""
        shown = excerpt(text, 60) or "nothing"
        figures = {"answer_seconds": measured.seconds}
        if choice.finish_reason != "stop":
            reason = excerpt(str(choice.finish_reason))
            return failed(f"did not come to an end (`{reason}`): `{shown}`", **figures)
        try:
            City.model_validate_json(text)
        except ValidationError as error:
            problem = first_problem(error)
            return failed(f"`{shown}` does not fit the schema: {problem}", **figures)
        return passed(f"answered `{shown}`, which fits the schema", **figures)


def schema_problem(schema: dict[str, JsonValue] | bool) -> str:  # noqa: FBT001 - JSON
    """Return why a user's schema cannot be used; empty when it can.

    References lead to places of the same schema: nothing is fetched.
    """
    from jsonschema import Draft202012Validator, SchemaError  # noqa: PLC0415 - slow

    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        return f"it is no JSON schema: {excerpt(error.message, 120)}"
    for reference in _references(schema):
        if not _leads_somewhere(schema, reference):
            return f"`$ref: {excerpt(reference, 60)}` leads to no place in it"
    return ""


def misfit(text: str, schema: dict[str, JsonValue] | bool) -> str:  # noqa: FBT001
    """Return where a text departs from a user's schema; empty when it fits."""
    from jsonschema import Draft202012Validator  # noqa: PLC0415 - slow to import

    try:
        value = json.loads(text)
        found = next(Draft202012Validator(schema).iter_errors(value), None)
    except (ValueError, RecursionError):
        return "is not JSON"
    if found is None:
        return ""
    return f"does not fit at `{found.json_path}`: {excerpt(found.message, 120)}"


def _references(schema: JsonValue) -> Iterator[str]:
    match schema:
        case dict():
            for key, value in schema.items():
                if key in {"$ref", "$dynamicRef"} and isinstance(value, str):
                    yield value
                yield from _references(value)
        case list():
            for value in schema:
                yield from _references(value)
        case _:
            return


def _leads_somewhere(schema: JsonValue, reference: str) -> bool:
    """Return whether a reference is a path that exists in the schema."""
    root, *steps = reference.split("/")
    place = schema
    for step in steps:
        name = step.replace("~1", "/").replace("~0", "~")
        match place:
            case dict() if name in place:
                place = place[name]
            case list() if name.isdigit() and int(name) < len(place):
                place = place[int(name)]
            case _:
                return False
    return root == "#"
