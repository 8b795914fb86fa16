"""Predicted against allocated: a real llama-server says what it took.

KV within 2 %, compute buffers within what docs/fit.md states; b8672 is compared in
``tests/llama/test_real_builds.py``, which has it compiled.
"""

from pathlib import Path

import pytest

from tests.gguf.allocating import CONFIGURATIONS, compared

pytestmark = pytest.mark.real


@pytest.mark.parametrize("options", CONFIGURATIONS)
def test_gemma3(llama_server: Path, real_model: Path, options: str) -> None:
    compared(llama_server, real_model, options, above=1.05)


@pytest.mark.parametrize("options", CONFIGURATIONS)
def test_gemma4(llama_server: Path, tiny_model: Path, options: str) -> None:
    compared(llama_server, tiny_model, options, above=1.25)
