"""F10: more than a hundred pairs of stacks, and the plan of each, word by word."""

import pytest

from tests.planning.golden_plans import Pair, files, pairs_in

pytestmark = pytest.mark.trust

PAIRS = [pair for file in files() for pair in pairs_in(file)]


def test_there_are_at_least_a_hundred() -> None:
    assert len({pair.name for pair in PAIRS}) == len(PAIRS) >= 100


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair.name)
def test_a_plan_says_what_it_said(pair: Pair) -> None:
    assert pair.plan() == pair.expected
