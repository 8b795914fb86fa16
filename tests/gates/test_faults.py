"""No broken answer passes, and every gate has enough of them and a good one."""

from pathlib import Path

import pytest

import tests.gates.faults  # noqa: F401 - fills the registry
from deployer.gates import GATES
from deployer.planning.events import Outcome
from deployer.stack.fields.gate_options import Gates
from deployer.stack.fields.marks import fields_of
from deployer.stack.fields.values import NO_GATES
from tests.gates.checking import CASES, check
from tests.gates.fake_http import Script
from tests.gates.registry import FAULTS, OWN


def test_the_table_and_the_section_name_the_same_gates() -> None:
    differ = {*GATES} ^ {*fields_of(Gates)} ^ NO_GATES
    assert differ == set(), "a line in `GATES` and one in the section `Gates`"


@pytest.mark.parametrize("gate", GATES)
def test_a_server_with_no_fault_passes(gate: str) -> None:
    check(gate, Script(), Outcome.PASS, "")


@pytest.mark.parametrize("gate", GATES)
def test_every_gate_has_at_least_five_broken_answers(gate: str) -> None:
    """Of its own: what `everywhere` breaks does not count."""
    assert len(OWN[gate]) >= 5, "register more in `tests/gates/faults`"


@pytest.mark.parametrize(
    ("gate", "fault"), [(gate, fault) for gate in FAULTS for fault in FAULTS[gate]]
)
def test_a_broken_answer_does_not_pass(gate: str, fault: str, tmp_path: Path) -> None:
    before = len(CASES)
    FAULTS[gate][fault](tmp_path)
    found = [(case.verdict.gate, case.verdict.outcome) for case in CASES[before:]]
    assert {name.partition(".")[0] for name, _ in found} == {gate}
    assert Outcome.PASS not in {outcome for _, outcome in found}
