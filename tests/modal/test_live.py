"""The story on a real account: it costs money, so it is never run by default.

    DEPLOYER_LIVE=yes pytest -m live tests/modal -s

The smallest GPU, the smallest model with an answer that makes sense, a build for the
GPU from the package index; about half an hour, most of it compiling.
"""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.project import COMMAND
from tests.modal.emulated import ROOT

STACK = """\
version: 1
name: deployer-live
engine: modal
llama_cpp: {tag: b11434, source: pypi, cuda: "12.8.1"}
model:
  repo: unsloth/gemma-3-270m-it-GGUF
  quant: Q8_0
  alias: live
gpu: T4
server: {ctx_size: 4096, parallel: 2, flash_attn: auto, fit: off}
snapshot: {enabled: true, gpu: true, prime: 1, warmup: [{prompt: Hello}]}
scaling: {min_containers: 0, max_containers: 1, scaledown_window: 10s}
gates: {health: {}, chat: {}, restore: {within: 60s, idle: 30s}}
"""

_LIMIT = 2 * 3600.0


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Path]:
    """A stack on the account of the environment; it is destroyed in the end."""
    file = tmp_path / "stacks" / "deployer-live.yaml"
    file.parent.mkdir()
    file.write_text(STACK, encoding="utf-8")
    yield file
    _run("destroy", str(file), "--yes", home=tmp_path)


@pytest.mark.live
def test_a_stack_is_deployed_proven_restored_and_destroyed(
    stack: Path, tmp_path: Path
) -> None:
    planned = _run("plan", str(stack), home=tmp_path)
    print(planned)  # noqa: T201 - the price comes first
    if os.environ.get("DEPLOYER_LIVE") != "yes":
        pytest.fail("this costs what is told above: set DEPLOYER_LIVE=yes to go on")
    said = _run("apply", str(stack), "--yes", home=tmp_path)
    assert "✔ restore" in said
    assert "this used about $" in said
    said = _run("status", str(stack), "--json", home=tmp_path)
    (found,) = json.loads(said)["results"]
    assert found["server"]["running"]


def _run(*words: str, home: Path) -> str:
    done = subprocess.run(
        (*COMMAND, *words),
        cwd=home,
        env={
            **os.environ,
            "DEPLOYER_HOME": str(home / "home"),
            "PYTHONPATH": str(ROOT),
        },
        capture_output=True,
        text=True,
        timeout=_LIMIT,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
