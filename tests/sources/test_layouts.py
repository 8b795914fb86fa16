"""Layouts of repositories on the hub: the right files, or a refusal that says why."""

import re

import pytest

from deployer.artefacts.sources.hub import choose_model, sidecar_of
from deployer.errors import SourceError

QAT = """gemma-4-12B-it-qat-UD-Q4_K_XL.gguf gemma-4-12B-it-qat-UD-Q2_K_XL.gguf
mmproj-F16.gguf mmproj-BF16.gguf mtp-gemma-4-12B-it.gguf
MTP/gemma-4-12B-it-MTP-Q8_0.gguf MTP/gemma-4-12B-it-MTP-BF16.gguf"""
OFFICIAL = """gemma-4-E4B-it-Q8_0.gguf gemma-4-E4B-it-Q4_K_M.gguf
mmproj-gemma-4-E4B-it-Q8_0.gguf mtp-gemma-4-E4B-it-Q8_0.gguf"""
UNSLOTH = """gemma-4-26B-A4B-it-Q4_K_M.gguf gemma-4-26B-A4B-it-UD-Q4_K_XL.gguf
BF16/gemma-4-26B-A4B-it-BF16-00001-of-00002.gguf
BF16/gemma-4-26B-A4B-it-BF16-00002-of-00002.gguf
mmproj-F32.gguf imatrix_unsloth.gguf"""
QWEN = """Qwen3.6-35B-A3B-UD-Q4_K_XL.gguf Qwen3.6-35B-A3B-Q4_K_M.gguf
Qwen3.6-35B-A3B-MXFP4_MOE.gguf mmproj-F16.gguf imatrix_unsloth.gguf_file"""
QWEN_MTP = "Qwen3.6-27B-MTP-Q4_K_M.gguf Qwen3.6-27B-MTP-Q8_0.gguf mmproj-F16.gguf"
QWEN_EAGLE = "Qwen3-8B-Q4_K_M.gguf Qwen3-8B-eagle3-Q4_K_M.gguf"
DFLASH = "Qwen3.5-27B-Q8_0.gguf dflash-Qwen3.5-27B-Q8_0.gguf DFlash/draft-Q4_0.gguf"
DEEPSEEK = """UD-Q2_K_XL/DS-UD-Q2_K_XL-00001-of-00003.gguf
UD-Q2_K_XL/DS-UD-Q2_K_XL-00002-of-00003.gguf
UD-Q2_K_XL/DS-UD-Q2_K_XL-00003-of-00003.gguf
dspark/dspark-DS-BF16.gguf dspark/dspark-DS-Q8_0.gguf"""
GLM = """GLM-4.7-UD-IQ2_M-00001-of-00002.gguf GLM-4.7-UD-IQ2_M-00002-of-00002.gguf
GLM-4.7-Q2_K.gguf"""
GPT_OSS = """gpt-oss-120b-mxfp4-00001-of-00003.gguf
gpt-oss-120b-mxfp4-00002-of-00003.gguf gpt-oss-120b-mxfp4-00003-of-00003.gguf"""
GPT_OSS_20B = "gpt-oss-20b-F16.gguf gpt-oss-20b-Q4_K_M.gguf gpt-oss-20b-UD-Q4_K_M.gguf"
LLAMA = """Meta-Llama-3.1-8B-Instruct-Q4_K_M.gguf Meta-Llama-3.1-8B-Instruct-Q8_0.gguf
Meta-Llama-3.1-8B-Instruct-imatrix.gguf Meta-Llama-3.1-8B-Instruct-f32.gguf"""
LLAMA_LORA = "Llama-3.2-1B-Q8_0.gguf lora/sql-lora-Q8_0.gguf adapters/x-Q8_0.gguf"
ONE = "gemma-4-31B_q4_0-it.gguf mmproj-model-f16-31B.gguf"
CUT = "Big-120B.Q8_0.gguf.part1of2 Big-120B.Q8_0.gguf.part2of2 Big-120B.Q4_K_M.gguf"
CUT_LETTERS = "falcon-180b.Q6_K.gguf-split-a falcon-180b.Q6_K.gguf-split-b"
TWO_MODELS = "a-7B-Q4_0.gguf b-7B-Q4_0.gguf ggml-vocab-llama-Q4_0.gguf"
SPEECH = "OuteTTS-1B-Q8_0.gguf WavTokenizer-Large-75-Q8_0.gguf"
VECTOR = "m-Q4_0.gguf control-vector-happy-Q4_0.gguf"
GAP = "m-Q8_0-00001-of-00003.gguf m-Q8_0-00003-of-00003.gguf"

