"""Models and tool calls as they should be, and limits that a stack accepts."""

from dataclasses import replace

import pytest

from deployer.gates.checks.drawing import bounds
from deployer.gates.harness.answers import PARAMETERS, TOOLS
from deployer.gates.harness.client import Target
from deployer.planning.events import Outcome
from tests.gates import fake_http as http
from tests.gates.breaking import (
    FAIL,
    UNCLEAR,
    answers,
    props,
    template,
    when,
)
from tests.gates.checking import STATED, check, run_one
from tests.gates.fake_http import KEY, Script
from tests.gates.fake_model import Body, Said, usual_answer
from tests.gates.fake_server import fake_server
from tests.gates.faults.tools import ARGUMENTS, CALLED, NAME, RAW, chosen, streamed_call


def test_a_large_picture_is_shown_on_demand() -> None:
    check("vision", Script(), Outcome.PASS, "and a large green image", large=True)


@pytest.mark.parametrize("colour", ["red", "green", "blue", "yellow"])
def test_every_colour_is_drawn_as_it_is_named(colour: str) -> None:
    check("vision", Script(), Outcome.PASS, f"of a {colour} and", colour=colour)


def test_speed_records_its_figures() -> None:
    verdict = check("speed", Script(), Outcome.PASS, "tokens/s")
    assert set(verdict.figures) == {
        "ttft_seconds",
        "tokens_per_second",
        "slowest_stream_tokens_per_second",
        "prompt_tokens_per_second",
        "parallel_streams",
        "parallel_ttft_seconds",
        "parallel_tokens_per_second",
    }
    assert verdict.figures["parallel_streams"] == 2


def test_speed_streams_as_often_and_as_long_as_the_stack_states() -> None:
    asked: list[Body] = []

    def hear(body: Body) -> Said:
        asked.append(body)
        return usual_answer(body)

    script = replace(Script(), says=hear)
    because = " at 97% confidence)"
    check("speed", script, Outcome.PASS, because, times=5, tokens=8)
    streams = [body["max_tokens"] for body in asked if body.get("stream")]
    assert streams == [8] * (5 + 2)


def test_the_draws_of_a_sampler_are_held_against_their_probabilities() -> None:
    because = "drawn 41 of 64 times, by its probabilities 29 to 53 at 99.9% confidence"
    check("sampling", Script(), Outcome.PASS, because, times=64)


def test_bounds_of_draws_leave_half_of_the_doubt_on_each_side() -> None:
    """Of 32 fair ones, 6 or fewer come by a chance of 0.0003, 7 or fewer 0.001."""
    assert bounds([0.5] * 32) == (7, 25)
    assert bounds([1.0] * 32) == (32, 32)
    assert bounds([0.0] * 32) == (0, 0)


def test_a_slot_that_is_small_is_asked_no_prompt_that_it_cannot_hold() -> None:
    asked: list[str] = []

    def hear(body: Body) -> Said:
        asked.append(body["messages"][-1]["content"])
        return usual_answer(body)

    small = {"default_generation_settings": {"n_ctx": 512}, "total_slots": 1}
    script = replace(answers("GET /props", http.as_json(small)), says=hear)
    check("speed", script, Outcome.PASS, "tokens/s", stated={})
    assert max(map(len, asked)) == 256


def test_one_slot_has_no_streams_at_once() -> None:
    stated = {**STATED, "server.parallel": 1}
    verdict = check("speed", Script(), Outcome.PASS, "tokens/s", stated=stated)
    assert "parallel_streams" not in verdict.figures


@pytest.mark.parametrize("gate", ["thinking", "thinking_budget"])
def test_a_template_that_cannot_think_is_said_to_be_so(gate: str) -> None:
    """It holds back: a stack that asks a model for what it lacks is a mistake."""
    unable = replace(template("{{ messages }}"), says=lambda _body: Said())
    because = "the chat template of this model cannot think, it mentions none of"
    verdict = check(gate, unable, UNCLEAR, because)
    assert (verdict.applicable, verdict.blocks) == (False, True)


@pytest.mark.parametrize(
    ("mode", "said"),
    [("required", Said("Hello.")), ("named", CALLED), ("none", Said(RAW))],
)
def test_known_limits_can_be_accepted(mode: str, said: Said) -> None:
    script = when(chosen(mode), said)
    check("tools", script, FAIL, "`expect: known_limits` accepts it", modes=(mode,))
    lenient = "known_limits"
    check("tools", script, Outcome.PASS, "accepted:", modes=(mode,), expect=lenient)


@pytest.mark.parametrize(
    ("stated", "build", "modes"),
    [
        ("b1-abcdef0", None, "(auto)"),
        ("b1-abcdef0", 11217, "(auto)"),
        ("b1-abcdef0", 11218, "(auto, req"),
        ("b11217-abcdef0", 11218, "(auto)"),  # the server knows better than the stack
        ("b11218-abcdef0", None, "(auto, req"),
    ],
)
def test_without_modes_a_build_is_asked_for_what_it_enforces(
    stated: str, build: int | None, modes: str
) -> None:
    script = when(chosen("none"), Said(RAW))
    routes = {**script.routes, **props(build_info=stated).routes}
    with fake_server(replace(script, routes=routes)) as server:
        target = Target(server.url, api_key=KEY, api_key_name="KEY", build=build)
        verdict = run_one("tools", target)
    assert (verdict.outcome, modes in verdict.because) == (Outcome.PASS, True)


def test_a_whole_streamed_call_passes() -> None:
    check("tools", streamed_call(NAME, ARGUMENTS), Outcome.PASS, "", modes=("auto",))


def test_two_calls_at_once_pass() -> None:
    check("tools", Script(), Outcome.PASS, "two calls came at once", parallel=True)


@pytest.mark.parametrize("name", TOOLS)
def test_the_arguments_offered_are_those_that_are_checked(name: str) -> None:
    fields = list(TOOLS[name].model_fields)
    properties = PARAMETERS[name]["properties"]
    assert isinstance(properties, dict)
    assert list(properties) == PARAMETERS[name]["required"] == fields
