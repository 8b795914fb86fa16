"""`deployer check` with its options for several runs."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.gates import fake_http as http
from tests.gates import fake_server as fake
from tests.gates.breaking import CHAT, answers, template
from tests.gates.fake_http import Reply, Request, Script
from tests.gates.fake_model import Said
from tests.gates.fake_server import fake_server

FAILING = answers(CHAT, http.error(500, "oops"))


def checked(script: Script, *words: str) -> tuple[int, dict[str, Any], str]:
    """Exit code, verdicts by gate, and what stands on standard error."""
    with fake_server(script) as server:
        argv = [sys.executable, "-m", "deployer", "check", "--url", server.url]
        done = subprocess.run(
            [*argv, "--api-key-env", "KEY", "--json", *words],
            capture_output=True,
            check=False,
            text=True,
            env={**os.environ, "KEY": http.KEY},
        )
    found = json.loads(done.stdout)["results"]
    verdicts = {it["gate"]: it for it in found if it["type"] == "verdict"}
    return done.returncode, verdicts, done.stderr


def test_every_run_of_a_gate_counts() -> None:
    count = 0

    def flaky(request: Request) -> Reply:
        nonlocal count
        count += 1
        return http.error(500, "oops") if count == 2 else fake.chat(request)

    code, verdicts, _ = checked(answers(CHAT, flaky), "--gate", "chat", "--repeat", "3")
    assert code == 6
    assert verdicts["chat"]["because"].startswith("1 of 3 runs: answered HTTP 500")
    assert count == 3


def test_a_run_can_end_at_the_first_that_holds_back() -> None:
    words = ("--gate", "chat", "--gate", "stream", "--fail-fast", "--jobs", "1")
    code, verdicts, _ = checked(FAILING, *words)
    assert code == 6
    assert verdicts["stream"]["because"] == "not run: chat did not pass"


def test_a_gate_of_what_the_model_lacks_is_said_not_to_apply() -> None:
    """It blocks as a failed one does, and is no failure of the server."""
    unable = replace(template("{{ messages }}"), says=lambda _body: Said())
    code, verdicts, said = checked(unable, "--gate", "health", "--gate", "thinking")
    assert code == 6
    assert (verdicts["thinking"]["outcome"], verdicts["thinking"]["applicable"]) == (
        "inconclusive",
        False,
    )
    assert ": `thinking`: the chat template of this model cannot think" in said
    assert "hint: leave the gate out" in said
    assert "does not pass" not in said


ROUTER = answers("GET /props", http.as_json({"role": "router"}))
MODELS = answers("GET /models", http.as_json({"data": [{"id": "a"}, {"id": "b"}]}))


@pytest.mark.parametrize(
    ("script", "words", "said"),
    [
        (
            ROUTER,
            (),
            "` is a router: its models are a, b\n  hint: name one of them: `--m",
        ),
        (ROUTER, ("--model", "c"), "` has no model `c`: its models are a, b\n"),
        (Script(), ("--model", "a"), "` is not a router of models\n  hint: leave `--m"),
    ],
)
def test_one_model_of_a_router_is_checked(
    script: Script, words: tuple[str, ...], said: str
) -> None:
    routed = replace(script, routes={**script.routes, **MODELS.routes})
    code, verdicts, told = checked(routed, *words)
    assert (code, verdicts) == (3, {})
    assert said in told


def test_a_model_of_a_router_is_named_in_every_request() -> None:
    models: list[object] = []

    def chat(request: Request) -> Reply:
        models.append(request.body.get("model"))
        return fake.chat(request)

    script = answers(CHAT, chat)
    every = {**script.routes, **ROUTER.routes, **MODELS.routes}
    routed = replace(script, routes=every)
    code, verdicts, _ = checked(routed, "--gate", "chat", "--model", "b")
    assert (code, verdicts["chat"]["outcome"]) == (0, "pass")
    assert set(models) == {"b"}


def test_no_job_is_no_number_of_jobs() -> None:
    code, _, told = checked(Script(), "--jobs", "0")
    assert code == 3
    assert "--jobs" in told


def test_a_check_leaves_a_report_where_it_is_told_to(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    code, _, told = checked(FAILING, "--gate", "chat", "--report", str(folder))
    assert code == 6
    assert f"Report: {folder / 'report.html'}" in told
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["junit.xml", "report.html", "report.json"]


@pytest.mark.parametrize("clock", [True, False])
def test_a_stream_records_tokens_a_second_where_the_server_says_them(
    *, clock: bool
) -> None:
    _, verdicts, _ = checked(Script(timings=clock), "--gate", "stream")
    assert verdicts["stream"]["outcome"] == "pass"
    assert ("tokens_per_second" in verdicts["stream"]["figures"]) is clock
