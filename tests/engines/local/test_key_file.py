"""A key file is there while its writer needs it, and no command later than that."""

import subprocess
import sys
from pathlib import Path

import pytest

from deployer.engines.local.supervise.find import KEY_FILE as NAME
from deployer.engines.local.supervise.find import lent, remove_left
from tests.cli.project import ROOT


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "k1" / NAME


def test_a_key_is_lent_privately_and_taken_back(file: Path) -> None:
    with lent(file, ("sk-1",)):
        assert file.read_text() == "sk-1\n"
        assert file.stat().st_mode & 0o777 == 0o600
    assert list(file.parent.iterdir()) == []


def test_a_key_is_taken_back_whatever_happens(file: Path) -> None:
    with pytest.raises(KeyboardInterrupt), lent(file, ("sk-1",)):
        raise KeyboardInterrupt
    assert list(file.parent.iterdir()) == []


def test_without_a_key_there_is_no_file(file: Path) -> None:
    with lent(file, ()):
        assert not file.parent.exists()


def test_a_key_that_is_needed_is_not_removed(file: Path, tmp_path: Path) -> None:
    with lent(file, ("sk-1",)):
        remove_left(tmp_path)
        assert file.exists()


def test_what_a_killed_run_left_is_removed(file: Path, tmp_path: Path) -> None:
    script = (
        "import os; from pathlib import Path;"
        " from deployer.engines.local.supervise.find import lent;"
        f" held = lent(Path({str(file)!r}), ('sk-1',)); held.__enter__();"
        " os.kill(os.getpid(), 9)"
    )
    env = {"PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", script], check=False, env=env)
    assert file.read_text() == "sk-1\n"
    remove_left(tmp_path)
    assert not file.exists()
