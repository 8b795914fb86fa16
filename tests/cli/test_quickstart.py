"""The quickstarts as they stand, with a small model for Gemma."""

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from deployer.cli.main import main
from tests.cli.playing import BLOCK, DOCS, play
from tests.cli.project import ROOT, STACK, Project
from tests.engines.modal.lowering import project as lock_made_up

DEMO = (
    STACK.replace("ctx_size: 1024", "ctx_size: 4096")
    .replace("tag: b10434", "tag: b10434\n  commit: 7e4c0a9")
    .replace("  mmap: false", "  ctx_checkpoints: 1\n  mmap: false")
)


def test_the_quickstart_for_this_machine_works_as_it_stands(project: Project) -> None:
    project.write(DEMO)
    first = project.run("apply", "stacks/demo.yaml", "--yes")
    assert first.code == 0, first.out + first.err
    said = play(project, "quickstart.md")

    assert "No changes: what is live is what the stack says." in said[0]
    assert any("server.ctx_size   4096 → 8192" in text for text in said)
    assert any("does not contain `entelechy`" in text for text in said)
    assert project.servers() == set()


def test_the_quickstart_for_modal_begins_as_it_stands(project: Project) -> None:
    said = play(project, "quickstart-modal.md")

    assert "stacks/prod.yaml: valid" in said[-1]


def test_the_plan_on_modal_is_what_is_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the very stack above it; the digests of its lock file are made up."""
    page = (DOCS / "quickstart-modal.md").read_text(encoding="utf-8")
    (stack,) = re.findall(r"^```yaml\n(version: 1\n.*?)^```", page, BLOCK)
    (shown,) = re.findall(r"^```text\n(prod on modal .*?)^```", page, BLOCK)
    lock_made_up(tmp_path, stack, "prod")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DEPLOYER_HOME", str(tmp_path / "home"))
    done = CliRunner().invoke(main, ["plan", "stacks/prod.yaml"])
    assert done.output == shown


def test_the_quickstart_begins_with_the_command_of_the_readme() -> None:
    command = re.compile(
        r"^export LLAMA_API_KEY=.* apply stacks/demo\.yaml --yes$", re.MULTILINE
    )
    (readme,) = command.findall((ROOT / "README.md").read_text("utf-8"))
    (quickstart,) = command.findall((DOCS / "quickstart.md").read_text("utf-8"))
    assert readme == quickstart
