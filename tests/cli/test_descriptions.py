"""What a build states about itself decides, wherever the shipped table ends."""

from pathlib import Path

import pytest

from tests.cli.project import Project
from tests.llama.test_tree_options import ARG, FILES, write

STACK = """\
version: 1
name: demo
engine: local
llama_cpp: {tag: b12000, source: path, source_path: ../llama.cpp}
model: {path: tiny.gguf}
server:
  ctx_size: 1024
  flags: {FLAG: 4}
auth: {open: nothing is deployed}
ignore: [{trap: CVE-2026-134540, reason: nothing is deployed}]
"""
NEW = """
    add_opt(common_arg(
        {"--newly-made"}, "N", "(default: 3)",
        [](common_params & params, int value) { params.n_new = value; }
    ));
"""


@pytest.fixture
def source(paper: Project) -> Path:
    """The tree of a build newer than the table, with an option of its own."""
    made = write(paper.folder / "llama.cpp", {**FILES, "ggml/ggml.c": ""})
    (made / "common/arg.cpp").write_text(ARG.rstrip().rstrip("}") + NEW + "}\n")
    return made


@pytest.mark.usefixtures("source")
def test_an_option_that_only_the_source_has_is_valid_once_it_was_read(
    paper: Project,
) -> None:
    paper.write(STACK.replace("FLAG", "newly-made"))
    assert "options are uncertain" in paper.run("validate", "stacks").out
    locked = paper.run("lock", "stacks/demo.yaml")
    assert locked.code == 0, locked.err
    assert '"description": "' in (paper.stack.parent / "demo.lock.json").read_text()

    assert paper.run("validate", "stacks").out == "stacks/demo.yaml: valid\n"
    assert "--newly-made 4" in paper.run("render", "stacks/demo.yaml").out


@pytest.mark.usefixtures("source")
def test_an_option_that_the_source_lacks_is_refused_once_it_was_read(
    paper: Project,
) -> None:
    paper.write(STACK.replace("FLAG", "newly-mode"))
    refused = paper.run("plan", "stacks/demo.yaml")
    assert refused.code == 3
    assert "b12000 has no option `--newly-mode`" in refused.err
    assert "did you mean `newly-made`?" in refused.err


def test_flags_prints_what_a_tree_states(paper: Project, source: Path) -> None:
    said = paper.run("explain", "flag", "newly-made", "--from", str(source)).out
    assert "by its source tree" in said.splitlines()[0]
    assert "  default       3" in said.splitlines()
    every = paper.run("explain", "flag", "--from", str(source), "--json").lines()
    assert every[1]["routes"] == ["GET /health", "POST /v1/chat/completions"]


def test_a_changed_source_is_read_again(paper: Project, source: Path) -> None:
    paper.write(STACK.replace("FLAG", "newly-made"))
    assert paper.run("lock", "stacks/demo.yaml").code == 0
    (source / "common/arg.cpp").write_text(ARG)

    refused = paper.run("plan", "stacks/demo.yaml")
    assert "b12000 has no option `--newly-made`" in refused.err
