"""One walk over the files that a stack names; whatever asks for files asks it."""

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from deployer.diagnostics import diagnostics_text
from deployer.errors import StackError
from deployer.stack.fields.marks import Section, fields_of
from deployer.stack.fields.model import Stack
from deployer.stack.fields.values import Flat, JsonValue
from deployer.stack.files import named_in, nested
from deployer.stack.load import load

CODE = Path(__file__).parents[2] / "deployer"
HEAD = "version: 1\nname: s\nengine: local\n"
PLAIN = "llama_cpp: {tag: b10434}\nmodel: {path: it.gguf}\n"

NAMES: Mapping[str, tuple[str, str]] = {
    "llama_cpp.binary": (
        "llama_cpp: {tag: b10434, binary: NAME}\nmodel: {path: it.gguf}\n",
        "it",
    ),
    "llama_cpp.source_path": (
        PLAIN.replace("b10434", "b10434, source: path, source_path: NAME"),
        "it",
    ),
    "llama_cpp.repo": (
        'llama_cpp: {tag: b10434, repo: "file://NAME"}\nmodel: {path: it.gguf}\n',
        "/it",
    ),
    "model.path": ("llama_cpp: {tag: b10434}\nmodel: {path: NAME}\n", "it"),
    "model.mmproj": (
        "llama_cpp: {tag: b10434}\nmodel: {path: it.gguf, mmproj: NAME}\n",
        "it",
    ),
    **{
        f"model.{part}.path": (
            PLAIN.replace(".gguf", f".gguf, {part}: {{path: NAME}}"),
            "it",
        )
        for part in ("mmproj", "draft", "vocoder")
    },
    **{
        f"model.{part}.0.path": (
            PLAIN.replace(".gguf", f".gguf, {part}: [{{path: NAME}}]"),
            "it",
        )
        for part in ("lora", "control_vectors")
    },
    "server.chat_template": (f"{PLAIN}server: {{chat_template: NAME}}\n", "it.jinja"),
    "server.flags": (f"{PLAIN}server: {{flags: {{grammar-file: NAME}}}}\n", "it"),
    "snapshot.warmup.0.image": (
        PLAIN.replace(".gguf", ".gguf, mmproj: it.gguf")
        + "snapshot: {warmup: [{prompt: Hello, image: NAME}]}\n",
        "it.png",
    ),
    "snapshot.warmup.0.file": (
        f"{PLAIN}snapshot: {{warmup: [{{file: NAME}}]}}\n",
        "agent.md",
    ),
    "snapshot.warmup.0.tools": (
        f"{PLAIN}snapshot: {{warmup: [{{prompt: Hello, tools: NAME}}]}}\n",
        "tools.json",
    ),
    "gates.prompt_cache.tools": (
        f"{PLAIN}gates: {{prompt_cache: {{tools: NAME}}}}\n",
        "tools.json",
    ),
    "gates.rerank.file": (f"{PLAIN}gates: {{rerank: {{file: NAME}}}}\n", "it"),
    "gates.prompt_cache.file": (
        f"{PLAIN}gates: {{prompt_cache: {{file: NAME}}}}\n",
        "it",
    ),
    "gates.quality.file": (f"{PLAIN}gates: {{quality: {{file: NAME}}}}\n", "it"),
    "gates.regression.file": (f"{PLAIN}gates: {{regression: {{file: NAME}}}}\n", "it"),
    "gates.custom.mine.command": (
        f"{PLAIN}gates: {{custom: {{mine: {{command: [NAME]}}}}}}\n",
        "it",
    ),
    "gates.custom.mine.python": (
        f'{PLAIN}gates: {{custom: {{mine: {{python: "NAME:run"}}}}}}\n',
        "it.py",
    ),
}
"""A stack that names a file in each marked field, and the name."""
FREE = {"llama_cpp.source_path", "llama_cpp.repo", "gates.custom.mine.command"}
"""Fields whose file or folder need not be there."""


def marked(section: type[Section], above: str = "") -> Iterator[str]:
    for name, field in fields_of(section).items():
        if field.file is not None:
            yield f"{above}{name}"
        for inner in filter(None, (field.section, field.item)):
            yield from marked(inner, f"{above}{name}.")


def refusals(folder: Path, text: str) -> str:
    file = folder / "s.yaml"
    file.write_text(HEAD + text)
    (folder / "it.gguf").touch()
    try:
        load(file)
    except StackError as error:
        return diagnostics_text(error.problems)
    return ""


def test_every_marked_field_has_an_example() -> None:
    plain = {re.sub(r"\.(0|mine)\b", "", path) for path in NAMES}
    assert plain == {*marked(Stack)}


