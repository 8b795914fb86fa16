"""The schema is the committed one, and agrees with the model."""

import copy
import json
import random
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from deployer.errors import InternalError
from deployer.stack.fields.model import Stack
from deployer.stack.fields.reference import published_schema
from deployer.stack.fields.schema import DIALECT, schema_of
from deployer.stack.yaml12 import parse, plain
from deployer.usecases.validate import by_schema

ROOT = Path(__file__).parents[2]
STACKS = sorted((ROOT / "stacks").rglob("*.yaml"))
CHECKER = jsonschema.Draft7Validator(schema_of())

FULL: dict[str, Any] = {
    "version": 1,
    "name": "prod",
    "engine": "modal",
    "llama_cpp": {
        "tag": "b9763",
        "patches": ["fix-one"],
        "cuda": "12.8.1",
        "cmake": ["A=ON"],
    },
    "model": {
        "repo": "owner/name-GGUF",
        "revision": "main",
        "quant": "Q4_K_M",
        "mmproj": "F16",
        "alias": "m",
    },
    "gpu": ["L40S", "H100:2"],
    "server": {
        "ctx_size": 32768,
        "n_gpu_layers": "all",
        "tensor_split": [0.5, 1],
        "flash_attn": "on",
        "mmap": False,
        "cache_type_k": "q8_0",
        "chat_template_kwargs": {"deep": [{"a": None}, 1.5]},
        "timeout": "90s",
        "temperature": 0.5,
        "flags": {"keep": 5, "a": True, "b": ["x", 1, 2.5], "c": "text"},
    },
    "auth": {"api_key": {"env": "KEY", "secret": "name"}},
    "snapshot": {
        "enabled": "auto",
        "gpu": True,
        "warmup": [{"prompt": "x", "image": "a.png", "max_tokens": 3, "timeout": 5}],
        "prime": 3,
    },
    "scaling": {"min_containers": 0, "max_containers": 4, "scaledown_window": 300},
    "gates": {
        "health": {},
        "thinking_budget": {"tokens": [0, 64]},
        "tools": {"modes": ["auto", "none"], "roundtrip": True},
        "speed": {"ttft": "2s", "tokens_per_second": 40, "advisory": True},
    },
    "rollout": {"keep": 3, "on_failure": "keep", "strategy": "replace"},
    "local": {"host": "127.0.0.1", "port": 8080, "drain": "1h30m"},
    "modal": {"memory": "24GiB", "cpu": 0.5, "endpoint": "server"},
}

ODD: list[Any] = [
    *(0, 1, -1, 3, 8.5, 10**17, True, False, "", "x", "on", "true", "auto", "Q4_K_M"),
    *("90s", "5", "1h30m", "24GiB", "12 GiB", "a\n", "b1\n", "b1", "b", "A", "a" * 49),
    *(
        "owner/name",
        "owner name/x",
        "http://h/x",
        "a\tb",
        "é",
        "x==1",
        "q8_0",
        "0" * 64,
    ),
    *([], {}, [1], ["a"], [True], [[1]], {"a": 1}, {"prompt": "x"}, {"env": "K"}, [{}]),
]


def paths_in(value: object, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path]
    if isinstance(value, dict):
        for key, below in value.items():
            found += paths_in(below, (*path, key))
    if isinstance(value, list):
        for index, below in enumerate(value):
            found += paths_in(below, (*path, index))
    return found


def mutated(value: dict[str, Any], chance: random.Random) -> dict[str, Any]:
    made = copy.deepcopy(value)
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        path = chance.choice(paths_in(made)[1:])
        inside: Any = made
        for step in path[:-1]:
            inside = inside[step]
        match chance.randrange(4):
            case 0:
                del inside[path[-1]]
            case 1 if isinstance(inside, dict):
                inside[chance.choice(("unknown", "tag", "env", "chat", "a-b"))] = 1
            case _:
                inside[path[-1]] = copy.deepcopy(chance.choice(ODD))
        if not made:
            return made
    return made


def dice(seed: int) -> random.Random:
    return random.Random(seed)  # noqa: S311 - the same mutations in every run


def accepted_by_model(value: object) -> bool:
    try:
        Stack.model_validate_json(json.dumps(value))
    except ValidationError:
        return False
    return True


def test_the_schema_is_a_schema() -> None:
    jsonschema.Draft7Validator.check_schema(schema_of())
    assert schema_of()["$schema"] == DIALECT


def test_beside_a_reference_stands_nothing_that_a_validator_reads() -> None:
    """Draft 7 passes it over; a description is for people."""
    schema = schema_of()
    found = [
        below
        for section in (schema, *schema["$defs"].values())
        for field in section.get("properties", {}).values()
        for below in (field, *field.get("anyOf", ()), field.get("items", {}))
        if "$ref" in below
    ]
    assert len(found) > 20
    assert {key for field in found for key in field} <= {"$ref", "description"}


def test_every_property_has_a_description_and_every_section_is_closed() -> None:
    schema = schema_of()
    anything = schema["$defs"].pop("JsonValue")
    assert anything == {}
    for section in (schema, *schema["$defs"].values()):
        assert section["additionalProperties"] is False
        for name, field in section["properties"].items():
            assert field.get("description"), name


def test_no_editor_is_offered_null() -> None:
    assert "null" not in json.dumps(schema_of())


def test_an_editor_shows_of_every_field_what_the_reference_says() -> None:
    schema = json.loads(published_schema())
    shown = schema["$defs"]["Server"]["properties"]["ctx_size"]["markdownDescription"]
    assert "- Type: an integer of at least 1" in shown
    assert "- Becomes: `--ctx-size`" in shown
    assert "- A change: **snapshot**" in shown
    del schema["$defs"]["JsonValue"]
    for section in (schema, *schema["$defs"].values()):
        for name, field in section["properties"].items():
            assert "- A change: " in field["markdownDescription"], name
    gates = schema["$defs"]["Gates"]["properties"]
    assert gates["chat"]["defaultSnippets"] == [{"label": "chat", "body": {}}]
    host = schema["$defs"]["Local"]["properties"]["host"]
    assert host["examples"][0] == "127.0.0.1"


def test_the_full_example_is_accepted_by_both() -> None:
    CHECKER.validate(FULL)
    assert accepted_by_model(FULL)


@pytest.mark.parametrize("path", STACKS, ids=lambda path: path.stem)
def test_every_stack_of_the_repository_is_valid(path: Path) -> None:
    text = path.read_text("utf-8")
    first = text.splitlines()[0]
    assert first == "# yaml-language-server: $schema=../schema/stack.schema.json"
    CHECKER.validate(plain(parse(text, "s.yaml")[0]))


@settings(max_examples=1500, deadline=None)
@given(st.integers(min_value=0, max_value=2**32))
def test_schema_and_model_agree(seed: int) -> None:
    value = mutated(FULL, dice(seed))
    if isinstance(value.get("version"), bool):
        return  # pydantic's Literal[1] takes true, because Python's 1 equals it
    assert CHECKER.is_valid(value) == accepted_by_model(value), value


def test_the_mutations_make_both_kinds() -> None:
    """Else the agreement would say nothing."""
    seen = [accepted_by_model(mutated(FULL, dice(n))) for n in range(300)]
    assert 30 < sum(seen) < 270


def test_validate_holds_a_stack_against_the_schema_as_well() -> None:
    file = Path("s.yaml")
    assert by_schema(file, FULL, "local") == "urn:deployer:stack:1"
    with pytest.raises(InternalError, match=r"refuses `\$.server.ctx_size` of"):
        by_schema(file, FULL | {"server": {"ctx_size": "large"}}, "local")
