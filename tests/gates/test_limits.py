"""Prompts up to the context, and refusals of each build."""

import json

import pytest

from deployer.gates.checks.limits import CONTRACT, Errors, Refusals
from deployer.gates.harness.answers import Answer
from deployer.gates.harness.client import Target
from deployer.planning.events import Outcome
from deployer.stack.fields import gate_options as asked
from tests.gates import fake_server as fake
from tests.gates.breaking import (
    FAIL,
    UNCLEAR,
    model,
)
from tests.gates.checking import check
from tests.gates.fake_http import Script
from tests.gates.fake_model import Said, usual_answer
from tests.gates.faults.limits import LOADS, loading


def test_a_needle_that_is_found_passes() -> None:
    finder = model(
        lambda body: (
            Said("It is Swordfish.")
            if "swordfish" in body["messages"][0]["content"]
            else usual_answer(body)
        )
    )
    because = "was answered and its needle was found"
    verdict = check("context", finder, Outcome.PASS, because, needle="swordfish")
    assert 1900 < verdict.figures["prompt_tokens"] < fake.CONTEXT


def test_a_shorter_prompt_can_be_asked_for() -> None:
    verdict = check("context", Script(), Outcome.PASS, "of a slot", tokens=512)
    assert 400 < verdict.figures["prompt_tokens"] < 512


@pytest.mark.parametrize(
    ("build", "status", "outcome"),
    [
        (8672, 500, Outcome.PASS),
        (10434, 500, Outcome.PASS),
        (10434, 400, FAIL),
        (10900, 500, Outcome.PASS),
        (10900, 400, Outcome.PASS),
        (11434, 400, Outcome.PASS),
        (11434, 500, FAIL),
        (None, 400, Outcome.PASS),
        (None, 404, FAIL),
    ],
)
def test_the_contract_is_that_of_the_build(
    build: int | None, status: int, outcome: Outcome
) -> None:
    """Broken JSON is the row that a build changed."""
    kind = {400: "invalid_request_error", 500: "server_error"}.get(status, "other")
    body = b'{"error": {"message": "no", "type": "%s"}}' % kind.encode()
    attempt = (CONTRACT[0], Answer(status, "application/json", body, 0.01))
    gate = Errors(asked.Errors(), Target("http://127.0.0.1:1", build=build))
    judged = gate.judgement(Refusals((attempt,)))
    assert judged.outcome is outcome
    other = Errors(asked.Errors(), Target("http://127.0.0.1:1", build=9))
    stated = {**fake.props_value(), "build_info": f"b{build or 1}-abcdef0"}
    props = Answer(200, "application/json", json.dumps(stated).encode(), 0.01)
    judged = other.judgement(Refusals((attempt,), props))
    assert build is None or judged.outcome is outcome  # the server knows better


def test_without_a_key_none_is_asked_for() -> None:
    open_server = Script(key=None)
    verdict = check("errors", open_server, Outcome.PASS, "an unknown route", key=None)
    assert "no key" not in verdict.because


def test_a_refusal_while_loading_that_was_seen_is_judged() -> None:
    verdict = check(
        "errors",
        Script(),
        Outcome.PASS,
        "refused as documented: loading, broken JSON",
        process=loading(503, LOADS),
        loading=True,
    )
    assert verdict.evidence[0].request == "GET /health"
    assert (
        verdict.evidence[0].note == "seen by the engine while it waited for the server"
    )


def test_a_refusal_while_loading_that_nobody_saw_is_said_to_be_so() -> None:
    unseen = "how it refuses while it loads was not seen"
    check("errors", Script(), Outcome.PASS, unseen)
    check("errors", Script(), UNCLEAR, unseen, loading=True)
