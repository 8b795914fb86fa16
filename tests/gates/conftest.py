"""What the tests with the real llama-server need."""

import os
from pathlib import Path

import pytest

from tests.models import tiny


@pytest.fixture(scope="session")
def llama_server() -> Path:
    """The binary named in the environment; without one the test is skipped."""
    found = os.environ.get("DEPLOYER_TEST_LLAMA_SERVER")
    if not found:
        pytest.skip("DEPLOYER_TEST_LLAMA_SERVER names no llama-server")
    return Path(found)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The deterministic Gemma 4 model, with its projector `mmproj.gguf` beside it."""
    folder = tmp_path_factory.mktemp("tiny")
    tiny.write(folder / "tiny.gguf", folder / "mmproj.gguf")
    return folder / "tiny.gguf"
