"""What a stack may not say of its gates; every broken rule is told at its place."""

import json
from typing import Any

import pytest
from pydantic import ValidationError

from deployer.stack.checks import (
    UNREAD,
    Abilities,
    automatic,
    automatic_fields,
    checks,
    unproven,
)
from deployer.stack.fields.gate_options import Tools
from deployer.stack.fields.model import Stack
from deployer.usecases.check import requests_of

SOUND: dict[str, Any] = {
    "version": 1,
    "name": "s",
    "engine": "local",
    "llama_cpp": {"tag": "b9763"},
    "model": {"repo": "owner/name", "quant": "Q4_K_M"},
    "auth": {"open": "nothing serves in these tests"},
}


def told(gates: object, **changes: object) -> list[str]:
    """Each broken rule: its place, what is wrong, and what to do."""
    text = json.dumps({**SOUND, **changes, "gates": gates})
    found = checks(Stack.model_validate_json(text))
    return [line for f in found for line in (f"{f.path}: {f.what}", f.hint)]


@pytest.mark.parametrize("engine", ["local", "modal"])
def test_a_restore_needs_a_snapshot(engine: str) -> None:
    refusal = "gates.restore: the gate `restore` needs a snapshot to restore from"
    hint = "add `snapshot: {enabled: true}`"
    assert told({"restore": {}}, engine=engine) == [refusal, hint]
    assert told({"restore": {}}, engine=engine, snapshot={"enabled": True}) == []


VECTORS = {"embeddings": True, "pooling": "mean"}


@pytest.mark.parametrize("gate", ["chat", "stream", "tools", "vision", "thinking"])
@pytest.mark.parametrize(
    ("server", "kind"), [(VECTORS, "embeddings"), ({"reranking": True}, "rerank")]
)
def test_a_gate_of_chat_does_not_fit_a_server_for_vectors(
    gate: str, server: dict[str, object], kind: str
) -> None:
    what = f"gates.{gate}: the gate `{gate}` asks for an answer, and the server is for"
    found = told({gate: {}}, server=server)
    assert found == [f"{what} {kind}", f"write `gates: {{{kind}: {{}}}}`"]
    assert told({kind: {}, "health": {}}, server=server) == []


@pytest.mark.parametrize(
    ("gate", "because"),
    [
        ("embeddings", "needs a server that offers it"),
        ("rerank", "needs a server that offers it"),
        ("sampling", "proves nothing: the stack states no sampler such as `top_k`"),
        ("slots", "proves nothing: the stack states no `slot-save-path`"),
    ],
)
def test_a_gate_needs_what_it_asks_for(gate: str, because: str) -> None:
    what, _hint = told({gate: {}})
    assert what == f"gates.{gate}: the gate `{gate}` {because}"


def test_what_is_offered_and_not_asked_is_not_proven() -> None:
    def left(gates: object, **changes: object) -> tuple[str, ...]:
        text = json.dumps({**SOUND, **changes, "gates": gates})
        return unproven(Stack.model_validate_json(text))

    sees = {**SOUND["model"], "mmproj": "F16"}
    assert left({"chat": {}}) == ()
    assert left({"health": {}}) == ("chat",)
    assert left({"chat": {}}, model=sees, server={"top_k": 9}) == ("vision", "sampling")
    assert left({"health": {}}, server=VECTORS) == ("embeddings",)
    assert left({"chat": {}}, server={"parallel": 2, "metrics": True}) == (
        "metrics",
        "concurrency",
    )
    assert left("auto", server={"parallel": 2, "metrics": True}) == ()
    assert left("auto", model=sees) == ("vision",)
    left_out = {"auto": True, "without": {"chat": "a base model"}}
    assert left(left_out, model=sees) == ("chat (a base model)", "vision")


BASE = Abilities(chat=False)
KNOWN = Abilities(chat=True, thinking=True, tools=True, audio=True)
PLAIN = ("health", "props", "models")


