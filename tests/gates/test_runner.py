"""How gates are run: their order, what runs beside what, and their limits."""

import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import replace

import pytest

from deployer.errors import CancelledError, UsageError
from deployer.gates import GATES
from deployer.gates.harness.answers import passed
from deployer.gates.harness.client import Target
from deployer.gates.harness.gate import gate_class
from deployer.gates.harness.runner import (
    GateEvent,
    GateRequest,
    Waiting,
    run_gates,
    with_numbers,
)
from deployer.planning.events import Outcome, Verdict
from tests.gates import fake_http as http
from tests.gates import fake_server as fake
from tests.gates.breaking import CHAT, answers
from tests.gates.checking import DATA, PROCESS, STATED, coming_back, section
from tests.gates.fake_http import KEY, Part, Reply, Request, Responder, Script
from tests.gates.fake_server import fake_server


def run(
    script: Script, names: Sequence[str], *, jobs: int | None = 1
) -> tuple[tuple[Verdict, ...], list[str]]:
    told: list[str] = []

    def say(event: GateEvent | Waiting) -> None:
        if isinstance(event, GateEvent):
            ended = event.verdict.outcome if event.verdict else "begins"
            told.append(f"{event.gate} {ended}")

    with fake_server(script) as server:
        target = Target(
            server.url,
            api_key=KEY,
            expects=STATED,
            process=PROCESS,
            folder=DATA,
            bring_back=coming_back(server.url),
        )
        requests = [GateRequest(name, section(name)) for name in names]
        return run_gates(requests, target, say=say, jobs=jobs), told


def test_verdicts_come_in_the_order_of_the_table() -> None:
    verdicts, _ = run(Script(), ["metrics", "chat", "health", "build"], jobs=4)
    assert [v.gate for v in verdicts] == ["health", "build", "chat", "metrics"]


def test_progress_tells_of_each_beginning_and_end() -> None:
    _, told = run(Script(), ["models", "health"])
    assert told == ["health begins", "health pass", "models begins", "models pass"]


def test_nothing_is_asked_after_health_failed() -> None:
    script = answers("GET /health", http.html())
    with fake_server(script) as server:
        names = ("health", "chat", "metrics")
        requests = [GateRequest(name, section(name)) for name in names]
        verdicts = run_gates(requests, Target(server.url), say=lambda _event: None)
        assert server.asked == ["GET /health"]
    assert [v.outcome for v in verdicts] == [
        Outcome.FAIL,
        Outcome.ERROR,
        Outcome.ERROR,
    ]
    assert verdicts[1].because == "not run: health did not pass"


def meeting(count: int) -> tuple[Script, threading.Barrier]:
    """Two routes that answer only when `count` requests are there at once."""
    barrier = threading.Barrier(count, timeout=5)

    def met(request: Request, usual: Responder) -> Reply:
        barrier.wait()
        return usual(request)

    routes: dict[str, Responder] = {
        "GET /v1/models": lambda request: met(request, fake.models),
        CHAT: lambda request: met(request, fake.chat),
    }
    return Script(routes=routes), barrier


def test_gates_run_side_by_side() -> None:
    verdicts, _ = run(meeting(2)[0], ["models", "chat"], jobs=2)
    assert [v.outcome for v in verdicts] == [Outcome.PASS, Outcome.PASS]


def test_no_more_gates_run_at_once_than_there_are_slots() -> None:
    """More would wait for each other, and measure that."""
    stated = {**STATED, "server.parallel": 1}
    for script, expects in ((Script(slots=1), {}), (Script(), stated)):
        told: list[str] = []

        def say(event: GateEvent | Waiting, told: list[str] = told) -> None:
            if isinstance(event, GateEvent):
                told.append("ends" if event.verdict else "")

        with fake_server(script) as server:
            target = Target(server.url, api_key=KEY, expects=expects)
            requests = [GateRequest(name, section(name)) for name in ("chat", "auth")]
            run_gates(requests, target, say=say, jobs=9)
        assert told == ["", "ends", "", "ends"]


def test_as_many_gates_run_at_once_as_there_are_slots() -> None:
    verdicts, _ = run(meeting(2)[0], ["models", "chat"], jobs=None)
    assert [v.outcome for v in verdicts] == [Outcome.PASS, Outcome.PASS]


