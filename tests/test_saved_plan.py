"""A plan as a file, and an apply that is held to it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployer.diagnostics import Place
from deployer.errors import UsageError
from deployer.planning.plan import Drift, Plan, make_plan
from deployer.planning.state import Begun, Loose, State
from deployer.usecases.plan_file import (
    VERSION,
    Bound,
    SavedPlan,
    Shown,
    from_json,
    is_plan_file,
    read,
    to_json,
    write,
)
from tests.applying import GATED, SERVER, WIDER, Desk, graph
from tests.planning.checking import LOCAL

BOUND = Bound("0.1.0", "", "s" * 64, "l" * 64, "c" * 64)


def saved(plan: Plan) -> SavedPlan:
    places = {"server.ctx_size": Place("stacks/demo.yaml", 9, 3)}
    shown = Shown("c" * 40, "7", "https://github.com/o/r/actions/runs/1", "d" * 64)
    return SavedPlan("stacks/demo.yaml", BOUND, shown, plan, places, ("a note",))


def plans() -> dict[str, Plan]:
    """A plan of every kind there is."""
    desk = Desk()
    new = make_plan(graph(LOCAL), desk.state)
    desk.apply(LOCAL)
    state = desk.state
    server = state.live[SERVER]
    left = replace(state, loose=(Loose(Begun.STAGED, server),))
    promoting = replace(state, promoting=state.releases[-1])
    return {
        "new": new,
        "wider": make_plan(graph(WIDER), state),
        "gated": make_plan(graph(GATED), state),
        "empty": make_plan(graph(LOCAL), state),
        "gone": make_plan({}, state),
        "drift": make_plan(graph(LOCAL), state, drift=(Drift(SERVER, "it died"),)),
        "left": make_plan(graph(WIDER), left),
        "promoting": make_plan(graph(WIDER), promoting),
    }


@pytest.mark.parametrize("name", list(plans()))
def test_what_is_written_is_read(name: str) -> None:
    kept = saved(plans()[name])
    again = from_json(to_json(kept), "f")
    assert again.plan.id == kept.plan.id
    assert to_json(again) == to_json(kept)
    assert again == kept


def test_a_newer_form_is_refused() -> None:
    text = to_json(saved(plans()["new"])).replace(
        f'"version": {VERSION}', f'"version": {VERSION + 1}'
    )
    with pytest.raises(UsageError) as caught:
        from_json(text, "demo.plan")
    assert caught.value.message == (
        "`demo.plan` was written by a newer deployer (plan version "
        f"{VERSION + 1}, this version reads {VERSION})"
    )


TEXT = to_json(saved(plans()["promoting"]))


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_a_mutated_file_is_refused_or_read_and_never_more(data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(TEXT) - 1))
    cut = data.draw(st.integers(0, 40))
    put = data.draw(st.text(max_size=8))
    try:
        from_json(TEXT[:at] + put + TEXT[at + cut :], "f")
    except UsageError as error:
        assert error.message.startswith("`f` ")  # noqa: PT017 - either end is fine


def test_every_missing_or_unknown_member_is_refused() -> None:
    content = json.loads(TEXT)
    for name in [n for n in content if n != "version"]:
        less = {k: v for k, v in content.items() if k != name}
        with pytest.raises(UsageError, match=f"has no `{name}`"):
            from_json(json.dumps(less), "f")
    with pytest.raises(UsageError, match="unknown key `more`"):
        from_json(json.dumps({**content, "more": 1}), "f")


def test_a_plan_file_is_known_by_its_ending_or_its_content(tmp_path: Path) -> None:
    by_content = tmp_path / "plan.json"
    write(by_content, saved(plans()["new"]))
    assert is_plan_file(by_content)
    assert is_plan_file(tmp_path / "gone.plan")
    stack = tmp_path / "demo.yaml"
    stack.write_text('{"version": 1, "name": "demo"}')
    assert not is_plan_file(stack)


def test_it_is_for_its_user_alone(tmp_path: Path) -> None:
    write(tmp_path / "demo.plan", saved(plans()["new"]))
    assert (tmp_path / "demo.plan").stat().st_mode & 0o777 == 0o600


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    file = tmp_path / "demo.plan"
    with file.open("wb") as stream:
        stream.truncate(2**30)
    with pytest.raises(UsageError, match="too large for a saved plan"):
        read(file)


def test_a_state_of_another_time_is_bound_by_lineage_and_serial() -> None:
    plan = make_plan(graph(LOCAL), State("demo", "local", lineage="f00d"))
    assert (plan.lineage, plan.serial) == ("", 0)
