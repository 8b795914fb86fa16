"""Commands of a user: only a verdict that is printed in order counts."""

import os
import select
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from deployer.gates.harness.runner import GateRequest, run_gates
from deployer.gates.harness.target import Target
from deployer.planning.events import Outcome, Verdict
from tests.gates.breaking import ERROR, FAIL, UNCLEAR
from tests.gates.checking import DATA, PROCESS, check, run_one, section
from tests.gates.fake_http import KEY, Script
from tests.gates.fake_server import fake_server

PASS = Outcome.PASS


Command = tuple[str, ...]


def python(code: str) -> Command:
    return sys.executable, "-c", code


def prints(text: str) -> Command:
    return python(f"print({text!r})")


def judged(
    command: Command,
    outcome: Outcome,
    because: str,
    *,
    key: str | None = KEY,
    folder: Path = DATA,
    timeout: str = "60s",
) -> Verdict:
    """The verdict of a gate with this command, which is this one for this reason."""
    return check(
        "custom",
        Script(key=key),
        outcome,
        because,
        key=key,
        folder=folder,
        command=command,
        timeout=timeout,
    )


def test_the_verdict_of_a_command_is_that_of_the_gate() -> None:
    verdict = check("custom", Script(), PASS, "custom saw that it is ok")
    assert verdict.figures == {"key_length": len(KEY)}
    (kept,) = verdict.evidence
    assert kept.request.endswith("verdict.py")
    assert '"outcome": "pass"' in kept.response
    assert (kept.status, kept.note) == (None, "exit code 0; ")


@pytest.mark.parametrize(
    ("outcome", "expected"), [("fail", FAIL), ("inconclusive", UNCLEAR)]
)
def test_a_command_can_hold_back(outcome: str, expected: Outcome) -> None:
    printed = f'{{"outcome": "{outcome}", "because": "no"}}'
    judged(prints(printed), expected, "no")


@pytest.mark.parametrize(
    ("command", "because"),
    [
        pytest.param(prints(""), "printed `nothing`, no verdict", id="nothing"),
        pytest.param(prints("all good"), "printed `all good`", id="words"),
        pytest.param(prints('{"outcome": "pass"}'), "`because`: field", id="no reason"),
        pytest.param(
            prints('{"outcome": "pass", "because": ""}'), "`because`", id="empty reason"
        ),
        pytest.param(
            prints('{"outcome": "passed", "because": "x"}'),
            "`outcome`",
            id="other word",
        ),
        pytest.param(
            prints('{"outcome": "pass", "because": "x"}\n{}'), "no verdict", id="two"
        ),
        pytest.param(
            prints('{"outcome": "pass", "because": "x", "score": 1}'),
            "`score`: extra",
            id="more",
        ),
        pytest.param(
            prints('{"outcome": "pass", "because": "x", "figures": {"a": NaN}}'),
            "no verdict",
            id="not a number",
        ),
        pytest.param(
            prints('{"outcome": "pass", "because": "x", "figures": {"A B": 1}}'),
            "`figures.A B",
            id="odd figure",
        ),
        pytest.param(
            python(
                "import sys\n"
                'print(\'{"outcome": "pass", "because": "x"}\')\n'
                'print("went wrong", file=sys.stderr)\n'
                "sys.exit(3)"
            ),
            "ended with exit code 3: went wrong",
            id="exit code",
        ),
        pytest.param(
            python("import os\nos.kill(os.getpid(), 9)"),
            "was killed by signal 9",
            id="killed",
        ),
        pytest.param(python("print('x' * 2**21)"), "no verdict", id="endless"),
        pytest.param(
            ("./not-there.sh",),
            "`./not-there.sh`: it cannot be started: no such file",
            id="not there",
        ),
        pytest.param(("./prompts.jsonl",), "permission denied", id="no program"),
    ],
)
def test_anything_but_a_verdict_is_an_error(command: Command, because: str) -> None:
    judged(command, ERROR, because)


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


def test_the_key_that_a_command_prints_is_not_told() -> None:
    code = (
        "import json, os\n"
        'key = os.environ["DEPLOYER_API_KEY"]\n'
        'print(json.dumps({"outcome": "fail", "because": f"not {key}"}))'
    )
    verdict = judged(python(code), FAIL, "not ***")
    assert KEY not in repr(verdict)


