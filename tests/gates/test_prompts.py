"""Files of prompts, and answers compared with those of the live release."""

import hashlib
from pathlib import Path

import pytest

from deployer.gates.harness.client import Target
from deployer.planning.events import Outcome
from tests.gates import fake_http as http
from tests.gates.breaking import CHAT, ERROR, FAIL, answers, model
from tests.gates.checking import DATA, check, run_one
from tests.gates.fake_http import KEY, Script
from tests.gates.fake_model import Body, Said
from tests.gates.fake_server import fake_server
from tests.gates.faults.answers import asked, compared, line, says

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
