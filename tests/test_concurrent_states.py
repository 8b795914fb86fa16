"""States of many stacks far away: asked for at once, each once."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import stamina

from deployer.errors import StateError
from deployer.usecases.context.settings import Settings
from deployer.usecases.context.stack_files import Subject, concurrent_states

FAR = "s3://states/f?region=us-east-1&endpoint=http://127.0.0.1:9"


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A key, and retries that do not wait."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "of-the-tests")
    with stamina.set_testing(True, attempts=10, cap=True):
        yield


def settings(tmp_path: Path, **variables: str) -> Settings:
    return Settings(environment=variables, home=tmp_path / "home")


def subjects(tmp_path: Path, count: int) -> list[Subject]:
    (tmp_path / ".git").mkdir()
    files = [tmp_path / f"s{number}.yaml" for number in range(count)]
    for file in files:
        file.write_text(f"name: {file.stem}\n")
    return [*map(Subject, files)]


@pytest.mark.parametrize(
    ("count", "variables"), [(3, {}), (1, {"DEPLOYER_STATE_URL": FAR})]
)
def test_files_of_this_machine_and_a_single_stack_are_read_in_their_turn(
    tmp_path: Path, count: int, variables: dict[str, str]
) -> None:
    given = settings(tmp_path, **variables)
    with concurrent_states(subjects(tmp_path, count), given) as found:
        assert found is given


def test_states_far_away_are_on_their_way(tmp_path: Path) -> None:
    given = settings(tmp_path, DEPLOYER_STATE_URL=FAR)
    every = [*subjects(tmp_path, 3), Subject(tmp_path / "wrong.yaml")]
    with concurrent_states(every, given) as found:
        places = [given.states(it.file, it.file.stem).place for it in every[:3]]
        assert list(found.coming) == places
        assert found.environment == given.environment


def test_an_error_comes_when_its_stack_has_its_turn(tmp_path: Path) -> None:
    """Nobody listens there."""
    given = settings(tmp_path, DEPLOYER_STATE_URL=FAR)
    every = subjects(tmp_path, 2)
    with concurrent_states(every, given) as found, pytest.raises(StateError):
        found.state(every[0].file, "s0")
