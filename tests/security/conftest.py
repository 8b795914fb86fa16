from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.security.harness import Listener, World, started
from tests.warm import Warm

MakeWorld = Callable[[str], World]


@pytest.fixture(scope="session")
def shared() -> Iterator[tuple[Warm, Listener]]:
    with started() as found:
        yield found


@pytest.fixture
def world(tmp_path: Path, shared: tuple[Warm, Listener]) -> World:
    """A checkout with nothing in it yet."""
    return World(tmp_path / "world", *shared)


@pytest.fixture
def make_world(tmp_path: Path, shared: tuple[Warm, Listener]) -> MakeWorld:
    """Checkouts by name, for tests that need many."""
    return lambda name: World(tmp_path / name, *shared)