def test_without_a_key_there_is_no_variable_of_it() -> None:
    code = (
        "import json, os\n"
        'seen = "DEPLOYER_API_KEY" in os.environ\n'
        'print(json.dumps({"outcome": "pass", "because": f"key: {seen}"}))'
    )
    judged(python(code), PASS, "key: False", key=None)


LEAVES_A_CHILD = """\
import subprocess, sys, time
code = "import time; held = open('held', 'w'); print(); time.sleep(600)"
child = subprocess.Popen([sys.executable, "-uc", code], stdout=subprocess.PIPE)
child.stdout.readline()
"""


@contextmanager
def held(folder: Path) -> Iterator[Callable[[], bool]]:
    """A pipe that a child of a command holds; says whether the child ends."""
    os.mkfifo(folder / "held")
    end = os.open(folder / "held", os.O_RDONLY | os.O_NONBLOCK)
    watch = select.poll()
    watch.register(end, select.POLLHUP)
    try:
        yield lambda: bool(watch.poll(5000))
    finally:
        os.close(end)


def test_a_command_that_hangs_ends_with_all_it_started(tmp_path: Path) -> None:
    hanging = python(f"{LEAVES_A_CHILD}time.sleep(600)")
    because = "not done within 2.0 s, at run"
    with held(tmp_path) as child_ends:
        verdict = judged(hanging, ERROR, because, folder=tmp_path, timeout="2s")
        assert child_ends()
    assert verdict.evidence[-1].note == "it ran out of time, and was killed"


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


def called(
    code: str, outcome: Outcome, because: str, folder: Path, function: str = "smoke"
) -> Verdict:
    """The verdict of a gate with this function of the user's."""
    (folder / "evals").mkdir()
    (folder / "evals" / "checks.py").write_text(code, encoding="utf-8")
    return check(
        "custom",
        Script(),
        outcome,
        because,
        folder=folder,
        command=None,
        python=f"evals/checks.py:{function}",
    )


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


def test_a_coroutine_returns_its_verdict_too(tmp_path: Path) -> None:
    code = "async def smoke():\n    return {'outcome': 'fail', 'because': 'rude'}\n"
    called(code, FAIL, "rude", tmp_path)


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


@pytest.mark.parametrize(
    ("code", "because"),
    [
        pytest.param("smoke = 3\n", "has no function `smoke`", id="no function"),
        pytest.param("", "`evals/checks.py` has no function", id="nothing"),
        pytest.param("def smoke(:\n", "SyntaxError", id="no Python"),
        pytest.param("import not_there\n", "No module named", id="no import"),
        pytest.param(
            "def smoke():\n    raise ValueError('no luck')\n",
            "`evals/checks.py:smoke` ended with exit code 1: ValueError: no luck",
            id="raises",
        ),
        pytest.param("def smoke(url):\n    pass\n", "missing 1 required", id="takes"),
        pytest.param("def smoke():\n    pass\n", "printed `null`", id="None"),
        pytest.param("def smoke():\n    return True\n", "printed `true`", id="True"),
        pytest.param(
            "def smoke():\n    return {smoke}\n", "not JSON serializable", id="a set"
        ),
        pytest.param(
            "def smoke():\n    return {'outcome': 'pass', 'because': 'x', 'figures':"
            " {'a': float('nan')}}\n",
            "no verdict",
            id="not a number",
        ),
        pytest.param(
            "def smoke():\n    raise SystemExit(0)\n", "printed `nothing`", id="leaves"
        ),
        pytest.param(
            "import os\nos._exit(0)\n", "printed `nothing`", id="leaves at once"
        ),
    ],
)
def test_a_function_without_a_verdict_is_an_error(
    code: str, because: str, tmp_path: Path
) -> None:
    called(code, ERROR, because, tmp_path)


def test_a_function_that_hangs_is_ended(tmp_path: Path) -> None:
    (tmp_path / "checks.py").write_text(
        f"def smoke():\n    exec({LEAVES_A_CHILD + 'time.sleep(600)'!r})\n"
    )
    with held(tmp_path) as child_ends:
        check(
            "custom",
            Script(),
            ERROR,
            "not done within 3.0 s, at run checks.py:smoke",
            folder=tmp_path,
            command=None,
            python="checks.py:smoke",
            timeout="3s",
        )
        assert child_ends()


def test_a_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    check(
        "custom",
        Script(),
        ERROR,
        "FileNotFoundError",
        folder=tmp_path,
        command=None,
        python="checks.py:smoke",
    )
