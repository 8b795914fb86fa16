"""Commands of a user: only a verdict that is printed in order counts."""

import os
import select
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from deployer.core.verdict import Outcome, Verdict
from deployer.gates.runner import GateRequest, run_gates
from deployer.gates.target import Target
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
