"""Many jobs on one bucket, in virtual time: what must hold whatever comes when.

The store, the lock, the plan and the loop of an apply are the real ones;
DEPLOYER_LONG=1 tries more seeds, and as many jobs as docs/scale.md speaks of.
"""

import os
import re
from collections.abc import Callable
from functools import partial
from random import Random

import pytest

from benchmarks.ci_jobs import Pace, Yard, lost
from benchmarks.virtual import VirtualPool, VirtualTime
from deployer.state import KEPT

pytestmark = pytest.mark.trust
LONG = bool(os.environ.get("DEPLOYER_LONG"))
SEEDS = range(20 if LONG else 4)
JOBS = 50 if LONG else 12
BRISK = Pace(start=(2.0, 20.0), gates=(1.0, 5.0), hand_over=(0.5, 1.0))
HOUR = 3600.0


def yard(seed: int, *names: str, releases: int = 1) -> Yard:
    found = Yard(seed, BRISK)
    for name in names:
        found.found(name, releases)
    return found


@pytest.mark.parametrize("seed", SEEDS)
def test_every_job_that_waits_gets_its_turn_and_nothing_is_lost(seed: int) -> None:
    """I20: the yard looks at every lock and every write while they happen."""
    jobs = yard(seed, "one", "two", "six")
    chance = Random(seed)  # noqa: S311 - nothing secret
    for number in range(JOBS):
        name = chance.choice(("one", "two", "six"))
        job = partial(jobs.job, name, 4096 + number, JOBS * HOUR)
        jobs.time.spawn(job, at=chance.uniform(0, 60))
    jobs.time.run()
    assert not jobs.refused
    assert not jobs.stale
    assert not lost(jobs)
    ended = {name: len(states) for name, states in jobs.applied.items()}
    assert sum(ended.values()) == JOBS + 3  # and the release that each began with
    for name, count in ended.items():
        state = jobs.store(name).read()
        assert state is not None
        assert state.released == count
        assert len(jobs.store(name).serials()) == min(KEPT, state.serial - 1)


@pytest.mark.parametrize("seed", SEEDS)
def test_who_does_not_wait_is_told_who_holds_the_lock(seed: int) -> None:
    jobs = yard(seed, "one")
    for number in range(JOBS):
        jobs.time.spawn(partial(jobs.job, "one", 4096 + number, 0.0), at=number * 0.01)
    jobs.time.run()
    assert len(jobs.applied["one"]) == 2  # the first release, and the one that won
    assert len(jobs.refused) == JOBS - 1
    for error in jobs.refused:
        assert error.message.startswith("`one` is locked by ")
        assert re.search(r" for apply \d+$", error.message)
        assert error.hint.startswith("if it runs no more: `deployer state unlock STACK")


@pytest.mark.parametrize("seed", SEEDS)
def test_of_plans_of_the_same_state_one_is_carried_out(seed: int) -> None:
    """Two merges at once, and ten: the others are stale, and touched nothing."""
    jobs = yard(seed, "one")
    seen = jobs.store("one").read()
    for number in range(JOBS):
        job = partial(jobs.job, "one", 4096 + number, JOBS * HOUR, seen)
        jobs.time.spawn(job, at=number * 0.01)
    jobs.time.run()
    assert len(jobs.stale) == JOBS - 1
    assert {error.hint for error in jobs.stale} == {"run `deployer plan` again"}
    assert len(jobs.applied["one"]) == 2
    assert not lost(jobs)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_lock_of_a_killed_job_is_broken_by_its_id_and_others_go_on(
    seed: int,
) -> None:
    jobs = yard(seed, "one")
    chance = Random(seed)  # noqa: S311 - nothing secret
    for number in range(JOBS):
        at = chance.uniform(0, 30)
        dies = at + chance.uniform(0.1, 30) if number % 3 == 0 else None
        job = partial(jobs.job, "one", 4096 + number, JOBS * HOUR)
        jobs.time.spawn(job, at=at, dies=dies)
    for minute in range(JOBS * 4):
        jobs.time.spawn(partial(jobs.person, "one"), at=60.0 * minute)
    jobs.time.run()
    assert len(jobs.applied["one"]) >= 1 + JOBS - len(range(0, JOBS, 3))
    assert not jobs.refused
    assert not lost(jobs)


