"""The JSON schema of a complete stack, generated from the model.

It describes a stack after its overlays are merged.  `null` is not in it: in a file
it removes what a base says, so a merged stack holds none, and no editor offers it.
"""

import json
from functools import cache
from typing import Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from deployer.core.marks import Section
from deployer.core.model import Stack

DIALECT = "http://json-schema.org/draft-07/schema#"
"""What most editors read, and SchemaStore asks for; no later word is in it."""
IDENTIFIER = "urn:deployer:stack:1"


def schema_of() -> dict[str, Any]:
    """The schema that stacks are checked against, as plain JSON values."""
    made = Stack.model_json_schema(mode="validation", schema_generator=_Generator)
    definitions = made["$defs"]
    for section in (made, *definitions.values()):
        for field in section.get("properties", {}).values():
            _describe(field, definitions)
    head = {"$schema": DIALECT, "$id": IDENTIFIER, "title": "deployer stack"}
    return {**head, **made}


def schema_text() -> str:
    """The schema as it is committed: indented, in the order of the model."""
    return json.dumps(schema_of(), indent=2, ensure_ascii=False) + "\n"


@cache
def known_schema() -> dict[str, Any]:
    """The schema for reading; made once, because making it takes milliseconds."""
    return schema_of()


def _describe(field: dict[str, Any], definitions: dict[str, Any]) -> None:
    """Say it on the field too where pydantic leaves it to the section it names."""
    if "description" not in field:
        section = definitions[field["$ref"].rpartition("/")[2]]
        field["description"] = section["description"]


class _Generator(GenerateJsonSchema):
    """Leaves out what a person does not write: nulls, and titles of fields."""

    def nullable_schema(self, schema: core_schema.NullableSchema) -> JsonSchemaValue:
        return self.generate_inner(schema["schema"])

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        """Sections show their defaults on their own fields."""
        if schema.get("default") is None or isinstance(schema["default"], Section):
            return self.generate_inner(schema["schema"])
        return super().default_schema(schema)

    def str_schema(self, schema: core_schema.StringSchema) -> JsonSchemaValue:
        """Python's `$` also matches before a last line break; pydantic's does not."""
        made = super().str_schema(schema)
        if made.get("pattern", "").endswith("$"):
            made["pattern"] += r"(?!\n)"
        return made

    def model_schema(self, schema: core_schema.ModelSchema) -> JsonSchemaValue:
        made = super().model_schema(schema)
        made.pop("title", None)
        return made

    def field_title_should_be_set(self, schema: object) -> bool:  # noqa: ARG002 - theirs
        return False
