"""F8: a fixture for each version of each form of ours; a newer one is refused."""

import json
from pathlib import Path

import pytest

from deployer.errors import StateError, UsageError
from deployer.planning import state as states
from deployer.state.files import from_json, to_json
from deployer.usecases import plan_file

pytestmark = pytest.mark.trust
FORMS = Path(__file__).parent / "forms"


@pytest.mark.parametrize("version", range(1, states.VERSION + 1))
def test_a_state_of_every_version_is_read_and_written_as_today(version: int) -> None:
    text = (FORMS / f"state-{version}.json").read_text()
    assert json.loads(text)["version"] == version
    state = from_json(text, "f")
    assert (state.stack, state.released, len(state.releases)) == ("demo", 2, 2)
    assert json.loads(to_json(state))["version"] == states.VERSION
    newest = (FORMS / f"state-{states.VERSION}.json").read_text()
    assert to_json(state) == newest


@pytest.mark.parametrize("version", range(1, plan_file.VERSION + 1))
def test_a_plan_of_every_version_is_read_and_written_as_today(version: int) -> None:
    text = (FORMS / f"plan-{version}.json").read_text()
    assert json.loads(text)["version"] == version
    newest = (FORMS / f"plan-{plan_file.VERSION}.json").read_text()
    plan = plan_file.from_json(text, "f")
    assert plan_file.to_json(plan) == newest


def test_newer_ones_are_refused() -> None:
    with pytest.raises(StateError, match="by a newer deployer"):
        from_json(f'{{"version": {states.VERSION + 1}}}', "f")
    with pytest.raises(UsageError, match="by a newer deployer"):
        plan_file.from_json(f'{{"version": {plan_file.VERSION + 1}}}', "f")
