"""No text of a stack leaves the literal it stands in."""

import ast
import json
from functools import cache
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployer.engines.modal.render import comment, lines, literal, options
from deployer.errors import EngineError
from deployer.stack.fields.marks import Section, fields_of
from deployer.stack.fields.model import Stack
from tests.engines.modal.lowering import rendered

HOSTILE = (
    '"""\n\nimport os\nos.system("id")\n"""',
    "'''\n\nimport os\n'''",
    "\\",
    '\\"; import os; "',
    "{{ 7 * 7 }}{% raw %}{{ names }}",
    "#}\nimport os\n{#",
    "line\n    import os",
    "\u202ereversed\u2028next\x85line",
    "f{__import__('os')}",
    "--option=value\ttab",
    "\ud83e\udd99".encode("utf-16", "surrogatepass").decode("utf-16"),
)

BASE: dict[str, Any] = {
    "version": 1,
    "name": "demo",
    "engine": "modal",
    "llama_cpp": {"tag": "b9763", "cuda": "12.8.1", "cmake": ["A=benign"]},
    "model": {
        "repo": "some/model",
        "file": "benign.gguf",
        "mmproj": "benign",
        "alias": "benign",
        "hub_secret": "benign",
        "draft": {"repo": "some/draft", "file": "benign.gguf"},
    },
    "gpu": "L4",
    "server": {
        "chat_template": "benign",
        "chat_template_kwargs": {"benign": "benign"},
        "reasoning_budget_message": "benign",
        "device": ["benign"],
        "override_tensor": ["benign"],
        "speculative": {"type": "draft-simple", "device": ["benign"]},
        "flags": {"one": "benign", "two": ["benign"]},
    },
    "auth": {"api_key": {"secret": "benign", "env": "BENIGN"}},
    "snapshot": {
        "enabled": True,
        "warmup": [
            {"prompt": "benign", "image": "benign.png"},
            {"file": "benign.md", "tools": "benign.json"},
        ],
    },
    "modal": {
        "environment": "benign",
        "workspace": "benign",
        "region": "us-east",
        "mounts": [
            {"at": "/mnt/a", "volume": "benign"},
            {"at": "/mnt/b", "bucket": "benign", "secret": "benign"},
        ],
    },
}
ENDINGS = {
    "model.file": ".png",
    "model.draft.file": ".png",
    "snapshot.warmup.0.image": ".png",
    "snapshot.warmup.1.file": ".md",
    "snapshot.warmup.1.tools": ".json",
}
"""Fields that name a file, and an ending of no other one."""
ROLE_FILE = "model.draft.file"
REACHED = (
    "llama_cpp.cmake.0",
    "llama_cpp.repo",
    "model.file",
    "model.mmproj",
    ROLE_FILE,
    "model.alias",
    "model.hub_secret",
    "server.chat_template",
    "server.chat_template_kwargs.benign",
    "server.reasoning_budget_message",
    "server.device.0",
    "server.override_tensor.0",
    "server.speculative.device.0",
    "server.flags.one",
    "server.flags.two.0",
    "auth.api_key.secret",
    "snapshot.warmup.0.prompt",
    "snapshot.warmup.0.image",
    "snapshot.warmup.1.file",
    "snapshot.warmup.1.tools",
    "modal.environment",
    "modal.region",
    "modal.registry_secret",
    "modal.workspace",
    "modal.mounts.0.volume",
    "modal.mounts.1.bucket",
    "modal.mounts.1.secret",
)
"""Every text of a stack on Modal that a form of its own does not keep tame."""


def put(path: str, text: str) -> dict[str, Any]:
    """The base with one text in place of another."""
    content: dict[str, Any] = json.loads(json.dumps(BASE))
    *above, last = path.split(".")
    inside: Any = content
    for step in above:
        inside = inside[int(step) if step.isdigit() else step]
    inside[int(last) if last.isdigit() else last] = text
    return content


@cache
def shapes(content: str) -> dict[str, str]:
    """The syntax of every file, with each text in it left out."""
    stack = Stack.model_validate_json(content)
    return {name: shape(text) for name, text in rendered(stack).items()}


def shape(text: str) -> str:
    tree = _Flat().visit(ast.parse(text))
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            node.value = "…"
    return ast.dump(tree)


class _Flat(ast.NodeTransformer):
    """Options without the tuples that keep each beside its value."""

    def visit_List(self, node: ast.List) -> ast.List:
        flat: list[ast.expr] = []
        for item in node.elts:
            inner = item.value if isinstance(item, ast.Starred) else None
            flat += inner.elts if isinstance(inner, ast.Tuple) else [item]
        return ast.List(flat, node.ctx)


