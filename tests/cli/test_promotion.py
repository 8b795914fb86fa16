"""A release takes the place of another while clients ask twenty times a second."""

import pytest

from tests.cli.clients import clients
from tests.cli.project import KEY, STACK, Project, gone

pytestmark = pytest.mark.real

DEMO = "stacks/demo.yaml"


def test_no_request_fails_during_a_promotion(live: Project) -> None:
    before = live.server()
    live.write(STACK.replace("1024", "2048"))
    with clients(live.port, KEY) as tally:
        done = live.run("apply", DEMO, "--yes")

    assert done.code == 0, done.err
    assert tally.failures == []
    assert tally.answered > 20
    assert live.server() != before
    assert gone(before)


def test_no_request_fails_where_gates_hold_the_candidate_back(live: Project) -> None:
    before = live.server()
    never = "chat: {contains: text that never comes}"
    live.write(STACK.replace("1024", "2048").replace("chat: {}", never))
    with clients(live.port, KEY) as tally:
        done = live.run("apply", DEMO, "--yes")

    assert done.code == 6
    assert tally.failures == []
    assert live.server() == before
