"""Generated hostile checkouts: read commands do no harm, whatever is in there."""

import os
import random
import re
from collections.abc import Callable

import pytest

from tests.security.harness import STACK, Outcome, World, assert_harmless
from tests.security.hostile import KINDS

pytestmark = pytest.mark.trust
_ERROR = re.compile(r'error: |"type":"error"')
LONG = bool(os.environ.get("DEPLOYER_LONG"))
CHECKOUTS = 240 if LONG else 60
GROUPS = 6


@pytest.mark.parametrize("group", range(GROUPS))
def test_no_hostile_checkout_does_harm(
    make_world: Callable[[str], World], group: int
) -> None:
    for seed in range(group, CHECKOUTS, GROUPS):
        chance = random.Random(seed)  # noqa: S311 - the same checkouts every time
        kind = KINDS[seed % len(KINDS)]
        world = make_world(f"{seed}-{kind.__name__}")
        world.stack(STACK.replace("name: demo", "name: z-good"), "z-good")
        world.stack()
        for words in kind(world, chance):
            outcome = world.run(*words)
            try:
                assert_harmless(outcome)
                assert_told(outcome)
            except AssertionError as error:
                raise AssertionError(f"{kind.__name__}, seed {seed}: {error}") from None


def assert_told(outcome: Outcome) -> None:
    """A refusal says something, and says where or what."""
    assert outcome.code in {0, 1, 2} or _ERROR.search(outcome.said), outcome
