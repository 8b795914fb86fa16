"""What commands that only read start, import and print in a checkout full of traps."""

import pytest

from tests.security.harness import World, assert_harmless

pytestmark = pytest.mark.trust


def test_no_variable_beside_a_stack_names_a_program(world: World) -> None:
    world.stack()
    world.trap("stacks/evil.sh")
    world.write("stacks/.env", "DEPLOYER_CRIU=stacks/evil.sh\n")
    for command in ("validate", "lock", "plan", "render"):
        outcome = world.run(command, "stacks/demo.yaml")
        assert_harmless(outcome)
        assert outcome.code == 0, outcome.said
