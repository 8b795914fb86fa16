"""Several runs of one gate, and the end of a run at the first that holds back."""

import pytest

from deployer.gates.harness.client import Target
from deployer.gates.harness.runner import (
    GateEvent,
    GateRequest,
    Waiting,
    run_gates,
    together,
)
from deployer.planning.events import Exchange, Outcome, Verdict
from tests.gates import fake_http as http
from tests.gates import fake_server as fake
from tests.gates.breaking import CHAT, answers
from tests.gates.checking import section
from tests.gates.fake_http import KEY, Reply, Request, Script
from tests.gates.fake_server import fake_server

PASS, FAIL, UNCLEAR, ERROR = (
    Outcome.PASS,
    Outcome.FAIL,
    Outcome.INCONCLUSIVE,
    Outcome.ERROR,
)


def run(outcome: Outcome, **figures: float) -> Verdict:
    evidence = (Exchange(f"GET /{outcome}", 200, "", 0.1),)
    return Verdict("chat", outcome, f"it is {outcome}", 0.5, figures, evidence)


@pytest.mark.parametrize(
    ("outcomes", "worst", "because"),
    [
        ((PASS, PASS), PASS, "2 of 2 runs: it is pass"),
        ((PASS, UNCLEAR, PASS), UNCLEAR, "1 of 3 runs: it is inconclusive"),
        ((ERROR, UNCLEAR), ERROR, "1 of 2 runs: it is error"),
        ((ERROR, FAIL, FAIL), FAIL, "2 of 3 runs: it is fail"),
        ((PASS,), PASS, "it is pass"),
    ],
)
def test_the_worst_run_counts(
    outcomes: tuple[Outcome, ...], worst: Outcome, because: str
) -> None:
    verdict = together([run(outcome) for outcome in outcomes])
    assert (verdict.outcome, verdict.because) == (worst, because)
    assert verdict.evidence[0].request == f"GET /{worst}"


def test_figures_spread_around_their_median() -> None:
    rates = (30.0, 10.0, 20.0)
    verdict = together([run(PASS, tokens=7, rate_per_second=rate) for rate in rates])
    assert verdict.seconds == 1.5
    assert verdict.figures == {
        "tokens": 7,
        "rate_per_second": 20,
        "lowest_rate_per_second": 10,
        "highest_rate_per_second": 30,
    }


def test_a_figure_of_one_run_alone_is_kept() -> None:
    assert together([run(PASS), run(PASS, tokens=7)]).figures == {"tokens": 7}


def every_second(reply: Reply) -> Script:
    """A server of which every second answer is this one."""
    count = 0

    def respond(request: Request) -> Reply:
        nonlocal count
        count += 1
        return fake.chat(request) if count % 2 else reply

    return answers(CHAT, respond)


def gates(
    script: Script, *names: str, repeat: int = 1, fail_fast: bool = False
) -> tuple[dict[str, str], list[str]]:
    told: list[str] = []

    def say(event: GateEvent | Waiting) -> None:
        if isinstance(event, GateEvent):
            ended = event.verdict.outcome if event.verdict else "…"
            told.append(f"{event.gate} {ended}")

    with fake_server(script) as server:
        verdicts = run_gates(
            [GateRequest(name, section(name)) for name in names],
            Target(server.url, api_key=KEY),
            say=say,
            repeat=repeat,
            fail_fast=fail_fast,
        )
    return {v.gate: f"{v.outcome}: {v.because}" for v in verdicts}, told


def test_a_gate_that_fails_now_and_then_fails() -> None:
    flaky = every_second(http.error(500, "oops"))
    found, told = gates(flaky, "chat", repeat=4)
    assert found == {"chat": "fail: 2 of 4 runs: answered HTTP 500: oops"}
    assert told == ["chat …", "chat fail"]


def test_no_gate_begins_after_one_that_holds_back() -> None:
    failing = answers(CHAT, http.error(500, "oops"))
    found, told = gates(failing, "chat", "models", "stream", fail_fast=True)
    assert found["models"] == "pass: lists `tiny`; no `model.alias` is stated"
    assert found["stream"] == "error: not run: chat did not pass"
    assert told[-1] == "stream error"


def test_all_gates_run_unless_told_otherwise() -> None:
    failing = answers(CHAT, http.error(500, "oops"))
    found, _ = gates(failing, "chat", "metrics")
    assert not found["metrics"].startswith("error: not run")


def test_an_advisory_gate_ends_no_run() -> None:
    failing = answers(CHAT, http.error(500, "oops"))
    with fake_server(failing) as server:
        verdicts = run_gates(
            [
                GateRequest("chat", section("chat", advisory=True)),
                GateRequest("tools", section("tools")),
            ],
            Target(server.url, api_key=KEY),
            say=lambda _event: None,
            fail_fast=True,
        )
    assert "not run" not in verdicts[1].because
