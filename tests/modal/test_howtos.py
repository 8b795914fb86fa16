"""The how-to guides for Modal as they stand, with the clients of Modal and the hub.

Modal is the emulator, and the hub is one on loopback that hides its repository.
"""

import re
from pathlib import Path

import pytest

from tests.cli.playing import play, yaml_of
from tests.cli.project import ROOT
from tests.modal.project import STACK, Project
from tests.sources.conftest import sites
from tests.sources.hub import REPO, Hub, readable_by

TOKEN = "hf_ofTheTests"
ALIAS = "  alias: tiny\n"


def test_a_private_model_a_new_key_and_a_move_from_local(
    ready: Project, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One after the other: the Volume keeps what the first one fetched."""
    with sites() as make:
        hub = Hub(make(), make(), {})
        hub.publish({"tiny-Q4_K_M.gguf": tiny_model.read_bytes()})
        hub.api.refusal = readable_by(TOKEN, gated=False)
        monkeypatch.setenv("HF_ENDPOINT", hub.api.url)
        _private_model(ready, hub)
        _new_key(ready)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        _move_from_local(ready)


def _private_model(project: Project, hub: Hub) -> None:
    _, model = yaml_of("howto/private-model.md")
    model = model.replace("your-name/your-model-GGUF", REPO)
    project.write(re.sub(r"(?s)model:\n.*?\n\n", f"{model}{ALIAS}\n", STACK))
    values = {
        "hf_…": TOKEN,
        "prod.yaml": "tiny.yaml",
        # The containers have to be told of a hub that is not the public one.
        "huggingface HF": f"huggingface HF_ENDPOINT={hub.api.url} HF",
    }
    said = play(project, "howto/private-model.md", slice(1, 2), values)
    assert "Release 1 is live" in said[-1]
    assert TOKEN not in "".join(said)


def _new_key(project: Project) -> None:
    auth, *_ = yaml_of("howto/rotate-key.md")
    (old,) = re.findall(r"(?m)^auth:\n.*\n", STACK)
    project.change(old, auth)
    values = {"prod.yaml": "tiny.yaml"}
    said = play(project, "howto/rotate-key.md", slice(1, 2), values)
    assert "Release 2 is live" in said[-1]
    assert "auth.api_key.secret   llama-api-key → llama-api-key-2" in said[-1]


def _move_from_local(project: Project) -> None:
    local = (ROOT / "stacks" / "demo.yaml").read_text(encoding="utf-8")
    demo = project.stack.with_stem("demo")
    demo.write_text(local, encoding="utf-8")
    (demo.parent / "base-model.jinja").write_text("{{ messages[0].content }}")
    said = play(project, "howto/local-to-modal.md", slice(1))
    assert "`pypi` is for the local engine alone" in said[0]

    (modal,) = yaml_of("howto/local-to-modal.md")
    there = modal.replace("repo: ggml-org/gemma-3-270m-it-GGUF, quant: Q8_0", SMALL)
    there = there.replace(
        "source: git,", f"source: git, repo: {project.words['REPOSITORY']},"
    )
    assert there != modal
    demo.write_text(local.replace("b11434", "b10434"), encoding="utf-8")
    demo.with_stem("demo-modal").write_text(there, encoding="utf-8")
    said = play(project, "howto/local-to-modal.md", slice(1, None))
    assert "modal.App(" in said[2]
    assert "CUDA 12.8.1" in said[3]


SMALL = f"repo: {REPO}, quant: Q4_K_M, hub_secret: huggingface"
