"""Times of a restore, and what an engine is asked."""

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from deployer.errors import EngineError
from deployer.gates.checks.server import Drills, Restore
from deployer.gates.harness.client import Comeback, Target
from deployer.planning.events import Outcome
from deployer.stack.fields import gate_options as asked
from deployer.stack.fields.gate_options import least_share, runs_needed
from tests.gates.breaking import FAIL, UNCLEAR
from tests.gates.checking import check, coming_back
from tests.gates.drills import BACK, judged
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
    nothing = Drills()
    gate = Restore(asked.Restore(), target)
    assert gate.judgement(nothing).outcome is UNCLEAR
    why = "this server was started without a snapshot"
    told = replace(gate, target=replace(target, why_no_snapshot=why))
    assert told.judgement(nothing).because == why


def test_the_bound_is_that_of_clopper_and_pearson() -> None:
    """Values of scipy.stats.binomtest(k, n).proportion_ci(0.90, "exact").low."""
    found = [least_share(*it) for it in ((20, 20), (19, 20), (59, 59), (8, 20), (0, 5))]
    assert found == pytest.approx([0.8609, 0.7839, 0.9505, 0.2171, 0.0], abs=1e-4)


@pytest.mark.parametrize("share", [0.5, 0.75, 0.9, 0.95, 0.99])
def test_one_run_less_than_is_needed_proves_too_little(share: float) -> None:
    needed = runs_needed(share)
    assert least_share(needed, needed) >= share
    assert least_share(needed - 1, needed - 1) < share
    assert asked.Restore(times=needed, success=share).failures == 0
    assert asked.Restore(times=needed - 1, success=share).failures is None


def _coming_back(url: str, kinds: Iterator[str]) -> Callable[[float], Comeback]:
    def back(_idle: float) -> Comeback:
        cold = replace(BACK, url=url, really=False, detail="started without it")
        match next(kinds):
            case "well":
                return replace(cold, really=True)
            case "captured":
                return replace(cold, captured=True)
            case "crashed, then well":
                return replace(cold, really=True, failed=1)
            case "gone":
                raise EngineError("llama-server did not start: exit 139")
            case _:
                return replace(cold, failed=1)

    return back


def _drilled(*kinds: str, **options: Any) -> tuple[list[str], Callable[..., str]]:
    """Restores that go so; those that were left over, and the reason of a verdict."""
    left = list(kinds)

    def look(outcome: Outcome) -> str:
        with fake_server(SOUND) as server:
            back = _coming_back(server.url, iter(lambda: left.pop(0), ""))
            return check(
                "restore", SOUND, outcome, "", bring_back=back, **options
            ).because

    return left, look


def test_restores_are_counted_and_their_bound_is_told() -> None:
    _, look = _drilled(*["well"] * 5, "cold", *["well"] * 8, times=14, success=0.7)
    because = look(Outcome.PASS)
    assert because.startswith("13 of 14 restores succeeded, at least 70% at 95%")


def test_no_more_restores_are_tried_than_decide_it() -> None:
    left, look = _drilled("well", "cold", "cold", "well", times=14, success=0.7)
    assert look(FAIL) == (
        "1 of 3 restores succeeded, 1 of 14 may fail:"
        " it was no restore: started without it (2 times)"
    )
    assert left == ["well"]


def test_a_restore_that_failed_before_another_one_came_up_counts() -> None:
    _, look = _drilled("crashed, then well")
    assert "1 of 2 restores succeeded, none may fail: they crashed" in look(FAIL)


def test_a_server_that_is_gone_is_a_failed_restore() -> None:
    _, look = _drilled("well", "gone", times=3)
    assert "1 of 2 restores succeeded, none may fail: it was no" in look(FAIL)


def test_a_start_that_captures_is_no_restore_and_no_failure() -> None:
    left, look = _drilled("captured", "captured", "well")
    assert "restored in 200 ms" in look(Outcome.PASS)
    assert left == []


def test_a_server_that_only_captures_proves_nothing() -> None:
    _, look = _drilled(*["captured"] * 9)
    assert "no start was a restore, 6 captured" in look(UNCLEAR)
    _, look = _drilled("well", *["captured"] * 9, times=2)
    assert "1 of 1 restores succeeded, 2 are wanted" in look(UNCLEAR)


def _promoted(failing: float, seed: int, options: asked.Restore) -> bool:
    """One run of the gate, with restores that fail so often."""
    chance = random.Random(seed)  # noqa: S311 - to be repeated

    def back(_idle: float) -> Comeback:
        return replace(BACK, really=chance.random() >= failing)

    return judged(options, back).outcome is Outcome.PASS


def test_a_thousand_releases_whose_restores_fail_are_not_promoted() -> None:
    """With 60 % of restores failing none is, with 2 % nearly all are."""
    options = asked.Restore(times=20, success=0.75, within="15s")
    bad = [seed for seed in range(1000) if _promoted(0.6, seed, options)]
    good = sum(_promoted(0.02, seed, options) for seed in range(1000))
    assert bad == []
    assert good > 900
