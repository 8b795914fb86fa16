"""Stories by a seed; `python -m tests.modal.stories 1000` tells a thousand."""

import pytest

from tests.modal.stories import told

CHUNKS, EACH = 5, 20


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_production_serves_whatever_happens(chunk: int) -> None:
    """No request fails, nothing is promoted that never answered, nothing is left."""
    for story in told(range(chunk * EACH, (chunk + 1) * EACH)):
        assert story.wrong == (), (
            f"story {story.seed}, {story.kind}; clients {story.counts}"
        )
