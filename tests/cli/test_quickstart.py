"""The quickstarts and how-to guides as they stand, with a small model for Gemma."""

import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from deployer.cli.main import main
from tests.cli.project import ROOT, STACK, Project
from tests.engines.modal.lowering import project as lock_made_up

DOCS = ROOT / "docs"
BLOCK = re.MULTILINE | re.DOTALL
RUN = re.compile(
    r"^ *<!-- run(?:: exits (\d+) at the last)? -->\n *```console\n(.*?)^ *```",
    BLOCK,
)
DEMO = (
    STACK.replace("ctx_size: 1024", "ctx_size: 4096")
    .replace("tag: b10434", "tag: b10434\n  commit: 7e4c0a9")
    .replace("  mmap: false", "  ctx_checkpoints: 1\n  mmap: false")
)


def parts(page: str) -> list[tuple[list[str], int]]:
    """Blocks that are marked to be run: their lines, and how the last one exits."""
    text = (DOCS / page).read_text(encoding="utf-8")
    return [
        ([it.strip().removeprefix("$ ") for it in block.splitlines()], int(code or 0))
        for code, block in RUN.findall(text)
    ]


def play(project: Project, page: str, blocks: slice = slice(None)) -> list[str]:
    """Run every marked line in a shell; returns what each printed."""
    printed = []
    deployer = f'deployer() {{ {shlex.quote(sys.executable)} -m deployer "$@"; }}'
    for lines, code in parts(page)[blocks]:
        for line in lines:
            done = project.shell(f"{deployer}; {line}")
            wanted = code if line == lines[-1] else 0
            assert done.code == wanted, f"$ {line}\n{done.out}{done.err}"
            printed.append(done.out + done.err)
    return printed


def test_the_quickstart_for_this_machine_works_as_it_stands(project: Project) -> None:
    project.write(DEMO)
    first = project.run("apply", "stacks/demo.yaml", "--yes")
    assert first.code == 0, first.out + first.err
    said = play(project, "quickstart.md")

    assert "No changes: what is live is what the stack says." in said[0]
    assert any("server.ctx_size   4096 → 8192" in text for text in said)
    assert any("does not contain `entelechy`" in text for text in said)
    assert project.servers() == set()


def test_the_how_to_guides_work_as_they_stand(live: Project) -> None:
    """On one stack, in an order in which each finds what it begins with."""
    said = play(live, "howto/add-a-gate.md")
    assert any("Plan: 1 to re-validate." in text for text in said)

    live.write(STACK.replace("ctx_size: 1024", "ctx_size: 512"))
    assert live.run("apply", "stacks/demo.yaml", "--yes").code == 0
    said = play(live, "howto/rollback.md")
    assert any("server.ctx_size   1024 → 512" in text for text in said)
    refused = live.run("apply", "stacks/demo.yaml", "--yes")
    assert "still asks for it" in refused.err

    live.state.write_text("damaged", encoding="utf-8")
    said = play(live, "howto/lost-state.md", slice(1))
    shutil.rmtree(live.state.parent)
    said += play(live, "howto/lost-state.md", slice(1, None))
    assert any("goes on from serial" in text for text in said)
    assert any("it is taken as live" in text for text in said)


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
