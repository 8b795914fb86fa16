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


@pytest.mark.parametrize("host", ["::1", "::", "localhost"])
def test_a_server_that_cannot_be_guarded_is_reported(
    project: Project, host: str
) -> None:
    text = STACK.replace("local:\n", f"local:\n  host: '{host}'\n")
    project.write(text)
    done = project.run("apply", DEMO, "--yes")
    assert done.code == 0, done.out + done.err
    assert (
        "clients can reach it before it is proven: sharing a port needs an IPv4"
        f" address, and `{host}` is none" in done.out
    )
    assert "✔ healthy" in project.run("status", DEMO).out
    project.write(text.replace("1024", "2048") + "rollout: {strategy: replace}\n")
    done = project.run("apply", DEMO, "--yes")
    assert done.code == 0, done.out + done.err
    assert len(project.servers()) == 1
