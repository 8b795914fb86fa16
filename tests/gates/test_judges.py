"""What the pure judges make of what was measured, by tables and by fuzzing."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployer.gates.checks.chat import Stream
from deployer.gates.checks.performance import AtOnce, Concurrency, Ended
from deployer.gates.checks.server import Build, Props, context_per_slot
from deployer.gates.harness.answers import Answer, Event, Streamed
from deployer.gates.harness.client import Target
from deployer.gates.harness.gate import gate_class
from deployer.planning.events import Outcome
from deployer.stack.fields import gate_options as asked
from deployer.stack.fields.values import JsonValue
from tests.gates.checking import section

PASS, FAIL, UNCLEAR = Outcome.PASS, Outcome.FAIL, Outcome.INCONCLUSIVE
ONE_ANSWER = ("health", "build", "props", "models", "chat")


def target(**stated: JsonValue) -> Target:
    expects = {name.replace("__", "."): value for name, value in stated.items()}
    return Target("http://127.0.0.1:1", expects=expects)


def answer(value: object, status: int = 200) -> Answer:
    return Answer(status, "application/json", json.dumps(value).encode(), 0.01)


@pytest.mark.parametrize(
    ("info", "stated", "outcome", "because"),
    [
        ("b10434-7e4c0a9", {"tag": "b10434"}, PASS, "as the stack pins it"),
        ("b10434-7e4c0a9", {"tag": "b10435"}, FAIL, "the stack pins `b10435`"),
        ("b1-7e4c0a9", {"tag": "b10434"}, UNCLEAR, "state `llama_cpp.commit`"),
        ("b1-7e4c0a9", {"tag": "b10434", "commit": "7e4c0a9bb"}, PASS, "build 1"),
        ("b1-7e4c0a9bbff", {"tag": "b10434", "commit": "7e4c0a9"}, PASS, "build 1"),
        ("b1-7e4c0a8", {"tag": "b10434", "commit": "7e4c0a9"}, FAIL, "`7e4c0a8`"),
        ("b1-7e4c", {"tag": "b10434", "commit": "7e4c0a9"}, UNCLEAR, "no commit"),
        ("b0-unknown", {"tag": "b10434", "commit": "7e4c0a9"}, UNCLEAR, "no commit"),
        ("b2-7e4c0a9", {"tag": "b10434", "commit": "7e4c0a9"}, FAIL, "pins `b10434`"),
        ("b10434-7e4c0a9", {"tag": "7e4c0a9bb"}, PASS, "`llama_cpp.tag` says"),
        ("b10434-7e4c0a9", {"tag": "deadbeef"}, FAIL, "`llama_cpp.tag` says"),
        ("b10621-7e4c0a9", {"tag": "v0.3.0", "build": 10621}, PASS, "as the stack"),
        ("b10434-7e4c0a9", {"tag": "v0.3.0", "build": 10621}, FAIL, "pins `v0.3.0`"),
        ("b10434-7e4c0a9", {"tag": "v0.3.0"}, UNCLEAR, "no build is stated"),
        ("b10434-7e4c0a9", {"tag": "v0.3.0", "commit": "7e4c0a9"}, PASS, "commit"),
        ("b10434-7e4c0a9", {}, UNCLEAR, "no build is stated"),
        ("b10434-7e4c0a9", {"build": 10434}, PASS, "as the stack pins it"),
    ],
)
def test_a_build_is_judged_by_number_and_commit(
    info: str, stated: dict[str, JsonValue], outcome: Outcome, because: str
) -> None:
    number = stated.get("build")
    expects = {f"llama_cpp.{name}": value for name, value in stated.items()}
    seen = Target(
        "http://127.0.0.1:1",
        expects=expects,
        build=number if isinstance(number, int) else None,
    )
    judged = Build(asked.Build(), seen).judgement(answer({"build_info": info}))
    assert (judged.outcome, because in judged.because) == (outcome, True), judged


@pytest.mark.parametrize(
    ("ctx_size", "parallel", "unified", "wanted"),
    [
        (4096, None, None, 4096),
        (4096, None, False, 4096),
        (4096, 1, None, 4096),
        (4096, 2, None, 2048),
        (4096, 3, None, 1536),
        (4096, 3, True, 4096),
        (1000, None, None, 1024),
        (1000, 3, None, 512),
        (1000, 4, False, 256),
        (100, 1, None, 256),
    ],
)
def test_the_context_of_a_slot(
    *, ctx_size: int, parallel: int | None, unified: bool | None, wanted: int
) -> None:
    assert context_per_slot(ctx_size, parallel, unified=unified) == wanted


def served(**changed: JsonValue) -> Answer:
    value: dict[str, JsonValue] = {
        "total_slots": 2,
        "default_generation_settings": {"n_ctx": 2048},
        "model_alias": "gemma",
        "modalities": {"vision": True},
    }
    return answer({**value, **changed})


@pytest.mark.parametrize(
    ("stated", "outcome", "because"),
    [
        ({}, UNCLEAR, "nothing is stated"),
        ({"server__parallel": 2}, PASS, "the slots"),
        ({"model__alias": "tiny,gemma"}, PASS, "the alias"),
        ({"model__alias": "tiny"}, FAIL, "the alias is `gemma`"),
        ({"model__mmproj": "F16"}, PASS, "vision"),
        ({"model__path": "x.gguf"}, FAIL, "vision is on, `no model.mmproj`"),
        ({"model__path": "x", "server__flags__mmproj": "y"}, UNCLEAR, "nothing"),
        ({"server__slots": False}, FAIL, "/slots is not reported"),
        ({"server__ctx_size": 4096, "server__parallel": 4}, FAIL, "; the context"),
    ],
)
def test_only_what_is_stated_is_judged(
    stated: dict[str, JsonValue], outcome: Outcome, because: str
) -> None:
    judged = Props(asked.Props(), target(**stated)).judgement(served())
    assert (judged.outcome, because in judged.because) == (outcome, True), judged


def completed(seconds: float, worked_ms: float) -> Ended:
    value = {
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "1"},
                "finish_reason": "length",
            }
        ],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
        "timings": {
            "prompt_n": 1,
            "prompt_ms": 0,
            "predicted_n": 1,
            "predicted_ms": worked_ms,
        },
    }
    return Ended(answer(value), seconds)


@pytest.mark.parametrize(
    ("ended", "busy", "outcome"),
    [
        ([(1.0, 900), (1.0, 900)], (), PASS),
        ([(1.0, 900), (2.0, 900)], (), FAIL),
        ([(1.0, 900), (1.8, 900)], (), FAIL),
        ([(1.0, 900), (1.1, 900)], (), PASS),
        ([(1.0, 900), (2.0, 900)], (1, 2), PASS),
        ([(1.0, 900), (2.0, 900)], (1, 1), FAIL),
        ([(1.0, 0), (1.0, 0)], (1, 1, 1), FAIL),
        ([(1.0, 0), (1.0, 0)], (1, 1), UNCLEAR),
        ([(1.0, 0), (1.0, 0)], (), UNCLEAR),
    ],
)
def test_either_witness_proves_that_slots_worked_together(
    ended: list[tuple[float, float]], busy: tuple[int, ...], outcome: Outcome
) -> None:
    answers = tuple(completed(seconds, worked) for seconds, worked in ended)
    gate = Concurrency(asked.Concurrency(), target())
    assert gate.judgement(AtOnce(2, answers, busy, slots=2)).outcome is outcome


JUNK = st.one_of(
    st.binary(max_size=80),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(("choices", "usage", "message", "data", "status")),
                inner,
                max_size=4,
            )
        ),
        max_leaves=12,
    ).map(lambda value: json.dumps(value).encode()),
)


@given(body=JUNK, status=st.sampled_from((200, 200, 204, 301, 401, 404, 500, 503)))
@pytest.mark.parametrize("gate", ONE_ANSWER)
def test_no_junk_passes_and_none_raises(gate: str, body: bytes, status: int) -> None:
    looking = gate_class(gate)(section(gate), target(llama_cpp__tag="b10434"))
    judged = looking.judgement(Answer(status, "application/json", body, 0.1))
    assert judged.outcome is not PASS


@given(raw=st.binary(max_size=60), events=st.lists(st.text(max_size=20), max_size=4))
def test_no_junk_stream_passes_and_none_raises(raw: bytes, events: list[str]) -> None:
    kind = "text/event-stream"
    sent = raw + "".join(f"data: {event}\n\n" for event in events).encode()
    streamed = Streamed(
        Answer(200, kind, sent, 0.1),
        tuple(Event("message", event, 0.1) for event in events),
    )
    judged = Stream(asked.Stream(), target()).judgement(streamed)
    assert judged.outcome is not PASS
