"""Waiting for a lock: how long, how often, and what is said meanwhile."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from deployer.errors import CancelledError, LockedError
from deployer.state.lock import LONGEST, SHORTEST, Patience, lock_in_time, pause_after
from deployer.testing import MemoryStateStore


class Clock:
    """A clock that goes on by sleeping; things happen at their time."""

    def __init__(self) -> None:
        self.now = 100.0
        self.slept: list[float] = []
        self.at: dict[float, Callable[[], object]] = {}

    def read(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
        for moment in sorted(it for it in self.at if it <= self.now):
            self.at.pop(moment)()


class Contended(MemoryStateStore):
    """A store whose lock others hold, one after the other."""

    def __init__(self, *holders: str) -> None:
        super().__init__()
        self.holders = [*holders]

    @contextmanager
    def lock(self, *, operation: str) -> Iterator[None]:
        if self.holders:
            raise LockedError(f"held by {self.holders[0]}", "break it")
        with super().lock(operation=operation):
            yield


def patience(clock: Clock, seconds: float, chance: float = 0.5) -> Patience:
    return Patience(seconds, clock.read, clock.sleep, lambda: chance)


def untold(_holder: str, _waited: float) -> None:
    """Nobody listens."""


def test_a_free_lock_is_taken_without_a_pause() -> None:
    clock = Clock()
    with lock_in_time(Contended(), patience(clock, 60), operation="apply", tell=untold):
        assert clock.slept == []


def test_without_patience_a_held_lock_is_refused_as_it_is() -> None:
    clock = Clock()
    lock = lock_in_time(
        Contended("ada"), patience(clock, 0), operation="apply", tell=untold
    )
    with pytest.raises(LockedError) as caught, lock:
        pass
    assert (caught.value.message, caught.value.hint) == ("held by ada", "break it")
    assert clock.slept == []


def test_a_lock_that_is_freed_in_time_is_had_soon_after() -> None:
    clock, store = Clock(), Contended("ada")
    clock.at[130.0] = store.holders.clear
    lock = lock_in_time(store, patience(clock, 60), operation="apply", tell=untold)
    with lock:
        assert 130.0 <= clock.now <= 133.0 + SHORTEST


def test_the_time_is_used_to_its_end_and_said() -> None:
    clock = Clock()
    lock = lock_in_time(
        Contended("ada"), patience(clock, 61), operation="apply", tell=untold
    )
    with pytest.raises(LockedError) as caught, lock:
        pass
    assert clock.now == 161.0
    assert caught.value.message == "held by ada, still after 1 min 1 s"
    assert caught.value.hint == "break it"


def test_each_look_is_told_with_who_and_how_long() -> None:
    clock, store = Clock(), Contended("ada", "ben")
    told: list[tuple[str, float]] = []
    clock.at[101.0] = lambda: store.holders.pop(0)
    clock.at[102.0] = store.holders.clear
    lock = lock_in_time(
        store,
        patience(clock, 60),
        operation="apply",
        tell=lambda *words: told.append(words),
    )
    with lock:
        pass
    assert told == [
        ("held by ada", 0.0),
        ("held by ada", 0.5),
        ("held by ben", 1.0),
        ("held by ben", 1.5),
    ]


def test_a_new_holder_is_looked_at_as_often_as_the_first_was() -> None:
    clock, store = Clock(), Contended("ada", "ben")
    clock.at[160.0] = lambda: store.holders.pop(0)
    clock.at[166.0] = store.holders.clear
    with lock_in_time(store, patience(clock, 99), operation="apply", tell=untold):
        pass
    assert max(clock.slept) == LONGEST
    assert clock.slept[-1] <= SHORTEST + 0.2


def test_what_the_listener_raises_ends_the_waiting() -> None:
    def tell(_holder: str, _waited: float) -> None:
        raise CancelledError("stopped at your request")

    clock = Clock()
    lock = lock_in_time(
        Contended("ada"), patience(clock, 60), operation="apply", tell=tell
    )
    with pytest.raises(CancelledError), lock:
        pass
    assert clock.slept == []


def test_a_refusal_of_what_is_done_under_the_lock_is_not_waited_for() -> None:
    clock = Clock()
    lock = lock_in_time(
        Contended(), patience(clock, 60), operation="apply", tell=untold
    )
    with pytest.raises(LockedError, match="another lock"), lock:
        raise LockedError("another lock")
    assert clock.slept == []


@pytest.mark.parametrize(
    ("seen", "chance", "pause"),
    [
        (0.0, 0.5, 0.5),
        (0.0, 0.0, 0.25),
        (0.0, 1.0, 0.75),
        (20.0, 0.5, 2.0),
        (50.0, 0.5, 5.0),
        (3600.0, 0.5, 5.0),
        (3600.0, 1.0, 7.5),
    ],
)
def test_a_pause_is_a_tenth_of_what_was_seen_and_spread(
    seen: float, chance: float, pause: float
) -> None:
    assert pause_after(seen, chance) == pytest.approx(pause)
