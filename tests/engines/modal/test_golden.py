"""The rendered files that are committed, and what linter and type checker say."""

import subprocess
import sys

from tests.engines.modal.golden import FOLDER, golden
from tests.engines.modal.lowering import ROOT


def test_the_rendered_production_stack_is_as_committed() -> None:
    """Regenerate with `python -m tests.engines.modal.golden`, and read the diff."""
    committed = {file.name: file.read_bytes() for file in FOLDER.iterdir()}
    assert committed == golden()


def test_rendered_files_import_nothing_of_ours() -> None:
    for file in FOLDER.glob("*.py"):
        assert "import deployer" not in file.read_text("utf-8")
        assert "from deployer" not in file.read_text("utf-8")


def test_the_linter_the_formatter_and_the_type_checker_find_nothing() -> None:
    """With the settings of this repository: every rule of ruff, strict types."""
    files = [str(file) for file in sorted(FOLDER.glob("*.py"))]
    said = [
        subprocess.run(
            [sys.executable, "-m", *command, *files],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        for command in (
            ["ruff", "check", "--no-cache"],
            ["ruff", "format", "--check", "--no-cache"],
            ["mypy", "--strict"],
        )
    ]
    assert [done.returncode for done in said] == [0, 0, 0], [it.stdout for it in said]
