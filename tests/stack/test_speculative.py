"""A draft, its type, and what the type reads: refused where they do not fit."""

from pathlib import Path

import pytest

from deployer.diagnostics import Severity, diagnostics_text
from deployer.errors import StackError
from deployer.llama.catalogue import Catalogue, catalogue
from deployer.llama.description import Description, Origin
from deployer.stack.checks import flag_notes
from deployer.stack.load import load
from deployer.usecases.reading.findings import findings_of

HEAD = "version: 1\nname: s\nengine: local\n"
DRAFT = "model: {path: m.gguf, draft: {path: d.gguf}}\n"
ALONE = "model: {path: m.gguf}\n"


def written(folder: Path, text: str, tag: str) -> Path:
    for name in ("m.gguf", "d.gguf"):
        (folder / name).touch()
    file = folder / "s.yaml"
    file.write_text(f"{HEAD}llama_cpp: {{tag: {tag}}}\n{text}")
    return file


def problems(folder: Path, text: str, tag: str = "b11434") -> str:
    try:
        load(written(folder, text, tag))
    except StackError as error:
        return diagnostics_text(error.problems)
    return ""


@pytest.mark.parametrize(
    ("text", "place", "what", "hint"),
    [
        (
            DRAFT,
            "s.yaml:5:23",
            "nothing says how the draft is used",
            "write `server.speculative: {type: draft-simple}`",
        ),
        (
            f"{ALONE}server: {{speculative: {{type: draft-simple}}}}\n",
            "s.yaml:6:24",
            "`draft-simple` needs a draft model",
            "add `model.draft: {repo: …}`",
        ),
        (
            f"{DRAFT}server: {{speculative: {{type: ngram-mod}}}}\n",
            "s.yaml:5:23",
            "`ngram-mod` reads the text so far, and no draft",
            "leave it out",
        ),
        (
            f"{ALONE}server: {{speculative: {{type: ngram-mod, p_min: 0.5}}}}\n",
            "s.yaml:6:41",
            "`ngram-mod` ignores `p_min`",
            "it reads `n_max`, `n_min`, `n_match`",
        ),
        (
            f"{ALONE}server: {{speculative: {{type: ngram-cache, n_max: 1}}}}\n",
            "s.yaml:6:43",
            "`ngram-cache` ignores `n_max`",
            "it reads no options",
        ),
        (
            f"{ALONE}server: {{flags: {{spec-draft-model: d.gguf}}}}\n",
            "s.yaml:6:18",
            "`spec-draft-model` is not set under `flags`",
            "write `model.draft`",
        ),
        (
            f"{ALONE}server: {{flags: {{spec-draft-hf: 'a/b:Q4_0'}}}}\n",
            "s.yaml:6:18",
            "`spec-draft-hf` is not set under `flags`",
            "write `model.draft: {repo: …, quant: …}`",
        ),
        (
            f"{ALONE}server: {{flags: {{lora: a.gguf}}}}\n",
            "s.yaml:6:18",
            "`lora` is not set under `flags`",
            "write `model.lora: [{path: …, scale: …}]`",
        ),
        (
            (
                f"{ALONE}server: {{speculative: {{type: ngram-mod}},"
                " flags: {draft-max: 3}}\n"
            ),
            "s.yaml:6:50",
            "`draft-max` has a field",
            "write `server.speculative.n_max` instead",
        ),
        (
            "model: {url: 'https://one.test/m.gguf', mmproj: F16}\n",
            "s.yaml:5:41",
            "`F16` names no file of `https://one.test/m.gguf`",
            "`mmproj: {url: https://…}`",
        ),
        (
            "model: {path: m.gguf, lora: [{scale: 0.5}]}\n",
            "s.yaml:5",
            "nothing says where the weights come from",
            "add",
        ),
    ],
)
def test_a_refusal_has_its_place_and_says_what_to_write(
    tmp_path: Path, text: str, place: str, what: str, hint: str
) -> None:
    found = problems(tmp_path, text)
    assert f"{place}" in found
    assert what in found
    assert hint in found


def refused(folder: Path, text: str, known: Catalogue) -> str:
    loaded = load(written(folder, text, f"b{known.build}"))
    found = findings_of(loaded, known)
    return diagnostics_text([it for it in found if it.severity is Severity.ERROR])


def test_a_type_that_the_build_lacks_is_told_with_the_builds(tmp_path: Path) -> None:
    text = f"{DRAFT}server: {{speculative: {{type: draft-dspark}}}}\n"
    found = refused(tmp_path, text, catalogue(10156))
    assert "s.yaml:6:24" in found
    assert "`draft-dspark` came between b10156 and b10240" in found
    assert refused(tmp_path, text, catalogue(10240)) == ""


def test_weights_whose_option_the_build_lacks_are_refused(tmp_path: Path) -> None:
    text = "model: {path: m.gguf, vocoder: {path: d.gguf}}\n"
    found = refused(tmp_path, text, catalogue(11434))
    assert "s.yaml:5:23" in found
    assert "b11434 has no `--model-vocoder`: it was removed between" in found
    assert refused(tmp_path, text, catalogue(10240)) == ""
    # A fork that kept the option states so.
    mine = catalogue(10240)
    fork = Description(Origin.TREE, mine.options).catalogue(11434)
    assert refused(tmp_path, text, fork) == ""


def test_a_gate_whose_endpoint_the_build_lacks_is_refused(tmp_path: Path) -> None:
    text = f"{ALONE}gates: {{responses_api: {{}}}}\n"
    options = catalogue(11434).options
    for routes, missing in ((("POST /v1/responses",), ""), (("GET /health",), "route")):
        known = Description(Origin.TREE, options, routes=routes).catalogue(11434)
        found = refused(tmp_path, text, known)
        what = "`b11434` has no route `POST /v1/responses` (by its source tree)"
        assert (what in found) == bool(missing)


def test_a_head_of_the_model_itself_needs_no_draft(tmp_path: Path) -> None:
    text = f"{ALONE}server: {{speculative: {{type: draft-mtp, n_max: 2}}}}\n"
    assert problems(tmp_path, text) == ""


def test_options_under_flags_are_pointed_at_their_fields(tmp_path: Path) -> None:
    """A warning: several types at a time have no other place."""
    text = f"{ALONE}server: {{flags: {{spec-type: 'ngram-mod,ngram-cache'}}}}\n"
    assert problems(tmp_path, text) == ""
    (note,) = flag_notes(load(tmp_path / "s.yaml").stack)
    assert (note.path, note.hint) == (
        "server.flags.spec-type",
        "write `server.speculative.type` instead",
    )