@pytest.mark.parametrize("path", REACHED)
@pytest.mark.parametrize("text", HOSTILE)
def test_a_hostile_text_changes_no_syntax(path: str, text: str) -> None:
    tame = put(path, "benign-text")
    wild = put(path, text)
    if path == "llama_cpp.cmake.0":
        tame, wild = put(path, "A=benign"), put(path, f"A={text}")
    if path in ENDINGS:
        wild = put(path, text.replace("/", "") + ENDINGS[path])
    of_pins = path in ("llama_cpp.repo", "model.file", "model.mmproj", ROLE_FILE)
    try:
        found = shapes(json.dumps(wild))
    except EngineError:  # not the form of a pin: it reaches no template at all
        found = shapes(json.dumps(tame)) if of_pins else {}
    assert found == shapes(json.dumps(tame))


@pytest.mark.parametrize("text", HOSTILE)
def test_a_hostile_text_arrives_as_it_is(text: str) -> None:
    stack = Stack.model_validate_json(json.dumps(put("server.flags.one", text)))
    tree = ast.parse(rendered(stack)["server.py"])
    constants = [n.value for n in ast.walk(tree) if isinstance(n, ast.Constant)]
    assert text in constants


ROLES = tuple(f"model.{name}." for name in ("mmproj", "draft", "vocoder"))


def test_every_text_of_a_stack_is_reached() -> None:
    """A field that is new has to be tried too, unless its form keeps it tame."""
    reached = {path.rpartition(".")[0] if path[-1] == "0" else path for path in REACHED}
    lists = ("server.chat_template_kwargs", "server.flags", "snapshot.warmup")
    known = reached | set(lists)
    assert free_texts(Stack) - known == {
        # of the local engine, refused on Modal, or read by gates alone
        *("llama_cpp.binary", "llama_cpp.source_path", "model.path"),
        *("model.quant", "model.revision"),  # the lock file names files and a commit
        *("extends", "gpu", "auth.open"),  # not rendered; a name of a table
        *(p for p in free_texts(Stack) if p.startswith("gates.")),
        # pinned as the fields of the model are, which stand above
        *(p for p in free_texts(Stack) - known if p.startswith(ROLES)),
    }


def free_texts(section: type[Section], prefix: str = "") -> set[str]:
    """Every field that takes a text whose form is not narrowed."""
    found: set[str] = set()
    for name, field in fields_of(section).items():
        if field.section is not None:
            found |= free_texts(field.section, f"{prefix}{name}.")
        elif takes_text(section.model_json_schema()["properties"][name], section):
            found.add(f"{prefix}{name}")
    return found


FREE = ("^[^\\x00-\\x08\\x0b-\\x1f\\x7f]*$", None)


def takes_text(schema: Any, section: type[Section]) -> bool:
    """Whether a text of almost any form is let through somewhere in a schema."""
    if not isinstance(schema, dict):
        return False
    free = schema.get("type") == "string" and schema.get("pattern") in FREE
    if free and not schema.get("enum") and not schema.get("const"):
        return True
    inner = [*schema.get("anyOf", ()), schema.get("items")]
    inner.append(schema.get("additionalProperties"))
    return any(takes_text(it, section) for it in inner)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(VALUES)
def test_a_literal_is_the_value_it_stands_for(value: Any) -> None:
    if "inf" not in repr(value):
        assert ast.literal_eval(literal(value)) == value
        assert ast.literal_eval(literal(value, before=80, indent=8)) == value


@given(st.lists(st.text()))
def test_options_are_the_words_they_stand_for(words: list[str]) -> None:
    tree = ast.parse(options(words)).body[0]
    assert isinstance(tree, ast.Expr)
    assert isinstance(tree.value, ast.List)
    found: list[str] = []
    for item in tree.value.elts:
        if isinstance(item, ast.Starred):
            found += ast.literal_eval(item.value)
        else:
            found.append(ast.literal_eval(item))
    assert found == words


@given(st.text())
def test_lines_are_the_text_they_stand_for(text: str) -> None:
    assert "".join(ast.literal_eval(lines(text))) == text


@given(st.text())
def test_a_comment_stays_on_its_line(text: str) -> None:
    source = f'"""{comment(text)}."""\n# {comment(text)}\nx = 1\n'
    assert len(ast.parse(source).body) == 2
    assert source.count("\n") == 3
