"""Models that only the gates need, and the table of faults.

python -m pytest tests/gates -q -m "not real" --fault-table
"""

from collections import Counter
from pathlib import Path

import pytest

from deployer.gates.harness.answers import excerpt
from deployer.planning.events import Outcome, sign
from tests.gates.checking import CASES, Case
from tests.models import tiny
from tests.models.vocabulary import Behaviour


@pytest.fixture(scope="session")
def model_without_tools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model, but it never calls a tool by itself and never thinks."""
    path = tmp_path_factory.mktemp("plain") / "plain.gguf"
    tiny.write(path, behaviour=Behaviour(calls_tools=False, thinks=False))
    return path


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--fault-table",
        action="store_true",
        help="print every broken answer and what its gate made of it",
    )


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    if not config.getoption("--fault-table"):
        return
    faults = [case for case in CASES if case.verdict.outcome is not Outcome.PASS]
    terminalreporter.section("broken answers")
    for case in sorted(faults, key=lambda case: case.verdict.gate):
        terminalreporter.line(_row(case))
    counts = Counter(case.verdict.outcome for case in CASES)
    ended = ", ".join(f"{counts[one]} {one}" for one in Outcome if counts[one])
    gates = len({case.verdict.gate for case in faults})
    sound = len(CASES) - len(faults)
    terminalreporter.line("")
    broken = f"{len(faults)} broken answers to {gates} gates"
    terminalreporter.line(f"{broken}, and {sound} sound ones: {ended}")


def _row(case: Case) -> str:
    verdict = case.verdict
    test = case.test.rpartition("::")[2].removesuffix(" (call)").removeprefix("test_")
    fault = excerpt(test.replace("_", " "), 64)
    head = f"{sign(verdict)} {verdict.outcome:<12} {verdict.gate:<15} {fault:<64}"
    return f"{head} {excerpt(verdict.because, 90)}"
