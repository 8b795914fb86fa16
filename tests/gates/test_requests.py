"""From the fields of a record to the gates that run, and what is seen of a server."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from deployer.engines.contract import Endpoint, Observation
from deployer.engines.place import Keys
from deployer.errors import UsageError
from deployer.gates.harness.client import Process, Target
from deployer.gates.harness.runner import GateRequest, run_gates
from deployer.llama.known.symptoms import read_log
from deployer.planning.events import Outcome, Verdict
from deployer.planning.resources import Kind
from deployer.planning.state import Record
from deployer.stack.fields.gate_options import Custom
from deployer.stack.fields.values import JsonValue
from deployer.testing import FakeEngine, unheard
from deployer.usecases.check import Judging, process_of, requests_of
from deployer.usecases.doctor import look_at_server
from tests.gates.checking import section
from tests.gates.fake_http import KEY, Reply, Script
from tests.gates.fake_server import fake_server

FIELDS: Mapping[str, JsonValue] = {
    "gates.chat.contains": "42",
    "gates.custom.smoke": {"command": ["./smoke.sh"], "timeout": "5s"},
    "gates.custom.other": {"command": ["true"], "advisory": True},
}


def names(*gates: str) -> list[str]:
    return [request.name for request in requests_of(gates, FIELDS)]


def test_custom_stands_for_each_of_its_commands() -> None:
    assert names("custom", "chat") == ["custom.smoke", "custom.other", "chat"]
    assert names("custom.other") == ["custom.other"]
    assert names("custom.other", "custom") == ["custom.other", "custom.smoke"]


def test_a_command_comes_with_its_options() -> None:
    (request,) = requests_of(("custom.smoke",), FIELDS)
    assert request.parameters == Custom(command=("./smoke.sh",), timeout="5s")


@pytest.mark.parametrize(
    ("gate", "message"),
    [
        ("chatt", "there is no gate `chatt`"),
        ("chat.smoke", "there is no gate `chat.smoke`"),
        ("restored", "there is no gate `restored`"),
        ("custom.nope", "names no command for the gate `custom.nope`"),
    ],
)
def test_a_gate_that_is_not_there_is_refused(gate: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        names(gate)


def test_custom_without_commands_is_refused() -> None:
    with pytest.raises(UsageError, match="names no command for the gate `custom`"):
        requests_of(("custom",), {})


def seen(**facts: JsonValue) -> Process:
    return process_of(Observation(running=True, healthy=True, detail="", facts=facts))


def test_a_process_is_what_its_engine_tells(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    log.write_text("loaded\n", encoding="utf-8")
    assert seen(pid=7, memory=5, log=str(log)) == Process(7, 5, "loaded\n")
    assert seen() == Process()
    assert seen(pid="7", memory=None, log=str(tmp_path / "gone")) == Process()


class TwoServers(FakeEngine):
    """An engine whose live server and candidate answer at different addresses."""

    def __init__(self, live: str, candidate: str) -> None:
        super().__init__()
        self._urls = {False: live, True: candidate}

    def endpoint(self, record: Record, *, candidate: bool) -> Endpoint:
        """Where the servers of this test listen."""
        assert record.kind is Kind.SERVER
        return Endpoint(self._urls[candidate])


def record(key: str) -> Record:
    return Record("demo/server", Kind.SERVER, key, {}, {}, {}, {})


@contextmanager
def judging(live: Record | None) -> Iterator[tuple[Judging, list[str]]]:
    plain = Script(key=None)
    with fake_server(plain) as old, fake_server(plain) as new:
        engine = TwoServers(old.url, new.url)
        engine.running[("demo/server", "new")] = {}
        yield (
            Judging(
                engine,
                Keys({}),
                unheard,
                expects=lambda _record: {},
                keep=lambda _record, _verdicts: None,
                live=live,
            ),
            old.asked,
        )


def only(verdicts: tuple[Verdict, ...]) -> str:
    (verdict,) = verdicts
    assert verdict.outcome is Outcome.PASS
    return verdict.because


def test_a_candidate_is_compared_with_the_live_server() -> None:
    with judging(record("old")) as (judge, asked):
        because = only(judge(record("new"), ["regression"], candidate=True))
        assert len(asked) == 5
    assert because.endswith("5 of 5 are equal")


def test_the_live_server_is_left_alone_by_other_gates() -> None:
    with judging(record("old")) as (judge, asked):
        only(judge(record("new"), ["health"], candidate=True))
        assert asked == []


def test_the_first_candidate_is_compared_with_nothing() -> None:
    with judging(None) as (judge, _):
        because = only(judge(record("new"), ["regression"], candidate=True))
    assert because == "no live release to compare with"


def test_a_log_tells_what_deployer_asks_without_a_key_from_clients() -> None:
    """Gates that run beside each other, a doctor, and one without the key."""
    log = ["listening"]

    def write(reply: Reply) -> Reply:
        if reply.status == 401:
            log.append("W srv operator(): unauthorized: Invalid API Key")
        if reply.status in {400, 500}:
            said = b"".join(it for it in reply.parts if isinstance(it, bytes)).decode()
            too_long = "send_error: request exceeds the available context size"
            is_long = "exceed_context" in said
            log.append(too_long if is_long else f"W got exception: {said}")
        return reply

    with fake_server(Script(rewrite=write)) as server:
        target = Target(server.url, api_key=KEY)
        asked = ("auth", "errors", "context", "limits")
        requests = [GateRequest(gate, section(gate)) for gate in asked]
        run_gates(requests, target, say=lambda _event: None)
        look_at_server(server.url, KEY, "KEY", None, None)
        assert sum(line.endswith("Invalid API Key") for line in log) == 7
        assert read_log(log).seen == ()
        look_at_server(server.url, None, "KEY", None, None)
    (seen,) = read_log(log).seen
    assert (seen.symptom.id, seen.times) == ("no-key-sent", 1)