def test_some_jobs_did_die_with_the_lock() -> None:
    """Else the test above would show nothing."""
    jobs = yard(1, "one")
    begun = jobs.time.now
    jobs.time.spawn(partial(jobs.job, "one", 4096, 0.0), dies=1.5)
    jobs.time.spawn(partial(jobs.job, "one", 8192, HOUR), at=1.0)
    jobs.time.spawn(partial(jobs.person, "one"), at=600.0)
    jobs.time.run()
    assert jobs.broken["one"] == 1
    assert jobs.time.now > begun + 600
    assert len(jobs.applied["one"]) == 2


def test_a_seed_always_comes_to_the_same() -> None:
    def told() -> list[str]:
        jobs = yard(7, "one")
        for number in range(6):
            jobs.time.spawn(partial(jobs.job, "one", 4096 + number, HOUR), at=number)
        jobs.time.run()
        return [f"{it.method} {it.path} {it.done}" for it in jobs.requests]

    assert told() == told()


def test_a_plan_of_many_stacks_asks_once_for_each_and_waits_for_few() -> None:
    """A hundred answers of 20 to 60 ms, of which sixteen come at once."""
    names = [f"s{number:03}" for number in range(100)]

    def waited(at_once: int) -> float:
        jobs = yard(3)
        jobs.copies(jobs.found("demo", 1), names)
        del jobs.requests[:]
        begun = jobs.time.now
        jobs.time.spawn(partial(jobs.plan, names, at_once))
        jobs.time.run()
        asked = sorted((it.method, it.path) for it in jobs.requests)
        assert asked == [("GET", f"{name}.state.json") for name in names]
        return jobs.time.now - begun

    one_after_the_other, side_by_side = waited(1), waited(16)
    assert 0.02 * 100 <= one_after_the_other <= 0.06 * 100
    assert 0.02 * 7 <= side_by_side <= 0.06 * 7 + 0.06


def test_virtual_time_goes_on_with_whoever_is_next() -> None:
    clock = VirtualTime()
    said: list[tuple[str, float]] = []

    def task(name: str, *pauses: float) -> None:
        for pause in pauses:
            clock.sleep(pause)
            said.append((name, clock.now))

    clock.spawn(partial(task, "a", 5.0, 5.0))
    clock.spawn(partial(task, "b", 3.0), at=1.0)
    clock.spawn(partial(task, "killed", 3.0, 90.0), dies=50.0)
    clock.run()
    assert said == [("killed", 3.0), ("b", 4.0), ("a", 5.0), ("a", 10.0)]


def test_what_a_worker_raises_comes_to_who_asked() -> None:
    clock = VirtualTime()
    pool = VirtualPool(clock, 2)
    seen: list[str] = []

    def work(number: int) -> int:
        clock.sleep(1.0)
        return 6 // number

    def ask() -> None:
        futures = [pool.submit(work, number) for number in (3, 0, 1)]
        seen.append(f"{futures[0].result()} {futures[2].result()} at {clock.now}")
        with pytest.raises(ZeroDivisionError):
            futures[1].result()

    clock.spawn(ask)
    clock.run()
    assert seen == ["2 6 at 2.0"]


def test_a_broken_promise_is_told() -> None:
    """The yard does look: a state that jumps, and a lock that two hold."""
    jobs = yard(1, "one")
    state = jobs.store("one").read()
    assert state is not None
    checks: list[Callable[[], None]] = [
        lambda: jobs.copies(state, ["one"]),
        partial(jobs.plan, ["nobody"]),
    ]
    for check in checks:
        with pytest.raises(Exception, match=r"went from|was begun"):
            check()
