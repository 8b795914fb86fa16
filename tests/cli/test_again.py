"""The second time: a stack that did not change is not read, and the server is asked."""

import json
import os
import signal
from dataclasses import dataclass

import pytest

from deployer import version_line
from tests.cli.project import COMMAND, STACK, Project

DEMO = "stacks/demo.yaml"

WATCH = """\
import sys

def watch(event, args):
    if event.startswith(("subprocess.", "os.exec", "os.fork", "os.posix_spawn")):
        started.append(str(args[0]))
    if event in ("socket.connect", "socket.sendto", "socket.getaddrinfo"):
        asked.append(str(args[1]))

started, asked = [], []
sys.addaudithook(watch)
from deployer.entry import run
try:
    run()
except SystemExit as left:
    roots = {name.partition(".")[0] for name in sys.modules}
    names = sorted(roots | {"gates" for name in sys.modules if ".gates" in name})
    import json
    ours = sum(name.startswith("deployer") for name in sys.modules)
    print(json.dumps([left.code, started, asked, names, ours]), file=sys.stderr)
"""

SLOW = {"modal", "httpx2", "openai", "rich", "numpy", "gguf", "huggingface_hub"}
MODEL = {"pydantic", "yaml", "jsonschema", "jinja2"}


@dataclass(frozen=True)
class Watched:
    """What a command said and did."""

    code: int
    out: str
    started: list[str]
    asked: list[str]
    imported: set[str]
    ours: int


def watched(project: Project, call: str) -> Watched:
    """Run a command, and look at what it imports, starts and speaks to."""
    done = project.python(WATCH, *call.split())
    code, started, asked, names, ours = json.loads(done.err.splitlines()[-1])
    return Watched(code, done.out, started, asked, set(names), ours)


@pytest.fixture
def locked(paper: Project) -> Project:
    """A project that plans without asking anybody."""
    assert paper.run("lock", DEMO).code == 0
    return paper


def test_the_version_imports_no_other_command(paper: Project) -> None:
    assert paper.run("--version").out == f"{version_line()}\n"
    seen = watched(paper, "--version")
    assert (seen.code, seen.imported & (MODEL | SLOW)) == (0, set())
    assert seen.out == f"{version_line()}\n"


@pytest.mark.parametrize("call", ["--help", "-h"])
def test_help_imports_no_command(paper: Project, call: str) -> None:
    seen = watched(paper, call)
    assert (seen.code, seen.imported & (MODEL | SLOW | {"json"})) == (0, set())
    assert "Everyday:" in seen.out


def test_a_shell_is_told_the_commands_without_them(paper: Project) -> None:
    code = (
        "import sys\n"
        "from deployer.entry import run\n"
        "try:\n    run()\n"
        "except SystemExit:\n"
        "    print([it for it in sys.modules if it.startswith('deployer.cli.')])\n"
    )
    line = f'COMP_WORDS="deployer st" COMP_CWORD=1 python -c "{code}"'
    done = paper.shell(f"export _DEPLOYER_COMPLETE=bash_complete; {line}")
    words = [f"plain,{name}" for name in ("status", "store", "state")]
    *told, modules = done.out.splitlines()
    known = "['deployer.cli.terminal', 'deployer.cli.main']"
    assert (sorted(told), modules) == (sorted(words), known)


MAX_LOADED = 53
"""Modules of ours that a plan of a prepared stack loads: it goes down, never up."""


def test_the_second_plan_needs_no_model(locked: Project) -> None:
    first, second = (watched(locked, f"plan {DEMO}") for _ in range(2))
    assert first.out == second.out != ""
    assert {"pydantic", "yaml", "click"} <= first.imported
    assert second.imported & (MODEL | SLOW) == set()
    assert second.ours <= MAX_LOADED < first.ours
    assert (second.code, second.started, second.asked) == (0, [], [])


@pytest.mark.parametrize("call", ["plan --engine local", "status"])
def test_no_command_that_reads_imports_what_is_slow(locked: Project, call: str) -> None:
    locked.run("plan", DEMO)
    seen = watched(locked, f"{call} {DEMO}")
    assert seen.imported & SLOW == set()


@pytest.mark.parametrize("call", ["plan", "validate", "render"])
def test_neither_does_one_that_reads_everything(locked: Project, call: str) -> None:
    seen = watched(locked, f"{call} {DEMO}")
    assert seen.code == 0
    assert "pydantic" in seen.imported
    assert seen.imported & SLOW == set()


def test_no_cache_reads_everything_again(locked: Project) -> None:
    first, second = (watched(locked, f"plan {DEMO} --no-cache") for _ in range(2))
    assert first.out == second.out
    assert {"pydantic", "yaml"} <= second.imported


