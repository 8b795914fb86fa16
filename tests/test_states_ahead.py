"""States that are read before their turn: which, when, and how many."""

from collections.abc import Callable
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import pytest

from deployer.app.settings import Settings
from deployer.app.states_ahead import WINDOW, StatesAhead, states_ahead
from deployer.app.subjects import Subject
from deployer.core.state import State
from deployer.errors import StateError
from deployer.testing.states import MemoryStateStore

_P = ParamSpec("_P")
_T = TypeVar("_T")


class Eager(Executor):
    """Does everything at once, and counts it."""

    def __init__(self) -> None:
        self.submitted = 0

    def submit(
        self, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs
    ) -> Future[_T]:
        self.submitted += 1
        future: Future[_T] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except StateError as error:
            future.set_exception(error)
        return future


class Named(MemoryStateStore):
    """A store that counts how often it is read."""

    def __init__(self, name: str) -> None:
        super().__init__(State(name, "local", lineage=name))
        self.reads = 0

    @property
    def place(self) -> str:
        return f"s3://states/{self.stack}.state.json"

    def read(self) -> State | None:
        self.reads += 1
        return super().read()


class Damaged(Named):
    """A store whose state cannot be read."""

    def read(self) -> State | None:
        raise StateError("damaged")


def test_each_state_is_read_once_and_only_so_many_before_their_turn() -> None:
    stores = [Named(f"s{number}") for number in range(WINDOW * 3)]
    pool = Eager()
    ahead = StatesAhead(stores, pool)
    for turn, store in enumerate(stores):
        state = ahead.read(store)
        assert state is not None
        assert state.stack == store.stack
        assert pool.submitted == min(turn + WINDOW, len(stores))
    assert {store.reads for store in stores} == {1}


def test_stacks_that_nobody_asks_for_do_not_use_up_the_window() -> None:
    """They may be wrong, and end before their state is asked for."""
    stores = [Named(f"s{number}") for number in range(WINDOW * 3)]
    ahead = StatesAhead(stores, Eager())
    ahead.read(stores[0])
    ahead.read(stores[-1])
    assert stores[-1].reads == 1
    assert stores[WINDOW].reads == 0


def test_one_that_was_not_foreseen_is_read_in_its_turn() -> None:
    pool, stranger = Eager(), Named("stranger")
    assert StatesAhead([Named("s0")], pool).read(stranger) == stranger.history[-1]
    assert pool.submitted == 0


def test_an_error_comes_when_its_stack_has_its_turn() -> None:
    stores = [Named("s0"), Damaged("s1"), Named("s2")]
    ahead = StatesAhead(stores, Eager())
    assert ahead.read(stores[0]) is not None
    with pytest.raises(StateError, match="damaged"):
        ahead.read(stores[1])
    assert ahead.read(stores[2]) is not None


def settings(tmp_path: Path, **variables: str) -> Settings:
    return Settings(environment=variables, home=tmp_path / "home")


def subjects(tmp_path: Path, count: int) -> list[Subject]:
    (tmp_path / ".git").mkdir()
    files = [tmp_path / f"s{number}.yaml" for number in range(count)]
    for file in files:
        file.write_text(f"name: {file.stem}\n")
    return [*map(Subject, files)]


@pytest.mark.parametrize(
    ("count", "variables"),
    [(3, {}), (1, {"DEPLOYER_STATE_URL": "s3://states/f?region=us-east-1"})],
)
def test_files_of_this_machine_and_a_single_stack_are_not_read_ahead(
    tmp_path: Path, count: int, variables: dict[str, Any]
) -> None:
    given = settings(tmp_path, **variables)
    with states_ahead(subjects(tmp_path, count), given) as found:
        assert found is given


def test_states_far_away_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "of-the-tests")
    url = "s3://states/f?region=us-east-1"
    given = settings(tmp_path, DEPLOYER_STATE_URL=url)
    with states_ahead(subjects(tmp_path, 3), given) as found:
        assert found.ahead is not None
        assert found.environment == given.environment
