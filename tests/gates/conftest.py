"""Models that only the gates need."""

from pathlib import Path

import pytest

from tests.models import tiny
from tests.models.vocabulary import Behaviour


@pytest.fixture(scope="session")
def model_without_tools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model, but it never calls a tool by itself and never thinks."""
    path = tmp_path_factory.mktemp("plain") / "plain.gguf"
    tiny.write(path, behaviour=Behaviour(calls_tools=False, thinks=False))
    return path