@pytest.mark.parametrize(
    ("changes", "model", "gates", "left"),
    [
        ({}, UNREAD, (*PLAIN, "chat", "stream"), ()),
        ({"gates": "auto"}, UNREAD, (*PLAIN, "chat", "stream"), ()),
        ({"gates": {"chat": {}}}, UNREAD, (), ()),
        ({"gates": {"auto": True, "chat": {}}}, UNREAD, (*PLAIN, "stream"), ()),
        ({}, BASE, PLAIN, ()),
        ({}, KNOWN, (*PLAIN, "chat", "stream", "tools"), ("audio", "thinking")),
        ({"server": {"reasoning": "off", "jinja": False}}, KNOWN, None, ("audio",)),
        ({"server": VECTORS}, KNOWN, (*PLAIN, "embeddings"), ()),
        (
            {"model": {**SOUND["model"], "lora": [{"path": "a.gguf"}]}},
            UNREAD,
            (*PLAIN, "chat", "stream", "lora"),
            (),
        ),
        (
            {"model": {**SOUND["model"], "lora": [{"path": "a.gguf", "scale": 0}]}},
            UNREAD,
            (*PLAIN, "chat", "stream"),
            (),
        ),
        ({"server": {"reranking": True}}, UNREAD, (*PLAIN, "rerank"), ()),
        (
            {"auth": {"api_key": {"env": "KEY"}}, "server": {"parallel": 2}},
            UNREAD,
            (*PLAIN, "auth", "chat", "stream", "concurrency"),
            (),
        ),
        (
            {
                "server": {
                    "speculative": {"type": "ngram-mod"},
                    "flags": {"slot-save-path": "slots"},
                    "seed": 4,
                },
                "snapshot": {"warmup": [{"file": "agent.md"}]},
            },
            UNREAD,
            None,
            ("sampling", "speculative", "prompt_cache", "slots", "restore"),
        ),
    ],
)
def test_a_stack_without_gates_is_asked_for_what_it_offers(
    changes: dict[str, object],
    model: Abilities,
    gates: tuple[str, ...] | None,
    left: tuple[str, ...],
) -> None:
    stack = Stack.model_validate_json(json.dumps({**SOUND, **changes}))
    found = automatic(stack, model)
    assert gates is None or found == gates
    assert unproven(stack, model) == left


def test_calls_that_a_model_does_not_make_block_no_stack_without_gates() -> None:
    stack = Stack.model_validate_json(json.dumps(SOUND))
    fields = automatic_fields(stack, KNOWN)
    (request,) = requests_of(("tools",), fields)
    assert request.parameters == Tools(expect="whole_calls")
    assert fields["gates.chat"] == {}


@pytest.mark.parametrize(
    ("without", "expected"),
    [
        ({"vision": "seen elsewhere", "chat": "a base model"}, []),
        ({"chta": "?"}, ["gates.without.chta: there is no gate `chta`", "did you"]),
        ({"health": "?"}, ["gates.without.health: the gate `health` always runs", ""]),
        ({"speed": "?"}, ["gates.without.speed: the section also asks for", "keep"]),
    ],
)
def test_what_is_left_out_is_a_gate_that_would_run(
    without: dict[str, str], expected: list[str]
) -> None:
    found = told({"auto": True, "speed": {}, "without": without})
    assert len(found) == len(expected)
    assert all(it.startswith(what) for it, what in zip(found, expected, strict=True))


def test_quality_needs_a_file() -> None:
    hint = "add `file: prompts.jsonl`, one prompt and what to expect a line"
    nothing = "gates.quality: nothing says what to ask"
    assert told({"quality": {"pass_rate": 0.5}}) == [nothing, hint]
    assert told({"quality": {"file": "a.jsonl"}}) == []


def test_regression_needs_the_live_server() -> None:
    gone = (
        "gates.regression: the gate `regression` asks the live server, which "
        "`replace` stops first"
    )
    hint = "write `rollout: {strategy: handover}`"
    replacing = {"strategy": "replace"}
    assert told({"regression": {}}, rollout=replacing) == [gone, hint]
    assert told({"regression": {}}) == []


@pytest.mark.parametrize("name", ["a.b", "A", "", "1", "-a", "a b", "a" * 49])
def test_commands_have_plain_names(name: str) -> None:
    what, _hint = told({"custom": {name: {"command": ["true"]}}})
    assert what.startswith("gates.custom: expected a name such as `smoke-test`, got `")


def test_commands_may_have_any_plain_name() -> None:
    command = {"command": ["./smoke.sh"], "timeout": "5s", "advisory": True}
    assert told({"custom": {"smoke-test_2": command}}) == []


def test_a_custom_gate_says_what_to_run_in_one_way() -> None:
    hint = "add `command: [./smoke.sh]` or `python: checks.py:smoke`"
    nothing = "gates.custom.mine: nothing says what to run"
    assert told({"custom": {"mine": {"advisory": True}}}) == [nothing, hint]
    both = {"command": ["true"], "python": "checks.py:smoke"}
    twice = "gates.custom.mine.python: `command` and `python` both say what to run"
    assert told({"custom": {"mine": both}}) == [twice, "keep one of them"]
    assert told({"custom": {"mine": {"python": "evals/checks.py:smoke"}}}) == []


@pytest.mark.parametrize(
    "name", ["checks.py", "checks:smoke", "checks.py:", "checks.py:a.b", ".py:a", ":a"]
)
def test_a_function_is_named_by_file_and_name(name: str) -> None:
    with pytest.raises(ValidationError):
        told({"custom": {"mine": {"python": name}}})


def test_a_share_that_so_many_restores_cannot_prove_is_refused() -> None:
    wanted = {"restore": {"times": 20, "success": 0.95}}
    what, hint = told(wanted, snapshot={"enabled": True})
    assert what.endswith("the lower bound is 0.86 at 95% confidence")
    assert "write `times: 59`, or `success: 0.86`" in hint
    for enough in ({"times": 59, "success": 0.95}, {"times": 20, "success": 0.86}):
        assert told({"restore": enough}, snapshot={"enabled": True}) == []
