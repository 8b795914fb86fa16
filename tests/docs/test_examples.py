"""What stands in blocks of code works: commands parse, files are read."""

import copy
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import jsonschema
import pytest
import yaml

from deployer.cli.main import main
from deployer.stack.fields.model import Stack
from deployer.stack.fields.schema import schema_of
from deployer.stack.load import load
from deployer.stack.yaml12 import parse, plain
from tests.docs.pages import (
    DOCS,
    PAGES,
    Fence,
    commands,
    fences,
    in_language,
    inline_code,
)

CALLS = [
    (fence, call)
    for fence in in_language("console", "bash", "sh")
    for call in commands(fence.text)
] + [
    (fence, call)
    for fence in in_language("text")  # units of systemd
    for call in re.findall(r"(?m)^Exec\w+=\S+/deployer (.+)$", fence.text)
]
OTHER_FILES = {
    "repos": "pre-commit",
    "state": "deployer.yaml",
    "freeze": "deployer.yaml",
    "jobs": "a workflow",
    "services": "a compose file",
}
"""Keys that tell a file of another kind, and which."""


@pytest.mark.parametrize(("fence", "call"), CALLS, ids=str)
def test_a_command_is_one_that_deployer_understands(fence: Fence, call: str) -> None:
    words = [word for word in shlex.split(call) if word != "…"]
    command: click.Command = main
    name = "deployer"
    context = click.Context(main, info_name=name)
    while isinstance(command, click.Group):
        if words and words[0].startswith("-"):
            assert words[0] in {option for p in main.params for option in p.opts}
            return  # `deployer --debug …`, `deployer --help`
        name = words.pop(0)
        found = command.get_command(context, name)
        assert found is not None, f"{fence}: there is no command `{name}`"
        command = found
    command.make_context(name, words, parent=context)


def test_commands_are_found_at_all() -> None:
    assert len(CALLS) > 100
    assert len({call.split()[0] for _, call in CALLS}) > 25


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("$ deployer plan a.yaml  # why\n", ["plan a.yaml"]),
        ("x=1 && .venv/bin/deployer apply a --yes\n", ["apply a --yes"]),
        ("$ modal app logs p | deployer doctor --logs -\n", ["doctor --logs -"]),
        ("$ deployer completion bash >> ~/.bashrc\n", ["completion bash"]),
        ("$ podman run deployer plan stacks\nerror: deployer\n", []),
    ],
)
def test_a_command_is_told_from_what_is_around_it(text: str, found: list[str]) -> None:
    assert [*commands(text)] == found


YAML = in_language("yaml", "yml")


def keys(fence: Fence) -> set[str]:
    return {*(yaml.safe_load(fence.text) or {})}


def is_stack(fence: Fence) -> bool:
    return {"version", "engine"} <= keys(fence)


def is_other(fence: Fence) -> bool:
    return bool(keys(fence) & OTHER_FILES.keys())


def with_overlay(fence: Fence) -> bool:
    return "extends" in keys(fence)


@pytest.mark.parametrize("fence", [f for f in YAML if is_stack(f)], ids=str)
def test_a_whole_stack_loads(fence: Fence, tmp_path: Path) -> None:
    file = tmp_path / "stack.yaml"
    file.write_text(fence.text, encoding="utf-8")
    assert load(file).stack.name


@pytest.mark.parametrize(
    "fence", [f for f in YAML if not is_stack(f) and not is_other(f)], ids=str
)
def test_a_part_of_a_stack_fits_the_model(fence: Fence) -> None:
    value = plain(parse(fence.text, str(fence))[0])
    assert isinstance(value, dict)
    assert value.keys() <= Stack.model_fields.keys(), f"{fence}: not of a stack"
    jsonschema.Draft202012Validator(_nothing_required()).validate(value)


@pytest.mark.parametrize("fence", [f for f in YAML if is_other(f)], ids=str)
def test_a_file_of_another_kind_can_be_read(fence: Fence) -> None:
    assert isinstance(yaml.safe_load(fence.text), dict)


@pytest.mark.parametrize("file", sorted(DOCS.rglob("*.y*ml")), ids=lambda f: f.name)
def test_a_file_to_copy_can_be_read(file: Path) -> None:
    assert isinstance(yaml.safe_load(file.read_text(encoding="utf-8")), dict)


def test_there_is_yaml_of_every_kind() -> None:
    assert sum(map(is_stack, YAML)) >= 2
    assert sum(map(is_other, YAML)) >= 2
    assert sum(map(with_overlay, YAML)) >= 1


@pytest.mark.parametrize("fence", in_language("json"), ids=str)
def test_json_can_be_read(fence: Fence) -> None:
    for value in _values(fence.text):
        assert value is not None


@pytest.mark.parametrize("fence", in_language("python"), ids=str)
def test_python_can_be_compiled(fence: Fence) -> None:
    assert compile(fence.text, str(fence), "exec")


def test_every_block_says_what_it_is() -> None:
    """Without a language nothing would look at it; `text` is for pictures of text."""
    known = {"console", "yaml", "json", "python", "text"}
    assert {str(fence) for fence in fences() if fence.language not in known} == set()


def test_parts_of_a_stack_are_really_looked_at() -> None:
    checker = jsonschema.Draft202012Validator(_nothing_required())
    assert checker.is_valid({"server": {"ctx_size": 1}})
    assert not checker.is_valid({"server": {"ctx_sise": 1}})
    assert not checker.is_valid({"gates": {"chat": {"contains": 3}}})


def _values(text: str) -> Iterator[object]:
    """One value, or one a line."""
    try:
        yield json.loads(text)
    except ValueError:
        yield from (json.loads(line) for line in text.splitlines())


def _nothing_required() -> dict[str, Any]:
    schema = copy.deepcopy(schema_of())
    for section in (schema, *schema["$defs"].values()):
        section.pop("required", None)
    return schema


WORDS = [
    (page, code)
    for page in PAGES
    for code in inline_code(page)
    if code.startswith("deployer ")
]


@pytest.mark.parametrize(("page", "code"), WORDS, ids=lambda part: str(part)[-60:])
def test_a_command_within_a_sentence_exists(page: Path, code: str) -> None:
    """Such words may leave out arguments, and name several commands at once."""
    words = code.partition(" -- ")[0].split()[1:]
    command: click.Command = main
    while isinstance(command, click.Group) and words and words[0][:1].isalpha():
        name = words.pop(0).partition("|")[0]
        found = command.get_command(click.Context(command), name)
        assert found is not None, f"{page.name}: there is no command `{name}`"
        command = found
    known = {name for option in command.params for name in option.opts}
    named = {word.strip("[]").partition("=")[0] for word in words}
    assert {n for n in named if n.startswith("-") and n != "-"} <= known | {"--help"}
