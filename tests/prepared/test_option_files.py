"""Files behind options: each of the catalogue that takes one, on its newest build."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from deployer.diagnostics import diagnostics_text
from deployer.errors import StackError
from deployer.llama import catalogue as shipped
from deployer.llama.catalogue import Standing, catalogue
from deployer.planning.resources import Kind
from deployer.stack.load import load
from deployer.usecases.context.settings import Options
from deployer.usecases.plan import prepare
from tests.prepared.world import World, world

BUILDS = shipped._read().builds
STACK = """\
version: 1
name: files
engine: ENGINE
llama_cpp: {tag: bBUILD, binary: ../server/llama-server}
model: {path: ../tiny.gguf, alias: tiny}
auth: {api_key: {env: KEY}}
server: {flags: {OPTION: VALUE}}
"""


def newest() -> Iterator[tuple[str, int]]:
    """Every option that takes a file, and the newest build that takes it."""
    found = {
        option.name.removeprefix("--"): build
        for build in BUILDS
        for option in catalogue(build).options
        if option.file and option.standing is not Standing.REMOVED
    }
    yield from found.items()


TAKE_FILES = dict(newest())
WRITTEN = {"log-prompts-dir", "lookup-cache-dynamic", "slot-save-path"}
REFUSED = {
    "api-key-file": "write `auth.api_key`; the engine writes the file",
    "chat-template-file": "write `server.chat_template`",
    "log-file": "the engine keeps the log: `deployer logs`",
    "control-vector": "write `model.control_vectors",
    "control-vector-scaled": "write `model.control_vectors",
    "lora": "write `model.lora",
    "lora-scaled": "write `model.lora",
    "mmproj": "write `model.mmproj`",
    "model-draft": "write `model.draft`",
    "model-vocoder": "write `model.vocoder`",
    "spec-draft-model": "write `model.draft`",
    "model": "write one of `model.repo`, `model.path`, `model.url`, `model.pypi`",
    "ssl-cert-file": "let a reverse proxy in front of the server do that",
    "ssl-key-file": "let a reverse proxy in front of the server do that",
}
PINNED = sorted({*TAKE_FILES} - {*REFUSED} - WRITTEN)


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    found = world(tmp_path, 0)
    monkeypatch.chdir(tmp_path / "project")
    return found


def written(made: World, option: str, value: str, engine: str = "local") -> Path:
    text = STACK.replace("ENGINE", engine).replace("OPTION", option)
    text = text.replace("VALUE", value).replace("BUILD", str(TAKE_FILES[option]))
    return made.write("stacks/files.yaml", text)


def refusal(file: Path) -> str:
    try:
        load(file)
    except StackError as error:
        return diagnostics_text(error.problems)
    return ""


def key(made: World, file: Path) -> str:
    prepared, _ = prepare(file, made.settings, Options())
    nodes = {node.kind: node for node in prepared.graph.values()}
    return nodes[Kind.SERVER].key


def test_most_options_that_take_files_are_pinned() -> None:
    assert len(PINNED) >= 8
    assert {*REFUSED, *WRITTEN} <= {*TAKE_FILES}


@pytest.mark.parametrize("option", PINNED)
def test_another_content_is_another_plan(option: str, made: World) -> None:
    scale = ":0.5" if option.endswith("-scaled") else ""
    file = written(made, option, f"one.file{scale}")
    one = made.write("stacks/one.file", "before")
    before = key(made, file)
    one.write_text("after that")
    changed = key(made, file)
    times = one.stat()
    one.rename(one.with_name("other"))
    one.write_text("after THAT")
    os.utime(one, ns=(times.st_atime_ns, times.st_mtime_ns))
    replaced = key(made, file)
    assert len({before, changed, replaced}) == 3
    one.unlink()
    assert "8:" in refusal(file)
    assert "there is no file `one.file`" in refusal(file)


@pytest.mark.parametrize("option", ["media-path", "path", "models-dir"])
def test_a_folder_is_all_that_is_in_it(option: str, made: World) -> None:
    file = written(made, option, "data")
    made.write("stacks/data/in/a.txt", "one")
    keys = [key(made, file)]
    made.write("stacks/data/in/b.txt", "two")
    keys.append(key(made, file))
    made.write("stacks/data/in/b.txt", "new")
    keys.append(key(made, file))
    assert len({*keys}) == 3


@pytest.mark.parametrize("option", sorted(WRITTEN))
def test_what_is_written_need_not_be_there(option: str, made: World) -> None:
    assert refusal(written(made, option, "later")) == ""
    assert "there is no file" in refusal(written(made, option, "no/folder/later"))
    assert "outside the project" in refusal(written(made, option, "/root/x"))


@pytest.mark.parametrize("option", sorted(TAKE_FILES))
def test_a_file_lies_in_the_project(option: str, made: World) -> None:
    """As of every other path of a stack, or the option is no option of a stack."""
    expected = REFUSED.get(option, "outside the project")
    assert expected in refusal(written(made, option, "/etc/passwd"))


@pytest.mark.parametrize("option", PINNED)
def test_what_lies_beside_the_stack_is_not_served(option: str, made: World) -> None:
    for folder in (".", "..", "../stacks"):
        assert refusal(written(made, option, folder)) != ""


def test_modal_gets_files_and_nothing_else(made: World) -> None:
    """What cannot be carried into a container is refused with the reason."""
    for name in ("g.gbnf", "draft.gguf", "data/a.png"):
        made.write(f"stacks/{name}", "content")
    for option, value, expected in (
        ("lookup-cache-static", "draft.gguf", "is a file of weights, which is too"),
        ("media-path", "data", "is a folder, and only files go into a container"),
        ("slot-save-path", "data", "is lost when a container stops"),
    ):
        assert expected in refusal(written(made, option, value, "modal"))
    assert "g.gbnf" not in refusal(written(made, "grammar-file", "g.gbnf", "modal"))
