"""Stories by a seed; `python -m tests.modal.stories 1000` tells a thousand."""

from tests.modal.stories import told

COUNT = 100


def test_production_serves_whatever_happens() -> None:
    """No request fails, nothing is promoted that never answered, nothing is left."""
    stories = [*told(range(COUNT))]
    assert len(stories) == COUNT
    wrong = [it for it in stories if it.wrong]
    assert wrong == []