def test_one_job_is_one_gate_at_a_time() -> None:
    _, told = run(Script(), ["models", "chat", "build"], jobs=1)
    assert told[::2] == ["build begins", "models begins", "chat begins"]


@pytest.mark.parametrize("alone", [name for name in GATES if gate_class(name).alone])
def test_what_others_would_disturb_runs_alone(alone: str) -> None:
    _, told = run(Script(), ["models", "chat", "props", alone], jobs=9)
    assert told[-2:] == [f"{alone} begins", f"{alone} pass"]


def test_an_advisory_gate_holds_nothing_back() -> None:
    with fake_server(answers(CHAT, http.error(500, "oops"))) as server:
        request = GateRequest("chat", section("chat", advisory=True))
        (verdict,) = run_gates([request], Target(server.url), say=lambda _event: None)
    assert (verdict.outcome, verdict.blocks) == (Outcome.FAIL, False)


def test_a_key_that_a_server_repeats_is_not_told() -> None:
    leaking = answers(CHAT, http.error(500, f"bad key {KEY}"))
    (verdict,), _ = run(replace(leaking, key=None), ["chat"])
    assert verdict.because == "answered HTTP 500: bad key ***"
    assert KEY not in repr(verdict)


def test_a_server_cannot_write_on_the_terminal() -> None:
    odd = answers("GET /v1/models", http.as_json({"data": [{"id": "a\x1b[31m"}]}))
    (verdict,), _ = run(odd, ["models"])
    assert verdict.because == "lists `a\ufffd[31m`, but not `model.alias: tiny`"


def test_a_listener_can_end_the_run() -> None:
    def say(_event: GateEvent | Waiting) -> None:
        raise CancelledError("stopped")

    requests = [GateRequest(name, section(name)) for name in ("models", "chat")]
    with fake_server(Script()) as server, pytest.raises(CancelledError):
        run_gates(requests, Target(server.url), say=say, jobs=2)


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_listener_can_end_a_gate_that_is_at_work(jobs: int) -> None:
    told: list[Waiting] = []

    def say(event: GateEvent | Waiting) -> None:
        if isinstance(event, Waiting):
            told.append(event)
            raise CancelledError("stopped")

    silent = answers(CHAT, Reply((Part.SILENCE,)))
    requests = [GateRequest(name, section(name)) for name in ("chat", "json_schema")]
    with fake_server(silent) as server:
        target = Target(server.url, api_key=KEY)
        with pytest.raises(CancelledError):
            run_gates(requests, target, say=say, jobs=jobs)
    assert told[0].gates == ("chat", "json_schema")[:jobs]


@pytest.mark.parametrize("figure", [float("nan"), float("inf")])
def test_a_figure_that_is_no_number_is_never_a_pass(figure: float) -> None:
    judged = with_numbers(passed("fast", ttft_seconds=figure, chunks=1.0))
    assert judged.outcome is Outcome.ERROR
    assert (judged.because, judged.figures) == (
        "`ttft_seconds` is not a number",
        {"chunks": 1.0},
    )


def test_a_gate_that_does_not_exist_is_refused() -> None:
    request = GateRequest("helth", section("health"))
    with pytest.raises(UsageError, match="there is no gate `helth`"):
        run_gates([request], Target("http://127.0.0.1:1"), say=lambda _event: None)


def test_a_gate_asked_for_twice_is_refused() -> None:
    with pytest.raises(UsageError, match="asked for twice"):
        run(Script(), ["chat", "chat"])


def test_no_gates_give_no_verdicts() -> None:
    assert run(Script(), []) == ((), [])


def test_every_gate_of_the_table_has_parameters_of_its_name() -> None:
    for name in GATES:
        assert type(section(name)).__name__.lower() == name.replace("_", "")


def test_the_table_imports_no_http_client() -> None:
    code = "import sys, deployer.gates; print(*sorted(sys.modules))"
    loaded = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout.split()
    heavy = {"httpx2", "pydantic", "stamina", "jinja2", "asyncio"}
    assert heavy & set(loaded) == set()
