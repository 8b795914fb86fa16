"""Stacks and plan files of strangers: what they reach, run, write and print."""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deployer.cli.comment import comment_of
from deployer.show.text import plan_text
from deployer.usecases.plan_file import from_json
from tests.cli.project import STACK, Project

pytestmark = pytest.mark.trust
DEMO = "stacks/demo.yaml"
UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]"
)
ATTACK = "\x1b]0;owned\x07\x1b[2J\u202e`</details><script>@everyone|\r\x9b31m"


@pytest.fixture
def outside(paper: Project, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that is none of the project's business."""
    (paper.folder / ".git").mkdir()
    folder = tmp_path_factory.mktemp("private")
    (folder / "secret.gguf").write_bytes(
        b"GGUF\x03\0\0\0" + bytes(16) + b" the private words"
    )
    (folder / "base.yaml").write_text("version: 1\nname: private-words\n")
    return folder


_FOLDERS = {"llama_cpp.source_path", "llama_cpp.repo"}
NAMED: dict[str, Callable[[str], str]] = {
    "model.path": lambda p: STACK.replace("path: tiny.gguf", f"path: {p}/secret.gguf"),
    "model.mmproj": lambda p: STACK.replace(
        "alias: tiny", f"alias: tiny\n  mmproj: {p}/secret.gguf"
    ),
    "llama_cpp.binary": lambda p: STACK.replace("BINARY", f"{p}/secret.gguf"),
    "llama_cpp.source_path": lambda p: STACK.replace(
        "binary: BINARY", f"source: path\n  source_path: {p}"
    ),
    "llama_cpp.repo": lambda p: STACK.replace(
        "binary: BINARY", f"source: git\n  repo: file://{p}"
    ),
    "server.chat_template": lambda p: STACK.replace(
        "parallel: 2", f"parallel: 2\n  chat_template: {p}/secret.jinja"
    ),
    "gates.quality.file": lambda p: f"{STACK}  quality: {{file: {p}/secret.gguf}}\n",
    "gates.regression.file": lambda p: (
        f"{STACK}  regression: {{file: {p}/secret.gguf}}\n"
    ),
    "snapshot.warmup": lambda p: (
        f"{STACK}snapshot: {{warmup: [{{image: {p}/secret.gguf, prompt: a}}]}}\n"
    ),
    "snapshot.warmup.file": lambda p: (
        f"{STACK}snapshot: {{warmup: [{{file: {p}/secret.gguf}}]}}\n"
    ),
    "snapshot.warmup.tools": lambda p: (
        f"{STACK}snapshot: {{warmup: [{{tools: {p}/secret.gguf, prompt: a}}]}}\n"
    ),
    "extends": lambda p: f"extends: {p}/base.yaml\n{STACK}",
}


@pytest.mark.parametrize("field", NAMED)
def test_no_field_reads_a_file_outside_of_the_project(
    paper: Project, outside: Path, field: str
) -> None:
    (outside / "secret.jinja").write_text("the private words")
    paper.write(NAMED[field](str(outside)))
    done = paper.run("plan", DEMO)
    assert done.code == 3
    assert re.search(
        r"demo.yaml:\d+:\d+: error: `.*` is outside the (proj|repo)", done.err
    )
    assert "private words" not in done.out + done.err


@pytest.mark.parametrize("command", ["validate", "lock", "apply", "fetch"])
def test_no_command_does(paper: Project, outside: Path, command: str) -> None:
    paper.write(NAMED["model.path"](str(outside)))
    done = paper.run(command, DEMO)
    assert done.code == 3
    assert "is outside the project" in done.err


@pytest.mark.parametrize("field", [f for f in NAMED if f not in _FOLDERS])
def test_no_link_of_the_project_leads_out_of_it(
    paper: Project, outside: Path, field: str
) -> None:
    (outside / "secret.jinja").write_text("the private words")
    (paper.stack.parent / "link").symlink_to(outside)
    paper.write(NAMED[field]("link"))
    done = paper.run("plan", DEMO)
    assert done.code == 3
    assert "is outside the " in done.err
    assert "private words" not in done.out + done.err


def test_the_user_may_allow_a_folder(paper: Project, outside: Path) -> None:
    paper.write(NAMED["model.path"](str(outside)))
    done = paper.run("plan", DEMO)
    (command,) = re.findall(r"`export (DEPLOYER_ALLOW_OUTSIDE)=(.*)`", done.err)
    allowed = {command[0]: f"{paper.binary.parent}{os.pathsep}{command[1]}"}
    assert paper.run("plan", DEMO, env=allowed).code == 0
    assert paper.run("plan", DEMO).code == 3


def test_no_file_of_the_project_allows_anything(paper: Project, outside: Path) -> None:
    paper.write(NAMED["model.path"](str(outside)))
    (paper.stack.parent / ".env").write_text(f"DEPLOYER_ALLOW_OUTSIDE={outside}\n")
    (paper.folder / "deployer.yaml").write_text(
        f"version: 1\nallow_outside: [{outside}]\n"
    )
    assert paper.run("plan", DEMO).code == 3


def test_patches_come_from_the_project(paper: Project, outside: Path) -> None:
    (outside / "patch.yaml").write_text("why: the private words\n")
    (paper.folder / "patches").mkdir()
    (paper.folder / "patches/stolen").symlink_to(outside)
    paper.write(STACK.replace("binary: BINARY", "source: git\n  patches: [stolen]"))
    done = paper.run("plan", DEMO)
    assert done.code == 3
    assert "the patch `stolen` lies outside the project" in done.err
    assert "private words" not in done.err


def test_no_link_moves_the_state_out_of_the_project(
    paper: Project, outside: Path
) -> None:
    (paper.stack.parent / ".deployer").symlink_to(outside)
    done = paper.run("apply", DEMO, "--yes")
    assert done.code == 3
    assert "leads out of the project of the stack" in done.err
    assert not (outside / "state").exists()


@pytest.mark.parametrize(
    "name", ["demo.lock.json", ".deployer/state/demo.state.json", ".env"]
)
def test_no_file_beside_a_stack_is_a_link_out_of_the_project(
    paper: Project, outside: Path, name: str
) -> None:
    words = "LLAMA_API_KEY=the private words"
    (outside / "secret.json").write_text(words)
    file = paper.stack.parent / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.symlink_to(outside / "secret.json")
    done = paper.run("apply", DEMO, "--yes", env={"LLAMA_API_KEY": None})
    assert done.code in {1, 3}
    assert f"{name}` is a link out of the project" in done.err
    assert "private words" not in done.out + done.err
    assert (outside / "secret.json").read_text() == words


def test_the_user_may_allow_an_env_file_elsewhere(
    paper: Project, outside: Path
) -> None:
    (outside / "env").write_text("LLAMA_API_KEY=# no key\n")
    (paper.stack.parent / ".env").symlink_to(outside / "env")
    allowed = f"{paper.binary.parent}{os.pathsep}{outside}"
    variables = {"LLAMA_API_KEY": None, "DEPLOYER_ALLOW_OUTSIDE": allowed}
    done = paper.run("apply", DEMO, "--yes", env=variables)
    assert "is a link out of the project" not in done.err


@pytest.mark.parametrize(
    "name", ["stacks/new.yaml", "stacks/.env.example", "stacks/.gitignore", "schema"]
)
def test_a_new_project_is_not_written_through_a_link(
    paper: Project, outside: Path, name: str
) -> None:
    target = outside if name == "schema" else outside / "written"
    before = set(outside.iterdir())
    (paper.folder / name).symlink_to(target)
    done = paper.run("init", "stacks/new.yaml")
    assert done.code == 1, done.out + done.err
    assert "leads out of the folder" in done.err
    assert set(outside.iterdir()) == before
    assert not (paper.folder / "stacks/new.yaml").exists()


def test_reading_a_stack_runs_nothing_of_it(paper: Project) -> None:
    """The binary, a gate's command, a template: plan and its like start none."""
    mark = paper.folder / "ran"
    paper.binary.write_text(f"#!/bin/sh\ntouch {mark}\n")
    script = paper.stack.parent / "gate.sh"
    script.write_text(f"#!/bin/sh\ntouch {mark}\n")
    script.chmod(0o755)
    paper.write(f"{STACK}  custom: {{smoke: {{command: [./gate.sh]}}}}\n")
    for command in ("validate", "lock", "plan", "refresh"):
        assert paper.run(command, DEMO).code == 0, command
    paper.run("plan", DEMO, "--out", "demo.plan")
    assert paper.run("plan", "demo.plan").code == 0
    assert not mark.exists()


def attacked(value: Any) -> Any:
    """The same plan, with every text in it turned into an attack.

    Not what has a form of its own: the plan is refused then.
    """
    match value:
        case dict():
            return {
                _key(key): entry if key in _FORMED else attacked(entry)
                for key, entry in value.items()
            }
        case list():
            return [attacked(entry) for entry in value]
        case str() if value in _WORDS or not value:
            return value
        case str():
            return value + ATTACK
        case _:
            return value


def _key(key: str) -> str:
    """Paths of fields are texts of the file too."""
    return key + ATTACK if "." in key else key


_FORMED = {"address", "key", "needs", "stack", "engine", "lineage", "file"}


_WORDS = {
    *("keep", "note", "validate", "update", "start", "replace", "create", "delete"),
    *("field", "lock", "need", "new", "undeclared", "recipe", "drift"),
    *("build", "weights", "snapshot", "server", "deployer plan"),
    *("staging", "staged", "retiring", "stopped"),
}


def test_no_text_of_a_plan_file_moves_the_cursor_or_breaks_the_markup() -> None:
    forms = Path(__file__).parent.parent / "state/forms"
    content = json.loads((forms / "plan-1.json").read_text())
    for change in content["plan"]["changes"]:
        thing = change["before"] or change["after"]
        path = next(iter(thing["fields"]))
        change["reasons"] += [
            {
                "calls_for": "replace",
                "cause": cause,
                "path": path,
                "before": "a",
                "after": "b",
                "detail": "c",
            }
            for cause in ("field", "need", "drift", "recipe")
        ]
    content["plan"]["drift"] = [{"address": "a", "detail": "b"}]
    saved = from_json(json.dumps(attacked(content)), "f")
    text = plan_text(saved.plan, saved.places, steps=True)
    assert "owned" in text
    assert not UNSEEN.search(text)
    markdown = comment_of(saved, Path("stacks/a.yaml"))
    assert not UNSEEN.search(markdown)
    from markdown_it import MarkdownIt  # noqa: PLC0415 - slow to import

    html = MarkdownIt("commonmark").enable("table").render(markdown)
    assert "<script>" not in html
    assert html.count("</details>") == 1
    assert not re.search(r"@everyone(?![^<]*</code>)", html)


@pytest.mark.parametrize("name", ["a\x1b[2Jb.yaml", "a\u202eb.yaml", "a\x9b31mb.yaml"])
def test_no_file_name_moves_the_cursor(paper: Project, name: str) -> None:
    done = paper.run("plan", f"stacks/{name}")
    assert done.code == 3
    assert not UNSEEN.search(done.out + done.err)
    (paper.stack.parent / name).write_text("version: 1\nno such: 1\n")
    done = paper.run("plan", f"stacks/{name}")
    assert not UNSEEN.search(done.out + done.err)
