"""The JSON schema of a complete stack, generated from the model.

It describes a stack after its overlays are merged.  `null` is not in it: in a file
it removes what a base says, so a merged stack holds none, and no editor offers it.

llama-server's short and second names over builds b8646 to b11434, and the names
that llama-cpp-python and ollama use.  Dashes are written as underscores.
"""

import ast
import inspect
from collections.abc import Iterator, Mapping
from copy import deepcopy
from functools import cache
from itertools import pairwise
from typing import Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from deployer.stack.fields.marks import Section
from deployer.stack.fields.model import Stack

DIALECT = "http://json-schema.org/draft-07/schema#"
"""The dialect that most editors read and SchemaStore asks for."""
IDENTIFIER = "urn:deployer:stack:1"


def schema_of(root: type[Section] = Stack) -> dict[str, Any]:
    """Return the schema that files are checked against, as plain JSON values."""
    return deepcopy(_schema_of(root))


@cache
def _schema_of(root: type[Section]) -> dict[str, Any]:
    made = root.model_json_schema(mode="validation", schema_generator=_Generator)
    definitions = made.get("$defs", {})
    classes = {section.__name__: section for section in _below(Section)}
    for name, section in ({root.__name__: made} | definitions).items():
        if name not in classes:
            continue
        written = written_below(classes[name])
        fields = section.get("properties", {})
        for field, schema in fields.items():
            told = written.get(field) or _said_of(schema, definitions)
            fields[field] = dict(sorted({**schema, "description": told}.items()))
    head = {"$schema": DIALECT, "$id": IDENTIFIER, "title": "deployer stack"}
    return {**head, **made}


@cache
def followed_schema(root: type[Section]) -> Mapping[str, Any]:
    """Return the schema with each reference replaced by what it refers to."""
    made = schema_of(root)
    definitions = made.pop("$defs", {})

    def followed(node: Any) -> Any:  # noqa: ANN401 - JSON
        match node:
            case {"$ref": str(name), **beside}:
                return {**followed(definitions[name.rpartition("/")[2]]), **beside}
            case dict():
                return {key: followed(value) for key, value in node.items()}
            case list():
                return [followed(item) for item in node]
            case _:
                return node

    found: Mapping[str, Any] = followed(made)
    return found


def _below(section: type[Section]) -> Iterator[type[Section]]:
    """Every kind of section that there is."""
    for kind in section.__subclasses__():
        yield kind
        yield from _below(kind)


def written_below(section: type[Section]) -> dict[str, str]:
    """The text below each field in the source of a class, or of one it comes from.

    Only the schema tells it, and reading sources takes longer than a plan: so pydantic
    is not asked to do it for every run.
    """
    found: dict[str, str] = {}
    for above in reversed(section.__mro__):
        if not issubclass(above, Section):
            continue
        (defined,) = ast.parse(inspect.getsource(above)).body
        for field, text in pairwise(getattr(defined, "body", ())):
            match field, text:
                case (
                    ast.AnnAssign(target=ast.Name(name)),
                    ast.Expr(value=ast.Constant(str(said))),
                ):
                    found[name] = inspect.cleandoc(said)
                case _:
                    pass
    return found


def _said_of(schema: dict[str, Any], definitions: dict[str, Any]) -> str:
    """Return the docstring of the section that a field names, alone or by name."""
    below = schema.get("additionalProperties", schema)
    section = definitions[below["$ref"].rpartition("/")[2]]
    return str(section["description"])


class _Generator(GenerateJsonSchema):
    """Leaves out what a person does not write: nulls, and titles of fields."""

    def nullable_schema(self, schema: core_schema.NullableSchema) -> JsonSchemaValue:
        return self.generate_inner(schema["schema"])

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        """Sections show their defaults on their own fields."""
        if schema.get("default") is None:
            return self.generate_inner(schema["schema"])
        return super().default_schema(schema)

    def str_schema(self, schema: core_schema.StringSchema) -> JsonSchemaValue:
        """Python's `$` also matches before a last line break; pydantic's does not."""
        made = super().str_schema(schema)
        if made.get("pattern", "").endswith("$"):
            made["pattern"] += r"(?!\n)"
        return made

    def dict_schema(self, schema: core_schema.DictSchema) -> JsonSchemaValue:
        """Say the form of a name apart from what it stands for: it has to hold."""
        made = super().dict_schema(schema)
        for pattern, entry in made.pop("patternProperties", {}).items():
            made.setdefault("propertyNames", {})["pattern"] = pattern
            made["additionalProperties"] = entry
        return made

    def model_schema(self, schema: core_schema.ModelSchema) -> JsonSchemaValue:
        made = super().model_schema(schema)
        made.pop("title", None)
        return made

    def field_title_should_be_set(self, schema: object) -> bool:  # noqa: ARG002 - theirs
        return False


OTHER_NAMES: Mapping[str, str] = {
    "t": "threads",
    "tb": "threads_batch",
    "c": "ctx_size",
    "n_predict": "predict",
    "n": "predict",
    "b": "batch_size",
    "ub": "ubatch_size",
    "swa_checkpoints": "ctx_checkpoints",
    "ctxcp": "ctx_checkpoints",
    "cram": "cache_ram",
    "kvu": "kv_unified",
    "fa": "flash_attn",
    "s": "seed",
    "temp": "temperature",
    "kvo": "kv_offload",
    "ctk": "cache_type_k",
    "ctv": "cache_type_v",
    "np": "parallel",
    "cb": "cont_batching",
    "dev": "device",
    "ot": "override_tensor",
    "ncmoe": "n_cpu_moe",
    "gpu_layers": "n_gpu_layers",
    "ngl": "n_gpu_layers",
    "sm": "split_mode",
    "ts": "tensor_split",
    "mg": "main_gpu",
    "embedding": "embeddings",
    "rerank": "reranking",
    "to": "timeout",
    "rea": "reasoning",
    "lv": "verbosity",
    "log_verbosity": "verbosity",
    "lm": "mmap",
    "n_ctx": "ctx_size",
    "num_ctx": "ctx_size",
    "context": "ctx_size",
    "context_size": "ctx_size",
    "max_model_len": "ctx_size",
    "n_parallel": "parallel",
    "num_parallel": "parallel",
    "n_batch": "batch_size",
    "n_ubatch": "ubatch_size",
    "n_threads": "threads",
    "num_thread": "threads",
    "num_gpu": "n_gpu_layers",
    "flash_attention": "flash_attn",
    "use_mmap": "mmap",
    "use_mlock": "mlock",
    "type_k": "cache_type_k",
    "type_v": "cache_type_v",
}
