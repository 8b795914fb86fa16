"""Answers that look odd, and are no fault."""

import pytest

from deployer.gates.harness.client import Process, Target
from deployer.planning.events import Outcome
from tests.gates import fake_http as http
from tests.gates import fake_server as fake
from tests.gates.breaking import (
    CHAT,
    ERROR,
    FAIL,
    UNCLEAR,
    template,
)
from tests.gates.checking import STATED, check, run_one
from tests.gates.fake_http import Reply, Request, Script
from tests.gates.fake_model import Said
from tests.gates.faults.agents import (
    CLOSE,
    END,
    MESSAGES,
    OPEN,
    PIECE,
    START,
    STOP,
    only,
)
from tests.gates.faults.over_time import NO_SLOTS, one_at_a_time


def test_the_wanted_text_is_found_in_any_case() -> None:
    right = Script(says=lambda _body: Said("It is PARIS."))
    check("chat", right, Outcome.PASS, "PARIS", contains="paris")


def test_an_answer_may_be_cut_where_the_stack_says_so() -> None:
    cut = Script(says=lambda _body: Said("Once upon a", finish="length"))
    check("chat", cut, Outcome.PASS, "Once upon", max_tokens=3, prompt="Tell a story.")


def test_a_short_question_may_be_a_part_of_its_answer() -> None:
    greeting = Script(says=lambda _body: Said("Hello there! Hello."))
    check("chat", greeting, Outcome.PASS, "Hello there", prompt="Hello there!")


def test_nobody_at_the_address_is_an_error() -> None:
    with fake.fake_server(Script()) as server:
        closed = server.url
    verdict = run_one("health", Target(closed))
    assert (verdict.outcome, closed in verdict.because) == (ERROR, True)


def test_pings_are_no_fault() -> None:
    pinged = http.named_events(START, {"type": "ping"}, OPEN, PIECE, CLOSE, END, STOP)
    check("messages_api", only(MESSAGES, "stream", pinged), Outcome.PASS, "streamed")


@pytest.mark.parametrize("gate", ["responses_api", "messages_api"])
def test_tools_are_left_out_where_the_template_knows_none(gate: str) -> None:
    because = "its chat template knows no tools"
    check(gate, template("", tools=False), Outcome.PASS, because)


def test_the_clock_in_the_answers_is_a_witness_too() -> None:
    def timed(request: Request) -> Reply:
        fake.chat(request)
        timings = {
            "prompt_n": 1,
            "prompt_ms": 1.0,
            "predicted_n": 64,
            "predicted_ms": 400.0,
        }
        return http.as_json({**fake.completion(Said()), "timings": timings})

    routes = {CHAT: timed, "GET /slots": lambda _request: NO_SLOTS}
    script = Script(routes=routes, busy_seconds=0.4)
    check("concurrency", script, Outcome.PASS, "by the server's own clock")
    check("concurrency", one_at_a_time(script), FAIL, "at most 1 of 2")


def test_what_a_server_cannot_show_is_not_applicable() -> None:
    one = check("concurrency", Script(slots=1), UNCLEAR, "one slot", stated={})
    nothing = check("device", Script(), UNCLEAR, "no stack says", stated={})
    assert (one.applicable, nothing.applicable) == (False, False)


def test_the_log_says_why_a_slot_is_smaller() -> None:
    capped = "the slot context (4096) exceeds the training context of the model (2048)"
    process = Process(log=f"W srv load_model: {capped} - capping\n")
    stated = {**STATED, "server.ctx_size": 8192}
    because = "the model was trained for 2048 tokens, and a slot gets no more"
    check("props", Script(), FAIL, because, stated=stated, process=process)
