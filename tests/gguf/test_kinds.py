"""What is no model by its own header is refused by a plan, before anything is made."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from deployer.diagnostics import diagnostics_text
from deployer.errors import DeployerError, StackError
from deployer.usecases.context.settings import Options
from deployer.usecases.plan import prepare
from tests.gguf.files import Typed, header, laid_out
from tests.prepared.world import World, world

U32 = "u32"
LLAMA: Mapping[str, Typed] = {
    "general.architecture": "llama",
    "llama.block_count": (U32, 1),
    "llama.context_length": (U32, 4096),
    "llama.embedding_length": (U32, 64),
    "llama.attention.head_count": (U32, 4),
}


def table(kind: int = 0) -> Mapping[str, tuple[tuple[int, ...], int, int]]:
    return {"token_embd.weight": ((64, 32), kind, 8192)}


KINDS: Mapping[str, tuple[bytes, str]] = {
    "imatrix": (
        header(
            {"general.type": "imatrix", "imatrix.chunk_count": (U32, 45)},
            laid_out({"blk.0.attn_q.weight.in_sum2": ((64,), 0, 256)}),
        ),
        "is an importance matrix, which only quantising reads",
    ),
    "adapter": (
        header(
            {"general.type": "adapter", "general.architecture": "gemma3"},
            laid_out({"blk.0.attn_q.weight.lora_a": ((64, 8), 0, 2048)}),
        ),
        "is an adapter (LoRA), not a model",
    ),
    "projector": (
        header(
            {"general.type": "mmproj", "general.architecture": "clip"},
            laid_out({"v.patch_embd.weight": ((64, 8), 0, 2048)}),
        ),
        "is a multimodal projector, not a model",
    ),
    "drafter": (
        header(
            {"general.type": "model", "general.architecture": "gemma4-assistant"},
            laid_out(table()),
        ),
        "is a draft model (`gemma4-assistant`), not a model",
    ),
    "eagle": (
        header({"general.architecture": "eagle3"}, laid_out(table())),
        "is a draft model (`eagle3`), not a model",
    ),
    "vocabulary": (
        header({**LLAMA, "tokenizer.ggml.tokens": ["a", "b"]}),
        "is a vocabulary without tensors, not a model",
    ),
    "nothing": (
        header({"general.name": "nothing"}),
        "names no architecture: it is not a model",
    ),
    "part": (
        header(
            {**LLAMA, "split.no": ("u16", 1), "split.count": ("u16", 3)},
            laid_out(table()),
        ),
        "has 3 parts, and 1 are here",
    ),
    "removed type": (
        header(LLAMA, laid_out(table(36))),
        "has type 36, which llama.cpp removed",
    ),
}


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    found = world(tmp_path, 0)
    monkeypatch.chdir(tmp_path / "project")
    return found


def planned(made: World, content: bytes, mmproj: bytes | None = None) -> None:
    (made.folder / "project" / "it.gguf").write_bytes(content + bytes(16384))
    model = "path: ../it.gguf"
    if mmproj is not None:
        (made.folder / "project" / "p.gguf").write_bytes(mmproj + bytes(16384))
        model += ", mmproj: ../p.gguf"
    file = made.write(
        "stacks/it.yaml",
        "version: 1\nname: it\nengine: local\n"
        "llama_cpp: {tag: b11434, binary: ../server/llama-server}\n"
        f"model: {{{model}}}\n",
    )
    prepare(file, made.settings, Options())


@pytest.mark.parametrize("kind", KINDS)
def test_a_plan_refuses_what_is_no_model(kind: str, made: World) -> None:
    content, words = KINDS[kind]
    with pytest.raises(DeployerError) as caught:
        planned(made, content)
    text = str(caught.value)
    if isinstance(caught.value, StackError):
        text = diagnostics_text(caught.value.problems)
        assert "it.yaml:5:9: error: " in text
    assert words in text


def test_a_model_is_none_of_them(made: World) -> None:
    for kind in (0, 40):  # F32, and NVFP4 of newer builds
        planned(made, header(LLAMA, laid_out(table(kind))))


def test_a_model_is_no_projector(made: World) -> None:
    model = header(LLAMA, laid_out(table()))
    with pytest.raises(StackError) as caught:
        planned(made, model, mmproj=model)
    said = diagnostics_text(caught.value.problems)
    assert "it.yaml:5:27: error: " in said
    assert "no multimodal projector: its architecture is `llama`" in said
