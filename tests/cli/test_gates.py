"""Gates of a stack during `apply`: what they look at, and what makes them run again."""

import re

import pytest

from tests.cli.project import STACK, Project
from tests.models import tiny
from tests.models.tiny import TEMPLATE
from tests.models.vocabulary import Behaviour

pytestmark = pytest.mark.real

DEMO = "stacks/demo.yaml"
FILES = """\
  quality: {file: prompts.jsonl}
  custom:
    smoke: {python: checks.py:smoke}
    shell: {command: [sh, smoke.sh]}
"""
PROMPT = '{"prompt": "Say it.", "contains": "42"}\n'
SMOKE = "def smoke():\n    return {'outcome': 'pass', 'because': 'called'}\n"
SHELL = """echo '{"outcome": "pass", "because": "run"}'\n"""


@pytest.fixture
def judged(project: Project) -> Project:
    """A live stack whose gates read files beside it."""
    for name, text in {
        "prompts.jsonl": PROMPT,
        "checks.py": SMOKE,
        "smoke.sh": SHELL,
    }.items():
        (project.stack.parent / name).write_text(text)
    project.write(STACK + FILES)
    done = project.run("apply", DEMO, "--yes")
    assert done.code == 0, done.out + done.err
    return project


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("prompts.jsonl", "gates.quality.file.prompts.jsonl"),
        ("checks.py", "gates.custom.smoke.checks.py"),
        ("smoke.sh", "gates.custom.shell.smoke.sh"),
    ],
)
def test_another_content_of_a_file_is_a_reason_to_judge_again(
    judged: Project, name: str, field: str
) -> None:
    server = judged.server()
    assert "No changes" in judged.run("plan", DEMO).out
    file = judged.stack.parent / name
    file.write_text(f"{file.read_text()}\n")

    out = judged.run("plan", DEMO).out
    assert "re-validate\n" in out
    (reason,) = [line for line in out.splitlines() if line.startswith("      gates.")]
    assert reason.split()[0] == field
    assert "Plan: 1 to re-validate.\n" in out

    done = judged.run("apply", DEMO, "--yes")
    assert done.code == 0, done.out + done.err
    assert "custom.smoke" in done.out
    assert judged.server() == server
    assert "No changes" in judged.run("plan", DEMO).out


def test_a_file_of_a_gate_that_is_gone_is_told_at_its_line(judged: Project) -> None:
    (judged.stack.parent / "checks.py").unlink()
    done = judged.run("plan", DEMO)
    assert done.code == 3
    assert "stacks/demo.yaml:" in done.err
    assert "`checks.py`" in done.err


REGRESSION = STACK + "  regression: {}\n"
OTHER = REGRESSION.replace("mmap: false", "mmap: false\n  chat_template: other.jinja")


def test_a_candidate_that_answers_as_the_live_release_is_promoted(
    project: Project,
) -> None:
    project.write(REGRESSION)
    done = project.run("apply", DEMO, "--yes")
    assert "no live release to compare with" in done.out

    project.write(REGRESSION.replace("1024", "2048"))
    done = project.run("apply", DEMO, "--yes")
    assert done.code == 0, done.out + done.err
    assert "agree with the live release in 100 % of their words" in done.out


def test_a_candidate_that_answers_otherwise_is_held_back(project: Project) -> None:
    """It starts well and is healthy; only its answers are not those of before."""
    project.write(REGRESSION)
    assert project.run("apply", DEMO, "--yes").code == 0
    before = project.server()

    end = "{{- '<tool_response|>' -}}"  # the tiny model answers to the last token
    template = f"{TEMPLATE.read_text(encoding='utf-8')}{end}"
    (project.stack.parent / "other.jinja").write_text(template, encoding="utf-8")
    project.write(OTHER)
    done = project.run("apply", DEMO, "--yes")

    assert done.code == 6, done.out + done.err
    assert "`regression`" in done.err.splitlines()[0]
    assert re.search(r"✖ regression +fail: [\d.]+ nats a token from the live", done.out)
    assert "`The answer is 42.` became `" in done.out
    assert project.servers() == {before}


LOADS_LONG = STACK.replace("1024", "524288") + "  errors: {loading: true}\n"
"""Its cache of 320 MB is cleared while it loads, which takes a while."""


def test_what_the_server_says_while_it_loads_is_judged(project: Project) -> None:
    project.write(LOADS_LONG)
    done = project.run("apply", DEMO, "--yes")
    assert done.code == 0, done.out + done.err
    assert "refused as documented: loading, broken JSON" in done.out
    assert "refused as documented: loading, " in project.run("check", DEMO).out


def test_the_speed_of_a_release_stands_in_the_history(project: Project) -> None:
    project.write(f"{STACK}  speed: {{}}\n")
    done = project.run("apply", DEMO, "--yes")
    assert done.code == 0, done.out + done.err

    one, both = [
        line
        for line in project.run("history", DEMO).out.splitlines()
        if line.startswith("        speed   ")
    ]
    names = [" prompt tokens ", " tokens ", " ttft "]
    assert [name for name in names if name not in one] == []
    assert both.startswith("        speed   2 streams at once: tokens ")
    (release,) = project.run("history", DEMO, "--json").results()
    (kept,) = [gate for gate in release["gates"] if gate["gate"] == "speed"]
    assert kept["figures"]["parallel_streams"] == 2
    assert kept["figures"]["tokens_per_second"] > 0


@pytest.mark.parametrize(
    ("calls", "verdict", "left"),
    [
        (True, "✔ tools            pass: calls are", "not proven: thinking\n"),
        (
            False,
            "? tools            inconclusive (advisory): auto: no tool is called",
            "not proven: thinking, tools (auto: no tool is called",
        ),
    ],
)
def test_a_stack_without_gates_is_asked_for_tool_calls(
    project: Project,
    calls: bool,  # noqa: FBT001 - a parameter
    verdict: str,
    left: str,
) -> None:
    """A model that makes none blocks nothing, and is no proof either."""
    file, behaviour = project.stack.parent / "tiny.gguf", Behaviour(calls_tools=calls)
    file.unlink()
    tiny.write(file, behaviour=behaviour)
    project.write(STACK[: STACK.index("gates:")])
    done = project.run("apply", DEMO, "--yes")
    assert done.code == 0, done.out + done.err
    assert verdict in done.out
    assert left in done.out
