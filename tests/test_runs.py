"""The record of runs: what is kept, how much, and what damage does to it."""

from dataclasses import replace
from pathlib import Path

from deployer.planning.events import Outcome, Verdict
from deployer.planning.graph import expand
from deployer.planning.plan import Plan, make_plan
from deployer.planning.state import Release, State
from deployer.testing import resolved, stack
from deployer.usecases.runs import KEPT, ran_now, remember, remembered
from tests.planning.checking import LOCAL, PLAIN

PASSED = Verdict("chat", Outcome.PASS, "answered", figures={"answer_seconds": 0.2})
FAILED = Verdict("speed", Outcome.FAIL, "too slow")
EMPTY = State("demo", "local", "f00dfeed")
ONE = replace(
    EMPTY,
    releases=(Release(1, "2026-11-01T12:00:00+00:00", "apply", {}),),
    released=1,
)


def plan() -> Plan:
    wanted = stack(LOCAL)
    return make_plan(expand(wanted, resolved(wanted), PLAIN), EMPTY)


def test_a_release_is_remembered_with_what_its_gates_measured(tmp_path: Path) -> None:
    remember(tmp_path, EMPTY, ONE, ran_now(plan(), "apply", [PASSED], ["this used $1"]))
    (ran,) = remembered(tmp_path, ONE)
    assert (ran.release, ran.held_back, ran.used) == (1, False, ("this used $1",))
    assert ran.gates[0]["figures"] == {"answer_seconds": 0.2}
    assert "server not there yet" in ran.changes


def test_what_gates_held_back_is_remembered_as_that(tmp_path: Path) -> None:
    remember(tmp_path, ONE, ONE, ran_now(plan(), "apply", [PASSED, FAILED], []))
    (ran,) = remembered(tmp_path, ONE)
    assert (ran.release, ran.held_back) == (None, True)


def test_a_run_that_neither_judged_nor_released_is_not_remembered(
    tmp_path: Path,
) -> None:
    remember(tmp_path, ONE, ONE, ran_now(plan(), "destroy", [], []))
    assert remembered(tmp_path, ONE) == ()
    assert list(tmp_path.iterdir()) == []


def test_only_the_last_runs_are_kept(tmp_path: Path) -> None:
    for number in range(KEPT + 5):
        ran = replace(ran_now(plan(), "apply", [FAILED], []), cause=f"{number}")
        remember(tmp_path, ONE, ONE, ran)
    found = remembered(tmp_path, ONE)
    assert len(found) == KEPT
    assert (found[0].cause, found[-1].cause) == ("5", f"{KEPT + 4}")


def test_what_is_no_run_is_left_out(tmp_path: Path) -> None:
    remember(tmp_path, ONE, ONE, ran_now(plan(), "apply", [FAILED], []))
    (record,) = (tmp_path / "reports").iterdir()
    strange = b'{"at": 1}\n[]\nnull\n"x"\n{"at\n\xff\xfe\n\x00\n' + b"[" * 99999 + b"\n"
    record.write_bytes(strange + record.read_bytes() + strange)
    assert [ran.held_back for ran in remembered(tmp_path, ONE)] == [True]


def test_other_lineages_and_other_users_see_nothing_of_it(tmp_path: Path) -> None:
    remember(tmp_path, ONE, ONE, ran_now(plan(), "apply", [FAILED], []))
    assert remembered(tmp_path, replace(ONE, lineage="beefbeef")) == ()
    (record,) = (tmp_path / "reports").iterdir()
    assert record.stat().st_mode & 0o077 == 0
