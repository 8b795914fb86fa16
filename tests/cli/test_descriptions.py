"""What a build states about itself decides, wherever the shipped table ends."""

from pathlib import Path

import pytest

from deployer.artefacts.sources import paths
from deployer.artefacts.sources.files import DigestCache
from deployer.llama import description
from deployer.llama.catalogue import catalogue
from deployer.planning.progress import unwatched
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
BUDGET = "gates: {thinking_budget: {}}"
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


TAGS = 'data.thinking_start_tag = "<|channel>thought";'
THINKS = """
    auto budget = json_value(body, "thinking_budget_tokens", -1);
"""


@pytest.mark.parametrize(("chat", "code"), [(TAGS, 0), ("", 3)])
def test_an_issue_that_a_source_decides_is_judged_after_it_was_read(
    paper: Project, source: Path, chat: str, code: int
) -> None:
    """By its number b8700 ignores the budget of Gemma 4; a fork may have mended it."""
    server = source / "tools/server/server.cpp"
    server.write_text(server.read_text() + THINKS)
    (source / "common/chat.cpp").write_text(chat)
    model = paper.stack.parent / "tiny.gguf"
    model.rename(model.with_name("gemma-4.gguf"))
    stack = STACK.replace("b12000", "b8700").replace("  flags: {FLAG: 4}", BUDGET)
    paper.write(stack.replace("tiny.gguf", "gemma-4.gguf"))

    done = paper.run("plan", "stacks/demo.yaml")

    assert ("the thinking budget of Gemma 4 has no effect" in done.err) == bool(code)
    assert done.code in ((3,) if code else (0, 2)), done.err


def test_flags_prints_what_a_tree_states(paper: Project, source: Path) -> None:
    said = paper.run("explain", "flag", "newly-made", "--from", str(source)).out
    assert "by its source tree" in said.splitlines()[0]
    assert "  default       3" in said.splitlines()
    every = paper.run("explain", "flag", "--from", str(source), "--json").results()
    assert every[0]["routes"] == ["GET /health", "POST /v1/chat/completions"]


def test_a_changed_source_is_read_again(paper: Project, source: Path) -> None:
    paper.write(STACK.replace("FLAG", "newly-made"))
    assert paper.run("lock", "stacks/demo.yaml").code == 0
    (source / "common/arg.cpp").write_text(ARG)

    refused = paper.run("plan", "stacks/demo.yaml")
    assert "b12000 has no option `--newly-made`" in refused.err


ASKED = "was not asked yet which build it is: b10434 is what the stack says"
SILENT = "does not say which build it is: b10434 is what the stack says"


def states(paper: Project, build: int | None) -> None:
    """Let the binary of the project have stated its build, or none."""
    pin = paths.pin_binary(
        paper.binary,
        here=paths.this_platform(),
        cache=DigestCache(paper.home / "digests"),
        progress=unwatched,
    )
    options = catalogue(10434).options
    stated = description.Description(description.Origin.HELP, options, build=build)
    description.keep(paper.home, pin, stated)


def test_a_binary_whose_build_is_not_known_is_told(paper: Project) -> None:
    first = paper.run("plan", "--no-cache", "stacks/demo.yaml").out
    states(paper, None)
    silent = paper.run("plan", "--no-cache", "stacks/demo.yaml").out
    states(paper, 10434)
    same = paper.run("plan", "--no-cache", "stacks/demo.yaml").out

    assert (ASKED in first, SILENT in first) == (True, False)
    assert (ASKED in silent, SILENT in silent) == (False, True)
    assert "which build it is" not in same


def test_a_binary_that_states_another_build_is_refused(paper: Project) -> None:
    states(paper, 11434)
    done = paper.run("plan", "--no-cache", "stacks/demo.yaml")

    assert done.code == 3
    assert "is b11434, and the stack says b10434" in done.err
    assert "or write `llama_cpp.tag: b11434`" in done.err
