"""The rendered files that are committed, and what linter and type checker say."""

import subprocess
import sys
from pathlib import Path

from deployer.diagnostics import Severity
from deployer.engines.contract import write_files
from deployer.engines.modal.render import runtime_files
from deployer.usecases.context.settings import Settings
from deployer.usecases.validate import validate
from tests.engines.modal.golden import FOLDER, golden
from tests.engines.modal.lowering import ROOT


def test_the_rendered_production_stack_is_as_committed() -> None:
    """Regenerate with `python -m tests.engines.modal.golden`, and read the diff."""
    committed = {file.name: file.read_bytes() for file in FOLDER.iterdir()}
    assert committed == golden()


def test_the_production_stack_has_no_warning(tmp_path: Path) -> None:
    stack = ROOT / "stacks" / "gemma4-prod.yaml"
    notices = validate(stack, Settings({}, tmp_path), None).notices
    assert [it for it in notices if it.severity is Severity.WARNING] == []


def test_rendered_files_import_nothing_of_ours() -> None:
    for file in FOLDER.glob("*.py"):
        assert "import deployer" not in file.read_text("utf-8")
        assert "from deployer" not in file.read_text("utf-8")


def test_the_linter_and_the_formatter_find_nothing() -> None:
    """With the settings of this repository: every rule of ruff."""
    for command in (["check"], ["format", "--check"]):
        said = ran("ruff", *command, "--no-cache", str(FOLDER), folder=ROOT)
        assert said.returncode == 0, said.stdout


def test_the_type_checker_finds_nothing(tmp_path: Path) -> None:
    """Strictly, and with the copy of `runtime` that a rendering comes with."""
    write_files({**golden(), **runtime_files()}, tmp_path)
    said = ran("mypy", "--strict", ".", folder=tmp_path)
    assert said.returncode == 0, said.stdout


def ran(*words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *words],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
