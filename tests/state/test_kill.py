import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Program = Callable[..., subprocess.Popen[str]]

pytestmark = pytest.mark.trust
ROUNDS = 1000 if os.environ.get("DEPLOYER_LONG") else 60


def rounds_of(program: Program, folder: Path, writer: str, rounds: int) -> Any:
    process = program("kill_rounds.py", folder, rounds, writer)
    said, errors = process.communicate(timeout=500)
    assert process.returncode == 0, errors
    return json.loads(said)


def test_no_kill_leaves_an_unreadable_state_or_loses_an_acknowledged_one(
    program: Program, tmp_path: Path
) -> None:
    counts = rounds_of(program, tmp_path, "ours", ROUNDS)
    assert counts["unreadable"] == 0
    assert counts["lost"] == 0
    assert counts["acknowledged"] > ROUNDS  # it was killed while at work


def test_the_same_kills_find_a_plain_write_out(
    program: Program, tmp_path: Path
) -> None:
    assert rounds_of(program, tmp_path, "plain", 60)["unreadable"] > 0


def test_a_kill_leaves_at_most_one_file_behind(
    program: Program, tmp_path: Path
) -> None:
    rounds_of(program, tmp_path, "ours", 20)
    ours = {"demo.state.json", "history"}
    left = {path.name for path in tmp_path.iterdir()} - ours
    assert left <= {".demo.state.json.new"}
    halves = [p for p in tmp_path.glob("history/demo/*") if p.suffix != ".json"]
    assert len(halves) <= 1
