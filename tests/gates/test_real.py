"""Every gate against the real llama-server b10434 with the tiny Gemma 4 model."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from deployer.gates import GATES
from deployer.gates.checks.server import context_per_slot
from deployer.gates.harness.client import Process, Target
from deployer.gates.harness.runner import GateRequest, run_gates
from deployer.planning.events import Outcome, Verdict
from deployer.stack.fields.values import JsonValue
from tests.gates.checking import DATA, PROCESS, coming_back, run_one, section
from tests.gates.real_server import KEY, serving

pytestmark = pytest.mark.real

STATED: Mapping[str, JsonValue] = {
    "llama_cpp.tag": "b10434",
    "llama_cpp.commit": "7e4c0a9",
    "server.ctx_size": 8192,
    "server.parallel": 2,
    "server.metrics": True,
    "server.slots": True,
    "model.alias": "tiny",
    "model.path": "tiny.gguf",
    "model.mmproj": "mmproj.gguf",
}


@pytest.fixture(scope="module")
def url(llama_server: Path, tiny_model: Path) -> Iterator[str]:
    options = ("--ctx-size", "8192", "--parallel", "2", "--metrics", "--alias", "tiny")
    projector = ("--mmproj", str(tiny_model.with_name("mmproj.gguf")))
    with serving(llama_server, tiny_model, *options, *projector) as address:
        yield address


@pytest.fixture(scope="module")
def plain_url(llama_server: Path, model_without_tools: Path) -> Iterator[str]:
    with serving(llama_server, model_without_tools, "--reasoning", "off") as address:
        yield address


def target(url: str, **changed: JsonValue) -> Target:
    named = {name.replace("__", "."): value for name, value in changed.items()}
    return Target(
        url,
        api_key=KEY,
        api_key_name="KEY",
        expects={**STATED, **named},
        build=10434,
        process=PROCESS,
        folder=DATA,
        bring_back=coming_back(url),
    )


def expect(verdict: Verdict, outcome: Outcome, because: str) -> None:
    assert (verdict.outcome, because in verdict.because) == (outcome, True), verdict


def options_of(gate: str) -> Mapping[str, object]:
    return {"expect": "known_limits"} if gate == "tools" else {}


ELSEWHERE = (
    *("audio", "embeddings", "rerank"),
    *("sampling", "lora", "speculative", "slots"),
)
"""Gates of what the tiny chat model does not offer; `test_real_encoders` has more."""
HERE = tuple(gate for gate in GATES if gate not in ELSEWHERE)


@pytest.mark.parametrize("gate", HERE)
def test_the_gate_passes(gate: str, url: str) -> None:
    expect(run_one(gate, target(url), **options_of(gate)), Outcome.PASS, "")


def test_all_gates_pass_side_by_side(url: str) -> None:
    requests = [GateRequest(gate, section(gate, **options_of(gate))) for gate in HERE]
    verdicts = run_gates(requests, target(url), say=lambda _event: None, jobs=2)
    assert {v.gate: v.because for v in verdicts if v.outcome is not Outcome.PASS} == {}


@pytest.mark.parametrize(
    ("gate", "path", "value", "outcome", "because"),
    [
        ("build", "llama_cpp__commit", None, Outcome.INCONCLUSIVE, "state `llama_cpp"),
        ("build", "llama_cpp__commit", "0000000", Outcome.FAIL, "says `0000000`"),
        ("props", "server__ctx_size", 16384, Outcome.FAIL, "is 4096, `server.ctx_"),
        ("props", "server__parallel", 4, Outcome.FAIL, "the slots is 2"),
        ("props", "model__alias", "large", Outcome.FAIL, "the alias is `tiny`"),
        ("props", "model__mmproj", None, Outcome.FAIL, "vision is on"),
        ("props", "server__metrics", False, Outcome.FAIL, "/metrics is on"),
        ("models", "model__alias", "large", Outcome.FAIL, "but not `model.alias"),
    ],
)
def test_another_stack_is_not_proved(
    gate: str, path: str, value: JsonValue, outcome: Outcome, because: str, url: str
) -> None:
    expect(run_one(gate, target(url, **{path: value})), outcome, because)


def test_a_wrong_key_is_refused(url: str) -> None:
    stranger = Target(url, api_key="sk-other", api_key_name="KEY", expects=STATED)
    expect(run_one("chat", stranger), Outcome.ERROR, "HTTP 401: Invalid API Key")
    expect(run_one("auth", stranger), Outcome.FAIL, "the key as Bearer")


def test_more_requests_than_slots_are_seen(url: str) -> None:
    verdict = run_one("concurrency", target(url), requests=5)
    expect(verdict, Outcome.FAIL, "the server has 2 slots")


def test_a_call_that_leaks_with_none_is_held_back(url: str) -> None:
    verdict = run_one("tools", target(url), modes=("none",))
    expect(verdict, Outcome.FAIL, "none: raw `<|tool_call>` stands in the answer")


def test_a_named_function_that_is_not_called_is_held_back(url: str) -> None:
    verdict = run_one("tools", target(url), modes=("named",))
    expect(verdict, Outcome.FAIL, "`get_weather` is called instead of `add_numbers`")


def test_budgets_are_kept_near_their_limit(url: str) -> None:
    verdict = run_one("thinking_budget", target(url), tokens=(0, 1, 32, 100))
    expect(verdict, Outcome.PASS, "kept the budgets 0, 1, 32, 100")
    assert verdict.figures["budget_0_tokens"] == 0
    assert 90 <= verdict.figures["budget_100_tokens"] <= 104


def test_a_budget_beyond_all_thinking_is_not_proved(url: str) -> None:
    verdict = run_one("thinking_budget", target(url), tokens=(2000,))
    expect(verdict, Outcome.INCONCLUSIVE, "budget 2000 is not proved")


def test_tools_that_work_pass_without_modes(url: str) -> None:
    expect(run_one("tools", target(url)), Outcome.PASS, "expects them (auto)")


def test_budgets_of_requests_are_kept_beside_one_of_the_server(
    llama_server: Path, tiny_model: Path
) -> None:
    budget = {"server.reasoning_budget": 32}
    with serving(llama_server, tiny_model, "--reasoning-budget", "32") as url:
        there = replace(target(url), expects={**target(url).expects, **budget})
        verdict = run_one("thinking_budget", there)
    expect(verdict, Outcome.PASS, "kept the budgets 0, 64")


def test_required_that_is_not_enforced_is_held_back(plain_url: str) -> None:
    verdict = run_one("tools", target(plain_url), modes=("required",), roundtrip=False)
    expect(verdict, Outcome.FAIL, "upstream enforces `required` for some templates")
    lenient = {"modes": ("required",), "roundtrip": False, "expect": "known_limits"}
    expect(
        run_one("tools", target(plain_url), **lenient), Outcome.PASS, "accepted: req"
    )


def test_a_model_that_calls_nothing_fails(plain_url: str) -> None:
    expect(run_one("tools", target(plain_url)), Outcome.FAIL, "auto: no tool is called")
    for gate in ("responses_api", "messages_api"):
        expect(run_one(gate, target(plain_url)), Outcome.FAIL, "tools: no ")


def test_thinking_that_is_turned_off_fails(plain_url: str) -> None:
    verdict = run_one("thinking", target(plain_url))
    expect(verdict, Outcome.FAIL, "no reasoning came with thinking on")
    verdict = run_one("thinking_budget", target(plain_url))
    expect(verdict, Outcome.INCONCLUSIVE, "there is nothing to limit")


def test_pictures_without_a_projector_fail(plain_url: str) -> None:
    verdict = run_one("vision", target(plain_url))
    expect(verdict, Outcome.FAIL, "image input is not supported")


def test_metrics_that_are_off_fail(llama_server: Path, tiny_model: Path) -> None:
    with serving(llama_server, tiny_model) as bare:
        expect(run_one("metrics", target(bare)), Outcome.FAIL, "`server.metrics: true`")


def test_a_context_is_filled_nearly_to_its_end(url: str) -> None:
    verdict = run_one("context", target(url))
    assert verdict.figures["context_tokens"] == 4096
    assert 4000 < verdict.figures["prompt_tokens"] <= 4096 - 16


def test_a_needle_that_the_model_does_not_find_fails(url: str) -> None:
    verdict = run_one("context", target(url), needle="swordfish", tokens=512)
    expect(verdict, Outcome.FAIL, "is answered with `The answer is 42.`")


def test_a_large_picture_is_seen(url: str) -> None:
    expect(run_one("vision", target(url), large=True), Outcome.PASS, "large green")


def test_calls_at_once_that_do_not_come_fail(url: str) -> None:
    verdict = run_one("tools", target(url), modes=("auto",), parallel=True)
    expect(verdict, Outcome.FAIL, "parallel: `add_numbers` is not called in the same")


def test_answers_that_agree_with_those_of_the_live_release_pass(
    url: str, plain_url: str
) -> None:
    same = replace(target(url), live=target(url))
    expect(run_one("regression", same), Outcome.PASS, "5 of 5 are equal")
    other = replace(target(url), live=target(plain_url))
    expect(run_one("regression", other), Outcome.PASS, "in 100 % of their words")


def test_a_gpu_that_is_not_there_is_missed(
    llama_server: Path, tiny_model: Path, tmp_path: Path
) -> None:
    """b10434 says that it offloaded all layers to the GPU, on a machine without one."""
    log = tmp_path / "server.log"
    loud = ("--n-gpu-layers", "99", "--log-verbosity", "4", "--log-file", str(log))
    with serving(llama_server, tiny_model, *loud) as address:
        seen = Process(log=log.read_text(encoding="utf-8"))
        asked = replace(target(address, gpu="L4"), process=seen)
        verdict = run_one("device", asked)
    if "Vulkan0 model buffer" in seen.log:
        pytest.skip("this machine has a GPU that llama-server can use")
    expect(verdict, Outcome.FAIL, "the weights are in main memory")


@pytest.mark.parametrize("parallel", [None, 1, 2, 3, 4])
@pytest.mark.parametrize("unified", [None, True, False])
def test_the_context_of_a_slot_is_as_computed(
    *, parallel: int | None, unified: bool | None, llama_server: Path, tiny_model: Path
) -> None:
    options = ["--ctx-size", "1000"]
    options += ["--parallel", str(parallel)] if parallel else []
    if unified is not None:
        options += ["--kv-unified" if unified else "--no-kv-unified"]
    stated = {"server__parallel": parallel, "server__kv_unified": unified}
    with serving(llama_server, tiny_model, *options) as address:
        verdict = run_one("props", target(address, server__ctx_size=1000, **stated))
    wanted = context_per_slot(1000, parallel, unified=unified)
    assert verdict.figures["context_tokens_per_slot"] == wanted
