"""Which files a quantisation means, in repositories as they are."""

import re

import pytest

from deployer.artefacts.sources.hub import choose_model, choose_projector
from deployer.errors import SourceError

REPO = (
    "README.md",
    "config.json",
    "mmproj-BF16.gguf",
    "mmproj-F16.gguf",
    "mmproj-F32.gguf",
    "gemma-4-26B-A4B-it-Q4_K_M.gguf",
    "gemma-4-26B-A4B-it-Q8_0.gguf",
    "gemma-4-26B-A4B-it-UD-Q4_K_XL.gguf",
    "BF16/gemma-4-26B-A4B-it-BF16-00001-of-00002.gguf",
    "BF16/gemma-4-26B-A4B-it-BF16-00002-of-00002.gguf",
)


@pytest.mark.parametrize(
    ("quant", "files"),
    [
        ("Q4_K_M", ["gemma-4-26B-A4B-it-Q4_K_M.gguf"]),
        ("q8_0", ["gemma-4-26B-A4B-it-Q8_0.gguf"]),
        ("UD-Q4_K_XL", ["gemma-4-26B-A4B-it-UD-Q4_K_XL.gguf"]),
        ("Q4_K_XL", ["gemma-4-26B-A4B-it-UD-Q4_K_XL.gguf"]),
        (
            "BF16",
            [
                "BF16/gemma-4-26B-A4B-it-BF16-00001-of-00002.gguf",
                "BF16/gemma-4-26B-A4B-it-BF16-00002-of-00002.gguf",
            ],
        ),
    ],
)
def test_a_quantisation_is_the_end_of_the_name(quant: str, files: list[str]) -> None:
    assert choose_model(REPO, file=None, quant=quant) == files


def test_a_folder_may_name_the_quantisation() -> None:
    names = ["Q8_0/model.gguf", "Q4_0/model.gguf"]
    assert choose_model(names, file=None, quant="Q4_0") == ["Q4_0/model.gguf"]


@pytest.mark.parametrize("name", ["model.Q4_0.gguf", "Q4_0.gguf", "model_q4_0.gguf"])
def test_other_separators_are_understood(name: str) -> None:
    assert choose_model([name, "m-Q8_0.gguf"], file=None, quant="Q4_0") == [name]


def test_the_only_model_needs_no_quantisation() -> None:
    assert choose_model(["m-Q4_0.gguf", "mmproj-F16.gguf"], file=None, quant=None) == [
        "m-Q4_0.gguf"
    ]


def test_a_part_stands_for_all_parts() -> None:
    part = "BF16/gemma-4-26B-A4B-it-BF16-00002-of-00002.gguf"
    assert len(choose_model(REPO, file=part, quant=None)) == 2


@pytest.mark.parametrize(
    ("file", "quant", "words", "hint"),
    [
        (
            None,
            "Q5_K_M",
            "no model quantised as `Q5_K_M`",
            "nearest: `gemma-4-26B-A4B-it-Q4_K_M.gguf`",
        ),
        (None, None, "has 4 models; which one is not said", "set `model.quant`: "),
        (
            "gemma-4-26B-A4B-Q8_0.gguf",
            None,
            "no model file `gemma-4-26B-A4B-Q8_0.gguf`",
            "nearest: `gemma-4-26B-A4B-it-Q8_0.gguf`",
        ),
    ],
)
def test_what_is_not_there_is_answered_with_the_nearest(
    file: str | None, quant: str | None, words: str, hint: str
) -> None:
    with pytest.raises(SourceError, match=re.escape(words)) as caught:
        choose_model(REPO, file=file, quant=quant)
    assert caught.value.hint.startswith(hint)


def test_two_models_of_one_quantisation_are_ambiguous() -> None:
    names = ["a-Q4_0.gguf", "b-Q4_0.gguf", "a-Q8_0.gguf"]
    with pytest.raises(SourceError, match="`Q4_0` fits 2 models") as caught:
        choose_model(names, file=None, quant="Q4_0")
    assert caught.value.hint == "set `model.file` to one: `a-Q4_0.gguf`, `b-Q4_0.gguf`"


def test_a_missing_part_is_noticed() -> None:
    names = ["m-Q8_0-00001-of-00003.gguf", "m-Q8_0-00003-of-00003.gguf"]
    with pytest.raises(SourceError, match="has 2 of 3 parts"):
        choose_model(names, file=None, quant="Q8_0")


def test_no_models_at_all_is_said() -> None:
    with pytest.raises(SourceError, match="has no GGUF models at all"):
        choose_model(["model.safetensors"], file=None, quant="Q4_0")


@pytest.mark.parametrize(
    ("wanted", "name"),
    [
        ("F16", "mmproj-F16.gguf"),
        ("bf16", "mmproj-BF16.gguf"),
        ("mmproj-F32.gguf", "mmproj-F32.gguf"),
    ],
)
def test_a_projector_is_chosen_by_precision_or_name(wanted: str, name: str) -> None:
    assert choose_projector(REPO, wanted) == name


def test_a_missing_projector_is_answered_with_what_there_is() -> None:
    with pytest.raises(SourceError, match=r"no projector `mmproj\*Q8_0") as caught:
        choose_projector(REPO, "Q8_0")
    assert "`mmproj-F16.gguf`" in caught.value.hint


def test_two_projectors_are_ambiguous() -> None:
    with pytest.raises(SourceError, match="`F16` fits 2 projectors"):
        choose_projector(["mmproj-a-F16.gguf", "mmproj-b-F16.gguf"], "F16")
