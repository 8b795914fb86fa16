"""Stories by a seed; `python -m tests.modal.stories 1000` tells a thousand."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.modal.emulated import Emulated
from tests.modal.stories import platform, tell

CHUNKS, EACH = 10, 10


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[Emulated]:
    with platform(tmp_path) as made:
        yield made


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_production_serves_whatever_happens(
    cloud: Emulated, tmp_path: Path, chunk: int
) -> None:
    """No request fails, nothing is promoted that never answered, nothing is left."""
    for seed in range(chunk * EACH, (chunk + 1) * EACH):
        told = tell(seed, cloud, tmp_path)
        assert told.wrong == (), (
            f"story {told.seed}, {told.kind}; clients {told.counts}"
        )