def test_the_options_of_a_plan_are_no_part_of_what_is_kept(locked: Project) -> None:
    plain = locked.run("plan", DEMO).out
    assert locked.run("plan", DEMO).out == plain
    assert locked.run("plan", DEMO, "--json").results()[0]["type"] == "plan"
    plan, _, _ = plain.partition("note: ")
    assert locked.run("plan", DEMO, "--steps").out.startswith(plan)
    assert locked.run("plan", DEMO, "--detailed-exitcode").code == 2
    assert locked.run("plan", DEMO).out == plain


def test_an_edit_is_seen_at_once(locked: Project) -> None:
    before = [locked.run("plan", DEMO).out for _ in range(2)]
    locked.write(STACK.replace("parallel: 2", "parallel: 3"))
    edited = locked.run("plan", DEMO, "--steps").out
    after = locked.run("plan", DEMO).out
    assert before[0] == before[1] != after
    assert edited.startswith(after.partition("note: ")[0])


def test_a_stack_that_comes_into_a_folder_is_seen_at_once(locked: Project) -> None:
    before = [locked.run("plan", "stacks").out for _ in range(2)]
    locked.write(STACK.replace("name: demo", "name: other"), "other")
    after = locked.run("plan", "stacks").out
    assert before[0] == before[1]
    assert "other on local" in after


def test_a_mistake_is_told_each_time(locked: Project) -> None:
    locked.write(STACK + "wrong: 1\n")
    first, second = locked.run("plan", DEMO), locked.run("plan", DEMO)
    assert (first.code, first.out) == (3, "")
    assert first == second


def test_nobody_reads(locked: Project) -> None:
    for _ in range(3):
        done = locked.shell(f"{' '.join(COMMAND)} plan {DEMO} | true; exit $PIPESTATUS")
        assert (done.code in (0, 1), done.err) == (True, "")


def test_what_a_terminal_cannot_show_is_a_question_mark(locked: Project) -> None:
    for _ in range(3):
        done = locked.run("plan", DEMO, env={"PYTHONIOENCODING": "iso8859-5"})
        assert "demo on local ? plan" in done.out


def test_a_plan_asks_the_live_server_once_and_nobody_else(live: Project) -> None:
    first, second = (watched(live, f"plan {DEMO}") for _ in range(2))
    assert first.out == second.out
    assert second.out.endswith("note: demo/server was asked, and answers\n")
    assert (second.started, second.asked) == ([], [f"('127.0.0.1', {live.port})"])
    assert second.imported & (MODEL | SLOW | {"psutil", "subprocess", "gates"}) == set()
    (told,) = live.run("plan", DEMO, "--json").results()
    assert told["notes"][-1] == "demo/server was asked, and answers"


def test_a_plan_sees_what_an_apply_would_see(live: Project) -> None:
    os.kill(live.server(), signal.SIGKILL)
    plan = live.run("plan", DEMO)
    assert "! drift    demo/server: crashed or was killed" in plan.out
    assert "Plan: 1 to start." in plan.out
    assert plan.out.startswith("\n".join(live.run("apply", DEMO).out.splitlines()[:5]))


def test_a_plan_waits_two_seconds_for_a_server_that_hangs(live: Project) -> None:
    server = live.server()
    os.kill(server, signal.SIGSTOP)
    try:
        done = live.run("plan", DEMO, "--detailed-exitcode")
    finally:
        os.kill(server, signal.SIGCONT)
    assert "demo/server: runs, but did not answer `/health` with 200 within 2 s" in (
        done.out
    )
    assert done.code == 2


def test_an_apply_with_nothing_to_do(live: Project) -> None:
    first, second = live.run("apply", DEMO), live.run("apply", DEMO, "--no-cache")
    read = second.out.splitlines()
    assert (second.code, read) == (0, first.out.splitlines())
    assert second.out.endswith(f"Live at {live.url}\n")


def test_an_apply_with_nothing_to_do_imports_no_gate(live: Project) -> None:
    assert "gates" not in watched(live, f"apply {DEMO}").imported


def test_an_apply_finds_what_happened_since(live: Project) -> None:
    assert live.run("apply", DEMO).out == live.run("apply", DEMO).out
    os.kill(live.server(), signal.SIGKILL)
    done = live.run("apply", DEMO, "--yes")
    assert "crashed or was killed" in done.out
    assert live.server()


def test_an_apply_waits_for_nobody_behind_its_back(live: Project) -> None:
    """What another apply holds is refused, as ever."""
    assert live.run("apply", DEMO).out == live.run("apply", DEMO).out
    lock = live.state.with_name("demo.lock")
    with live.running("apply", DEMO, "--refresh") as other:
        other.wait()
    lock.write_text("{}")
    assert live.run("apply", DEMO).code == 5


def test_a_server_that_hangs_is_not_well(live: Project) -> None:
    said = [live.run("apply", DEMO).out for _ in range(2)]
    server = live.server()
    os.kill(server, signal.SIGSTOP)
    try:
        seen = watched(live, f"plan {DEMO} --refresh")
    finally:
        os.kill(server, signal.SIGCONT)
    assert said[0] == said[1]
    assert "running, and does not answer" in seen.out
    assert live.server() == server
