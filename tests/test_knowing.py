"""A model held against the build, the gates and the machine of a stack."""

from dataclasses import replace
from pathlib import Path

import pytest

from deployer.diagnostics import Place
from deployer.gguf.facts import Facts, Projector, template_of
from deployer.llama.catalogue import Catalogue, catalogue
from deployer.llama.description import Description, Origin
from deployer.planning.facts import Facts as Locked
from deployer.planning.facts import Pin
from deployer.planning.graph import tag_number
from deployer.stack.fields.model import Stack
from deployer.stack.fields.values import JsonValue
from deployer.testing import stack as stack_of
from deployer.usecases.reading.memory import does_not_fit, doubts, sized
from deployer.usecases.reading.weights import Judged, judged
from tests.gguf.test_memory import GEMMA

EARLY = "{{ tools }} '<|tool_call>call:' <|channel>thought"
FACTS = Facts(replace(GEMMA, template=template_of("{{ tools }} enable_thinking")))
LOCKED = Locked(Pin("git", {}, {}), Pin("hub", {}, {}), {})
PLACES = {
    "llama_cpp.tag": Place("s.yaml", 4, 3),
    "model": Place("s.yaml", 6, 1),
    "model.mmproj": Place("s.yaml", 8, 3),
    "gpu": Place("s.yaml", 9, 1),
    "gates": Place("s.yaml", 10, 1),
}


def stack(tag: str = "b9763", **sections: JsonValue) -> Stack:
    return stack_of(
        {
            "version": 1,
            "name": "s",
            "engine": "modal",
            "llama_cpp": {"tag": tag},
            "model": {"repo": "a/b", "quant": "Q4_K_M"},
            **sections,
        }
    )


def held(
    one: Stack,
    facts: Facts = FACTS,
    folder: Path = Path(),
    on: Catalogue | None = None,
) -> Judged:
    known = on or catalogue(tag_number(one))
    return judged(one, folder, LOCKED, facts, PLACES, known)


def test_a_model_that_everything_is_right_with() -> None:
    found = held(stack(gates={"chat": {}, "tools": {}, "thinking": {}}))
    assert (found.problems, found.notes) == ([], [])


def with_projector(kind: str, width: int) -> Facts:
    return replace(FACTS, projector=Projector(1, (kind,), projection=width))


def test_a_projector_of_another_model() -> None:
    (problem,) = held(stack(), with_projector("gemma4v", 2560)).problems
    assert problem.place == PLACES["model.mmproj"]
    assert problem.what == (
        "the projector makes embeddings of 2560 numbers, and the model takes 2816"
    )
    assert held(stack(), with_projector("gemma4v", 2816)).problems == []
    assert held(stack(), with_projector("resampler", 2560)).problems == []


def test_a_projector_type_that_the_build_does_not_know() -> None:
    (problem,) = held(stack("b8672"), with_projector("gemma4uv", 2816)).problems
    lacks = "`b8672` does not know the projector type `gemma4uv`"
    assert problem.what == f"{lacks} (by the table up to b11549)"
    assert problem.hint == "write `tag: b9763` or later"


def test_of_a_release_or_commit_it_is_said_that_nothing_is_known() -> None:
    found = held(stack("v0.5.0"))
    assert found.problems == []
    (note,) = found.notes
    assert note == (
        "s.yaml:4: whether `v0.5.0` knows the architecture `gemma4` is not known:"
        " b8646 does, and this one was not read"
    )
    new = replace(FACTS, model=replace(FACTS.model, architecture="gemma9"))
    (note,) = held(stack("b12000"), new).notes
    assert note.endswith("it is in no build that was read, and the last is b11549")


@pytest.mark.parametrize(
    ("tag", "architectures", "refused"),
    [
        ("b8672", ("llama",), "(by its source tree)"),  # a fork that left it out
        ("b8555", ("gemma4",), ""),  # a patch that brought it
        ("b99999", ("gemma4",), ""),
    ],
)
def test_what_the_source_of_a_build_states_of_architectures_decides(
    tag: str, architectures: tuple[str, ...], refused: str
) -> None:
    options = catalogue(11434).options
    stated = Description(Origin.TREE, options, architectures=architectures)
    found = held(stack(tag), on=stated.catalogue(None))
    assert [it.what for it in found.problems] == (
        [f"`{tag}` does not know the architecture `gemma4` {refused}"]
        if refused
        else []
    )
    assert found.notes == []


@pytest.mark.parametrize("asked", [None, {"chat": {}}, {"tools": {}, "thinking": {}}])
def test_no_chat_template(asked: JsonValue) -> None:
    bare = replace(FACTS, model=replace(GEMMA, template=None))
    (note,) = held(stack(gates=asked), bare).notes
    assert note.startswith("s.yaml:6: the weights hold no chat template")
    assert held(stack(gates={"health": {}}), bare).notes == []
    unread = replace(bare, model=replace(bare.model, whole=False))
    assert held(stack(gates=asked), unread).notes == []


def test_an_outdated_template_unless_there_is_another(tmp_path: Path) -> None:
    early = replace(FACTS, model=replace(GEMMA, template=template_of(EARLY)))
    (note,) = held(stack(), early).notes
    assert "an early template of Gemma 4, which llama-server calls outdated" in note
    (tmp_path / "new.jinja").write_text("{{ tools }} enable_thinking")
    own = stack(server={"chat_template": "new.jinja"})
    assert held(own, early, tmp_path).notes == []
    assert held(stack(server={"chat_template": "chatml"}), early).notes == []


def test_a_template_of_the_users_is_looked_at(tmp_path: Path) -> None:
    (tmp_path / "mine.jinja").write_text("{{ messages }}")
    own = stack(server={"chat_template": "mine.jinja"}, gates={"responses_api": {}})
    (note,) = held(own, FACTS, tmp_path).notes
    assert note == (
        "s.yaml:10: gate `responses_api` will fail: the chat template shows no tools"
        " to the model"
    )


def test_every_gpu_of_a_list_has_to_hold_it() -> None:
    one = stack(gpu=["L40S", "T4"], server={"parallel": 1, "ctx_size": 8192})
    (problem,) = does_not_fit(sized(one, LOCKED, FACTS), PLACES)
    assert problem.place == PLACES["gpu"]
    assert "the model does not fit: T4 16 GB" in problem.what


def test_what_is_not_counted_is_doubted_and_not_refused() -> None:
    moved: JsonValue = {"override_tensor": ["exps=CPU"], "ctx_size": 8192}
    one = stack(gpu="T4", server=moved)
    size = sized(one, LOCKED, FACTS)
    assert list(does_not_fit(size, PLACES)) == []
    (note,) = doubts(one, size)
    assert note.startswith("it may not fit: T4 16 GB: weights")
    assert "`override_tensor` takes or moves memory" in note


def test_too_little_memory_for_a_container() -> None:
    one = stack(gpu="L40S", server={"ctx_size": 8192}, modal={"memory": "8GiB"})
    (note,) = doubts(one, sized(one, LOCKED, FACTS))
    assert note.startswith("`modal.memory: 8GiB` is less than the server may take")
    assert "prompt cache 8.0 GiB and checkpoints" in note
    enough = stack(gpu="L40S", server={"ctx_size": 8192}, modal={"memory": "64GiB"})
    assert list(doubts(enough, sized(enough, LOCKED, FACTS))) == []
