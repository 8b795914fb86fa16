"""Commands and functions of a user: what they see, and what is left of them."""

import os
from pathlib import Path

import pytest

from deployer.gates.harness.client import Target
from deployer.gates.harness.runner import GateRequest, run_gates
from deployer.planning.events import Outcome, Verdict
from tests.gates.breaking import ERROR
from tests.gates.checking import DATA, PROCESS, check, run_one, section
from tests.gates.fake_http import KEY, Script
from tests.gates.fake_server import fake_server
from tests.gates.faults.custom import LEAVES_A_CHILD, called, held, judged, python

PASS = Outcome.PASS


def test_the_verdict_of_a_command_is_that_of_the_gate() -> None:
    verdict = check("custom", Script(), PASS, "custom saw that it is ok")
    assert verdict.figures == {"key_length": len(KEY)}
    (kept,) = verdict.evidence
    assert kept.request.endswith("verdict.py")
    assert '"outcome": "pass"' in kept.response
    assert (kept.status, kept.note) == (None, "exit code 0; ")


def test_no_shell_looks_at_a_command() -> None:
    echo = ("echo", '{"outcome": "pass", "because": "$HOME; `id`"}')
    judged(echo, PASS, "$HOME; `id`")


def test_a_command_sees_few_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOUD_TOKEN", "secret")
    code = (
        "import json, os\n"
        'names = " ".join(sorted(os.environ))\n'
        'print(json.dumps({"outcome": "pass", "because": names}))'
    )
    verdict = judged(python(code), PASS, "DEPLOYER_API_KEY")
    allowed = {"PATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR"}
    ours = {"DEPLOYER_URL", "DEPLOYER_API_KEY", "DEPLOYER_GATE"}
    assert set(verdict.because.split()) - allowed == ours


def test_without_a_key_there_is_no_variable_of_it() -> None:
    code = (
        "import json, os\n"
        'seen = "DEPLOYER_API_KEY" in os.environ\n'
        'print(json.dumps({"outcome": "pass", "because": f"key: {seen}"}))'
    )
    judged(python(code), PASS, "key: False", key=None)


def test_what_a_command_leaves_behind_ends_with_it(tmp_path: Path) -> None:
    printed = """print('{"outcome": "pass", "because": "fine"}')"""
    with held(tmp_path) as child_ends:
        judged(python(f"{LEAVES_A_CHILD}{printed}"), PASS, "fine", folder=tmp_path)
        assert child_ends()


def test_a_command_reaches_the_candidate_on_a_shared_port() -> None:
    """What the server sees as the sender decides who answers: see the local engine."""
    senders: list[str] = []
    with fake_server(Script(peer=senders.append)) as server:
        target = Target(
            server.url, api_key=KEY, source_address="127.0.0.3", folder=DATA
        )
        verdict = run_one("custom", target)
    assert verdict.outcome is PASS, verdict
    assert senders == ["127.0.0.3"]


def test_a_candidate_that_is_gone_is_not_reached_through_the_relay() -> None:
    with fake_server(Script()) as server:
        gone = server.url
    target = Target(gone, api_key=KEY, source_address="127.0.0.3", folder=DATA)
    verdict = run_one("custom", target)
    assert (verdict.outcome, "exit code 1" in verdict.because) == (ERROR, True)


def ran(*names: str) -> tuple[Verdict, ...]:
    with fake_server(Script()) as server:
        target = Target(server.url, api_key=KEY, process=PROCESS, folder=DATA)
        requests = [GateRequest(name, section(name.split(".")[0])) for name in names]
        return run_gates(requests, target, say=lambda _event: None)


def test_every_command_has_a_verdict_of_its_name() -> None:
    verdicts = ran("custom.b", "memory", "custom.a", "chat")
    assert [v.gate for v in verdicts] == ["chat", "custom.b", "custom.a", "memory"]
    assert verdicts[1].because == "custom.b saw that it is ok"


def test_a_function_returns_its_verdict(tmp_path: Path) -> None:
    code = (
        "import os\n"
        "def smoke():\n"
        "    print('asking')\n"
        "    key = os.environ['DEPLOYER_API_KEY']\n"
        "    seen = os.environ['DEPLOYER_URL'][:16]\n"
        "    return {'outcome': 'pass', 'because': seen, 'figures': {'n': len(key)}}\n"
    )
    verdict = called(code, PASS, "http://127.0.0.1", tmp_path)
    assert verdict.figures == {"n": len(KEY)}
    (kept,) = verdict.evidence
    assert kept.request == "run evals/checks.py:smoke"
    assert kept.note == "exit code 0; asking"


def test_a_function_runs_in_another_process(tmp_path: Path) -> None:
    """What a pull request wrote must not get hold of ours."""
    code = (
        "import os, sys\n"
        "def smoke():\n"
        "    ours = [name for name in sys.modules if name.startswith('deployer')]\n"
        "    return {'outcome': 'pass', 'because': f'{os.getppid()} {ours}'}\n"
    )
    called(code, PASS, f"{os.getpid()} []", tmp_path)


def test_a_function_imports_what_lies_beside_it(tmp_path: Path) -> None:
    """Also where a module of ours has the name."""
    (tmp_path / "evals").mkdir()
    (tmp_path / "evals" / "tools.py").write_text("NAME = 'my tools'\n")
    (tmp_path / "checks.py").write_text("")
    code = (
        "import tools\n"
        "def smoke():\n"
        "    return {'outcome': 'pass', 'because': tools.NAME}\n"
    )
    (tmp_path / "evals" / "checks.py").write_text(code)
    check(
        "custom",
        Script(),
        PASS,
        "my tools",
        folder=tmp_path,
        command=None,
        python="evals/checks.py:smoke",
    )