@pytest.mark.parametrize("path", NAMES)
def test_a_file_that_is_missing_is_refused_where_it_is_named(
    tmp_path: Path, path: str
) -> None:
    text, name = NAMES[path]
    if path == "llama_cpp.repo":
        name = str(tmp_path / "it")
    found = refusals(tmp_path, text.replace("NAME", name))
    if path in FREE:
        assert found == ""
    else:
        assert f"there is no file `{name}`" in found


@pytest.mark.parametrize("path", NAMES)
def test_a_file_outside_the_project_is_refused(tmp_path: Path, path: str) -> None:
    (tmp_path / "project").mkdir()
    text, name = NAMES[path]
    outside = str(tmp_path / name.strip("/"))
    Path(outside).touch()
    found = refusals(tmp_path / "project", text.replace("NAME", outside))
    if path == "gates.custom.mine.command":  # a word, or a program of the system
        assert found == ""
    else:
        assert "is outside the project of the stack" in found
        assert f"export DEPLOYER_ALLOW_OUTSIDE={tmp_path}`" in found


TOOL = '{"type": "function", "function": {"name": "look"}}'


@pytest.mark.parametrize(
    ("path", "content", "what"),
    [
        ("snapshot.warmup.0.file", b"\xff\xfe", "expected UTF-8"),
        ("snapshot.warmup.0.file", "You are an agent, ärgerlich".encode(), ""),
        ("snapshot.warmup.0.tools", b"[{", "expected JSON: "),
        ("snapshot.warmup.0.tools", b"[]", "expected a list of tools, each"),
        ("snapshot.warmup.0.tools", TOOL.encode(), "expected a list of tools, each"),
        ("snapshot.warmup.0.tools", b'[{"name": "look"}]', "expected a list of tools"),
        ("snapshot.warmup.0.tools", f"[{TOOL}]".encode(), ""),
        ("gates.prompt_cache.tools", b"{}", "expected a list of tools, each"),
    ],
)
def test_a_file_with_other_content_is_refused(
    tmp_path: Path, path: str, content: bytes, what: str
) -> None:
    text, name = NAMES[path]
    (tmp_path / name).write_bytes(content)
    found = refusals(tmp_path, text.replace("NAME", name))
    assert (f"`{name}`: {what}" in found) if what else not found, found


def test_values_that_are_wrong_name_what_they_can() -> None:
    values: JsonValue = {
        "llama_cpp": {"binary": 7},
        "model": [],
        "snapshot": {"warmup": [3, {"image": "a.png"}]},
        "gates": {"custom": {"one": None, "two": {"command": ["b.sh", 2, "b.sh"]}}},
    }
    assert [(it.path, it.name) for it in named_in(values)] == [
        ("snapshot.warmup.1.image", "a.png"),
        ("gates.custom.two.command", "b.sh"),
    ]


def test_what_a_deployed_server_needs_is_named_by_its_fields() -> None:
    fields: Flat = {
        "server.chat_template": "mine.jinja",
        "server.chat_template.sha256": "0",
        "server.flags.grammar-file": "g.gbnf",
        "server.flags.grammar-file.g.gbnf.sha256": "0",
        "snapshot.warmup": [
            {"prompt": "Hello", "image": "a.png"},
            {"file": "agent.md", "tools": "tools.json"},
        ],
        "gates.quality.file": "q.jsonl",
    }
    found = {it.name: it for it in named_in(nested(fields))}
    served = [name for name, it in found.items() if it.served]
    assert served == ["mine.jinja", "g.gbnf", "a.png", "agent.md", "tools.json"]
    assert [name for name, it in found.items() if it.judged] == ["q.jsonl"]
    assert found["mine.jinja"].digest == "server.chat_template.sha256"


READS_MARKS = {
    "llama/catalogue.py": "the options that take a file",
    "stack/files.py": "the walk",
    "stack/load.py": "a folder need not be a file, git finds a repository by itself",
    "usecases/reading/inputs.py": "as above",
    "usecases/editor.py": "completes the names of files",
}
"""Modules outside `fields/` that may know the marks, and why."""


def test_no_other_module_knows_what_makes_a_value_a_file() -> None:
    """The marks stand on the fields alone, and only the walk tells files from names."""
    readers, endings = set(), set()
    for file in CODE.rglob("*.py"):
        name = file.relative_to(CODE).as_posix()
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            match node:
                case ast.ImportFrom(module="deployer.stack.fields.values", names=some):
                    if {"File", "Folder"} & {it.name for it in some}:
                        readers.add(name)
                case ast.Constant(".jinja"):
                    endings.add(name)
                case _:
                    pass
    fields = {it for it in readers if it.startswith("stack/fields/")}
    assert readers - fields == {*READS_MARKS}
    # The runtime, which knows no stack, names the templates that a build brought.
    assert endings == {"stack/fields/values.py", "runtime/serve.py"}
