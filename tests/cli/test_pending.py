"""What an earlier run began and did not end, and what `--pending` does about it."""

from dataclasses import replace

import pytest

from deployer.errors import PendingError
from deployer.planning.plan import make_plan
from deployer.planning.state import Begun, Loose, State
from deployer.planning.steps import Resume, Retire, steps_of
from deployer.state.files import to_json
from deployer.usecases.context.settings import Pending
from deployer.usecases.plan import Planned, settled
from deployer.usecases.reading.prepared import Prepared
from tests.applying import OTHER_BUILD, SERVER, WIDER, Desk, graph
from tests.cli.project import Project
from tests.planning.checking import LOCAL

DEMO = "stacks/demo.yaml"


def planned(state: State, wanted: str) -> Planned:
    nodes = graph(wanted)
    prepared = Prepared(state.stack, state.engine, nodes, {}, ())
    return Planned(make_plan(nodes, state), prepared, state, None)


@pytest.fixture(name="desk")
def _desk() -> Desk:
    """A run died with a candidate beside the live server."""
    desk = Desk()
    desk.apply(LOCAL)
    desk.crash(WIDER, at=1, after=True)
    assert desk.state.loose
    return desk


def test_adopt_settles_it_and_goes_on(desk: Desk) -> None:
    asked = planned(desk.state, OTHER_BUILD)
    assert settled(asked, Pending.ADOPT) == asked


def test_fail_says_what_there_is(desk: Desk) -> None:
    with pytest.raises(PendingError) as caught:
        settled(planned(desk.state, OTHER_BUILD), Pending.FAIL)
    assert caught.value.message == (
        "an earlier run of `demo` did not end: demo/server was left staging"
    )
    clean = Desk()
    clean.apply(LOCAL)
    asked = planned(clean.state, WIDER)
    assert settled(asked, Pending.FAIL) == asked


def test_clear_retires_the_candidate_and_begins_nothing(desk: Desk) -> None:
    cleared = settled(planned(desk.state, OTHER_BUILD), Pending.CLEAR)
    assert [type(step) for step in steps_of(cleared.plan)] == [Retire]
    desk.apply(cleared.prepared.graph)
    assert desk.settled(LOCAL)


def test_clear_finishes_a_promotion_that_may_have_the_traffic(desk: Desk) -> None:
    desk = Desk()
    desk.apply(LOCAL)
    desk.crash(WIDER, at=2, after=True)
    cleared = settled(planned(desk.state, OTHER_BUILD), Pending.CLEAR)
    assert isinstance(steps_of(cleared.plan)[0], Resume)
    desk.apply(cleared.prepared.graph)
    assert desk.settled(WIDER)


def test_clear_of_nothing_is_nothing() -> None:
    desk = Desk()
    desk.apply(LOCAL)
    assert settled(planned(desk.state, WIDER), Pending.CLEAR).plan.is_empty


def test_the_command_line_refuses_and_changes_nothing(paper: Project) -> None:
    desk = Desk()
    desk.apply(LOCAL)
    state = desk.state
    left = replace(state, loose=(Loose(Begun.STAGED, state.live[SERVER]),))
    (paper.folder / "s.json").write_text(to_json(left))
    assert paper.run("state", "push", DEMO, "s.json").code == 0
    done = paper.run("apply", DEMO, "--yes", "--pending", "fail")
    assert done.code == 1
    assert done.err == (
        "error: an earlier run of `demo` did not end: demo/server was left staged\n"
        "  hint: `--pending adopt` settles it and goes on, `--pending clear` settles"
        " it alone\n"
    )
    assert paper.run("state", "pull", DEMO).out == to_json(left)
    assert "! demo/server" in paper.run("status", DEMO).out
    assert paper.run("apply", DEMO, "--pending", "no").code == 3
