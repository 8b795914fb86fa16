"""How a stack is served, as far as memory goes: a field means what its option means."""

from dataclasses import fields
from typing import Annotated

import pytest

from deployer.gguf.memory import Serving
from deployer.planning.facts import Facts, Pin
from deployer.stack.fields.examples import EXAMPLES
from deployer.stack.fields.marks import fields_of
from deployer.stack.fields.model import Stack
from deployer.stack.fields.server import Server
from deployer.stack.fields.values import Flag, JsonValue, Memory
from deployer.testing import stack as stack_of
from deployer.usecases.reading.memory import serving_of

LOCKED = Facts(Pin("git", {}, {}), Pin("hub", {}, {}), {})
MARKED = {n: f for n, f in fields_of(Server).items() if f.memory is not None}


def stack(server: dict[str, JsonValue]) -> Stack:
    return stack_of(
        {
            "version": 1,
            "name": "s",
            "engine": "local",
            "llama_cpp": {"tag": "b9763"},
            "model": {"path": "m.gguf"},
            "server": server,
        }
    )


def test_every_computed_field_is_one_of_the_formulas_and_no_other() -> None:
    read = {it.name for it in fields(Serving)} - {"build", "untold"}
    drafts = {it for it in read if it.startswith("draft_")}  # of `server.speculative`
    assert len(drafts) == 4
    drafts |= {"predicts", "rollback"}  # of it as well
    computed = {n for n, f in MARKED.items() if f.memory is Memory.COMPUTED}
    assert read - drafts == computed


@pytest.mark.parametrize("name", MARKED)
def test_an_option_means_the_same_typed_and_under_flags(name: str) -> None:
    for value in EXAMPLES[f"server.{name}"]:
        typed = serving_of(stack({name: value}), LOCKED)
        for flag in MARKED[name].flags:
            option = flag.name.removeprefix("--")
            free = serving_of(stack({"flags": {option: value}}), LOCKED)
            assert free.untold == tuple(
                it.replace(f"`{name}`", f"`{option}`") for it in typed.untold
            )
            assert _computed(free) == _computed(typed)
            if value is False and flag.off:
                off: JsonValue = {flag.off.removeprefix("--"): True}
                free = serving_of(stack({"flags": off}), LOCKED)
                assert _computed(free) == _computed(typed)


def _computed(serving: Serving) -> dict[str, object]:
    named = {it.name: getattr(serving, it.name) for it in fields(serving)}
    del named["untold"]
    return named


class Typed(Server):
    """The options of a newer deployer: one that moves memory has got a field."""

    cpu_moe: Annotated[bool | None, Flag("--cpu-moe")] = None


def test_an_option_that_gets_a_field_stays_unsure_without_a_mark() -> None:
    """Typed without a mark it would be as if not there, and the model be refused."""
    free = serving_of(stack({"flags": {"cpu-moe": True}}), LOCKED)
    typed = stack({}).model_copy(update={"server": Typed(cpu_moe=True)})
    assert free.untold == ("`cpu-moe` takes or moves memory",)
    assert serving_of(typed, LOCKED).untold == ("`cpu_moe` takes or moves memory",)


@pytest.mark.parametrize(
    ("server", "expected"),
    [
        ({"speculative": {"type": "draft-mtp", "n_max": 2}}, (True, 2)),
        ({"speculative": {"type": "draft-mtp"}}, (True, 3)),
        ({"flags": {"spec-type": "draft-mtp,ngram-simple"}}, (True, 3)),
        ({"speculative": {"type": "draft-eagle3"}}, (False, 3)),
        ({"speculative": {"type": "ngram-mod", "n_max": 5}}, (False, 0)),
        ({}, (False, 0)),
    ],
)
def test_what_drafts_make_the_model_keep(
    server: dict[str, JsonValue], expected: tuple[bool, int]
) -> None:
    found = serving_of(stack(server), LOCKED)
    assert (found.predicts, found.rollback) == expected
