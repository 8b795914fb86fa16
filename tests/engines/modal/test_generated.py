"""Hundreds of stacks: what holds for every rendering, and what Modal's client says."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import modal
import pytest

from deployer.engines.contract import write_files
from deployer.engines.modal import drive
from deployer.engines.modal.apps import CLASS, METHOD
from deployer.engines.modal.render import runtime_files
from deployer.stack.load import load
from tests.engines.modal.generated import generated
from tests.engines.modal.lowering import CAPTURED, ROOT, rendered

COUNT = int(os.environ.get("GENERATED_STACKS", "60"))
"""`GENERATED_STACKS=500 python -m pytest tests/engines/modal/test_generated.py`"""
STACKS = ROOT / "stacks"
CANARY = "sk-canary-7f3a9c"


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """An app pins a variable when it is imported; it must not outlive the test."""
    monkeypatch.setenv("MODAL_IMAGE_BUILDER_VERSION", "2025.06")


@pytest.fixture(scope="module")
def renderings() -> list[Mapping[str, str]]:
    return [rendered(generated(seed)) for seed in range(COUNT)]


def test_they_differ_as_stacks_do(renderings: list[Mapping[str, str]]) -> None:
    assert len({files["server.py"] for files in renderings}) > COUNT * 0.9


def test_every_one_is_python(renderings: list[Mapping[str, str]]) -> None:
    for files in renderings:
        for name, text in files.items():
            compile(text, name, "exec")
            assert text.endswith("\n")
            assert not text.endswith("\n\n")
            assert all(line == line.rstrip() for line in text.split("\n"))


def test_linter_and_formatter_find_nothing(
    renderings: list[Mapping[str, str]], tmp_path: Path
) -> None:
    """With every rule of ruff on, and the settings that `docs/rendered` has."""
    for seed, files in enumerate(renderings):
        for name, text in files.items():
            (tmp_path / f"app_{seed}_{name}").write_text(text, "utf-8")
    base = ["ruff", "--config", str(ROOT / "pyproject.toml")]
    for command in (["check", "--ignore=T201,INP001"], ["format", "--check"]):
        said = subprocess.run(
            [sys.executable, "-m", *base, *command, "--no-cache", str(tmp_path)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert said.returncode == 0, said.stdout[-2000:]


def test_the_client_does_look(tmp_path: Path) -> None:
    """What it refuses here, it would refuse in a deploy."""
    text = rendered(CAPTURED)["server.py"]
    broken = text.replace("    enable_memory_snapshot=True,\n", "")
    with pytest.raises(modal.exception.InvalidError, match="enable_memory_snapshot"):
        check_app(broken, tmp_path / "broken.py")
    broken = text.replace("cpu=4.0,", "cpu=4.0, min_containers=2, max_containers=1,")
    with pytest.raises(modal.exception.InvalidError, match="min_containers"):
        check_app(broken, tmp_path / "broken.py")


def test_the_same_stack_gives_the_same_bytes(
    renderings: list[Mapping[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the environment holds; so no secret of it can be in them either."""
    for name in ("LLAMA_API_KEY", "MY_KEY", "HF_TOKEN", "MODAL_TOKEN_SECRET", "TZ"):
        monkeypatch.setenv(name, CANARY)
    for seed, files in enumerate(renderings):
        assert rendered(generated(seed)) == files
        assert not any(CANARY in text for text in files.values())


def test_the_real_client_takes_every_one(
    renderings: list[Mapping[str, str]], tmp_path: Path
) -> None:
    for seed, files in enumerate(renderings):
        for name in ("builder.py", "tryout.py", "server.py"):
            check_app(files[name], tmp_path / f"app_{seed}_{name}")


def test_the_real_client_takes_every_example(tmp_path: Path) -> None:
    """And every file of each, the candidate as well."""
    template = ROOT / "deployer" / "templates" / "modal.yaml"
    (tmp_path / "modal.yaml").write_text(template.read_text().replace("NAME", "mine"))
    loaded = [load(file) for file in (*STACKS.glob("*.yaml"), tmp_path / "modal.yaml")]
    examples = [it.stack for it in loaded if it.stack.engine == "modal"]
    assert {stack.name for stack in examples} == {"gemma4-prod", "mine"}
    for stack in examples:
        for name, text in rendered(stack).items():
            check_app(text, tmp_path / f"{stack.name.replace('-', '_')}_{name}")


def check_app(text: str, file: Path) -> None:
    """Import a file as `modal deploy` does, and look at what the client made of it."""
    file.write_text(text, "utf-8")
    write_files(runtime_files(), file.parent)
    try:
        module = drive.load(file)
    finally:
        sys.modules.pop(file.stem, None)
    assert isinstance(module.app, modal.App)
    assert module.app.name == module.APP
    if f"class {CLASS}" in text:
        assert hasattr(getattr(module, CLASS), METHOD) or "app.server" in text
