"""Files of prompts, and answers compared with those of the live release."""

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from deployer.gates.harness.client import Target
from deployer.planning.events import Outcome
from tests.gates import fake_http as http
from tests.gates.breaking import CHAT, ERROR, FAIL, answers, model
from tests.gates.checking import DATA, check, run_one
from tests.gates.fake_http import KEY, Script
from tests.gates.fake_model import Body, Said, usual_answer
from tests.gates.fake_server import fake_server
from tests.gates.faults.answers import asked, compared, line, says, sure

PASS = Outcome.PASS


def test_json_that_fits_passes(tmp_path: Path) -> None:
    schema = {"type": "object", "required": ["a"]}
    folder = asked(tmp_path, line(json_schema=schema))
    check("quality", says(' {"a": 1}\n'), PASS, "1 of 1 prompts", folder=folder)


@pytest.mark.parametrize(("rate", "outcome"), [(0.5, PASS), (0.6, FAIL)])
def test_the_pass_rate_decides(rate: float, outcome: Outcome, tmp_path: Path) -> None:
    folder = asked(tmp_path, line(contains="42"), line(contains="43"))
    check("quality", Script(), outcome, "line 2:", folder=folder, pass_rate=rate)


def test_the_file_is_named_by_its_digest_in_the_evidence() -> None:
    verdict = check("quality", Script(), PASS, "4 of 4")
    content = (DATA / "prompts.jsonl").read_bytes()
    assert verdict.evidence[0].request == "read prompts.jsonl"
    digest = hashlib.sha256(content).hexdigest()
    assert verdict.evidence[0].response == f"sha256 {digest}, 4 prompts"


def test_the_first_release_has_nothing_to_compare_with() -> None:
    verdict = check("regression", Script(), PASS, "no live release to compare with")
    assert verdict.evidence == ()


def test_equal_answers_pass() -> None:
    verdict = compared(Script(), Script(), PASS, "in 100 % of their words, 5 of 5")
    assert verdict.figures["agreement"] == 1
    assert len(verdict.evidence) == 10


def test_a_few_other_words_may_pass() -> None:
    almost = says("The answer is 43.")
    because = "in 75 % of their words, 0 of 5 are equal"
    compared(Script(), almost, PASS, because, agreement=0.7)
    compared(Script(), almost, FAIL, because, agreement=0.8)


def test_the_same_certainty_passes_and_words_count_where_they_are_stated() -> None:
    verdict = compared(sure(a=0.9, b=0.1), sure(a=0.9, b=0.1), PASS, "0.000 nats a tok")
    assert verdict.figures["compared_tokens"] == 25
    other = sure(a=0.88, b=0.12)
    assert compared(sure(a=0.9, b=0.1), other, PASS, "0.00").figures["divergence"] > 0
    almost = replace(says("The answer is 43."), timings=False)
    compared(sure(a=0.9, b=0.1), almost, FAIL, "less than `agreement: 0.8`")


def test_answers_that_are_drawn_are_counted_with_confidence() -> None:
    said = "20 of 20 answers are as expected, at least 86% at 95% confidence"
    verdict = check("quality", Script(), PASS, said, times=5, pass_rate=0.85)
    assert verdict.figures["proven_rate"] == pytest.approx(0.8609, abs=1e-4)
    hint = "`pass_rate: 0.9`, for which 29 answers are needed"
    check("quality", Script(), FAIL, hint, times=5, pass_rate=0.9)
    bodies: list[Body] = []

    def see(body: Body) -> Said:
        bodies.append(body)
        return usual_answer(body)

    check("quality", model(see), PASS, "", times=2, pass_rate=0.5)
    assert len(bodies) == 8
    assert not any(it.keys() & {"temperature", "seed"} for it in bodies)


def test_prompts_of_a_file_are_compared() -> None:
    def echo(body: Body) -> Said:
        return Said(body["messages"][-1]["content"])

    options = {"file": "prompts.jsonl", "agreement": 1.0}
    verdict = compared(model(echo), model(echo), PASS, "4 of 4", **options)
    assert verdict.figures["prompts"] == 4
    missing = {"file": "nothing.jsonl"}
    compared(Script(), Script(), ERROR, "no such file", **missing)


def test_a_live_release_that_is_gone_is_an_error() -> None:
    with fake_server(Script()) as old:
        gone = old.url
    with fake_server(Script()) as new:
        target = Target(new.url, api_key=KEY, live=Target(gone))
        verdict = run_one("regression", target)
    assert verdict.outcome is ERROR
    assert verdict.because.startswith("the live release: nothing answers at")


def test_the_key_of_the_live_release_is_not_told() -> None:
    old = answers(CHAT, http.error(500, "bad key sk-old-secret"))
    with fake_server(old) as live, fake_server(Script()) as new:
        before = Target(live.url, api_key="sk-old-secret")
        verdict = run_one("regression", Target(new.url, api_key=KEY, live=before))
    assert "sk-old-secret" not in repr(verdict)