LAYOUTS: tuple[tuple[str, str | None, str], ...] = (
    (QAT, "UD-Q4_K_XL", "gemma-4-12B-it-qat-UD-Q4_K_XL.gguf"),
    (QAT, "Q8_0", "no model quantised as `Q8_0` | `MTP/gemma-4-12B-it-MTP-Q8_0.gguf`"),
    (QAT, "BF16", "no model quantised as `BF16` | is a draft model"),
    (OFFICIAL, "Q8_0", "gemma-4-E4B-it-Q8_0.gguf"),
    (UNSLOTH, "BF16", "2 BF16/gemma-4-26B-A4B-it-BF16-00001-of-00002.gguf"),
    (UNSLOTH, "Q4_K_XL", "gemma-4-26B-A4B-it-UD-Q4_K_XL.gguf"),
    (UNSLOTH, None, "has 3 models | set `model.quant`"),
    (QWEN, "Q4_K_M", "Qwen3.6-35B-A3B-Q4_K_M.gguf"),
    (QWEN, "MXFP4_MOE", "Qwen3.6-35B-A3B-MXFP4_MOE.gguf"),
    (QWEN_MTP, "Q8_0", "Qwen3.6-27B-MTP-Q8_0.gguf"),
    (QWEN_EAGLE, "Q4_K_M", "Qwen3-8B-Q4_K_M.gguf"),
    (DFLASH, "Q8_0", "Qwen3.5-27B-Q8_0.gguf"),
    (DFLASH, "Q4_0", "no model quantised as `Q4_0` | is a draft model"),
    (DEEPSEEK, "UD-Q2_K_XL", "3 UD-Q2_K_XL/DS-UD-Q2_K_XL-00001-of-00003.gguf"),
    (DEEPSEEK, "BF16", "no model quantised as `BF16` | `dspark/dspark-DS-BF16.gguf`"),
    (GLM, "IQ2_M", "2 GLM-4.7-UD-IQ2_M-00001-of-00002.gguf"),
    (GPT_OSS, None, "3 gpt-oss-120b-mxfp4-00001-of-00003.gguf"),
    (GPT_OSS_20B, "Q4_K_M", "fits 2 models | `gpt-oss-20b-UD-Q4_K_M.gguf`"),
    (LLAMA, "f32", "Meta-Llama-3.1-8B-Instruct-f32.gguf"),
    (LLAMA_LORA, None, "Llama-3.2-1B-Q8_0.gguf"),
    (ONE, None, "gemma-4-31B_q4_0-it.gguf"),
    (CUT, "Q8_0", "in parts, such as `Big-120B.Q8_0.gguf.part1of2` | join them"),
    (CUT, "Q4_K_M", "Big-120B.Q4_K_M.gguf"),
    (CUT_LETTERS, None, "in parts, such as `falcon-180b.Q6_K.gguf-split-a` | join"),
    (TWO_MODELS, "Q4_0", "fits 2 models | `a-7B-Q4_0.gguf`, `b-7B-Q4_0.gguf`"),
    (SPEECH, "Q8_0", "OuteTTS-1B-Q8_0.gguf"),
    (VECTOR, None, "m-Q4_0.gguf"),
    (GAP, "Q8_0", "has 2 of 3 parts | pin a `model.revision`"),
)


@pytest.mark.parametrize(("names", "quant", "expected"), LAYOUTS)
def test_the_right_files_or_a_refusal(
    names: str, quant: str | None, expected: str
) -> None:
    if " | " in expected:
        what, _, hint = expected.partition(" | ")
        with pytest.raises(SourceError, match=re.escape(what)) as caught:
            choose_model(names.split(), file=None, quant=quant)
        assert hint in caught.value.hint
        return
    found = choose_model(names.split(), file=None, quant=quant)
    count = f"{len(found)} " if len(found) > 1 else ""
    assert f"{count}{found[0]}" == expected


def test_the_layouts_are_of_many_repositories() -> None:
    assert len({names for names, _, _ in LAYOUTS}) >= 19


def test_a_file_that_is_named_is_taken_whatever_its_name_says() -> None:
    """Its header is judged next."""
    name = "mtp-gemma-4-12B-it.gguf"
    assert choose_model(QAT.split(), file=name, quant=None) == [name]
    assert sidecar_of(name) == "a draft model"
