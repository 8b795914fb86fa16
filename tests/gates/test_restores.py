"""Times of a restore, and what an engine is asked."""

from dataclasses import replace

from deployer.gates.checks.server import BeforeAndAfter, Restore
from deployer.gates.harness.client import Comeback, Target
from deployer.planning.events import Outcome
from deployer.stack.fields import gate_options as asked
from tests.gates.breaking import FAIL, UNCLEAR
from tests.gates.checking import check, coming_back
from tests.gates.fake_server import fake_server
from tests.gates.faults.restores import SOUND


def test_the_times_of_warm_and_restored_are_kept_apart() -> None:
    verdict = check("restore", SOUND, Outcome.PASS, "3 answers as before")
    assert set(verdict.figures) == {
        "restore_seconds",
        "warm_ttft_seconds",
        "restore_ttft_seconds",
    }
    assert verdict.figures["restore_seconds"] == 0.25


def test_a_restore_has_to_keep_its_limit() -> None:
    because = "more than the 200 ms of `within`"
    check("restore", SOUND, FAIL, because, within="0.2s")
    check("restore", SOUND, Outcome.PASS, "", within="60s")


def test_the_engine_is_told_how_long_nobody_asks() -> None:
    told = list[float]()
    with fake_server(SOUND) as server:

        def back(idle: float) -> Comeback:
            told.append(idle)
            return coming_back(server.url)(idle)

        check("restore", SOUND, Outcome.PASS, "", bring_back=back, idle="90s")
    assert told == [90.0]


def test_without_a_snapshot_nothing_is_proved() -> None:
    target = Target("http://127.0.0.1:1")
    nothing = BeforeAndAfter()
    gate = Restore(asked.Restore(), target)
    assert gate.judgement(nothing).outcome is UNCLEAR
    why = "this server was started without a snapshot"
    told = replace(gate, target=replace(target, why_no_snapshot=why))
    assert told.judgement(nothing).because == why
