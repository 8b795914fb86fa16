"""The GitHub action: its steps run as they stand, with the real `gh`, without GitHub.

They are there where `gh` is installed: `.ci/run` sees to it where it may, and says so
where it may not.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from deployer.state.files import FileStateStore
from tests.cli.github import BOT, GH, github
from tests.cli.project import Project
from tests.cli.runner import Runner

MARKER = "<!-- deployer:plan -->"
REFUSALS = (
    (403, "Resource not accessible by integration"),
    (403, "API rate limit exceeded for installation ID 1."),
    (404, "Not Found"),
    (422, "Validation Failed"),
    (429, "You have exceeded a secondary rate limit"),
)


@pytest.fixture
def runner(paper: Project, tmp_path: Path) -> Iterator[Runner]:
    """A runner with a checkout of a stack that cannot run, one value of it changed."""
    (paper.folder / ".gitignore").write_text("home/\n.deployer/\n")
    assert paper.shell(commit("stack")).code == 0
    edit(paper, "alias: tiny", "alias: other")
    with github() as (fake, variables):
        yield Runner(paper, tmp_path / "github", fake, variables)


def commit(message: str) -> str:
    who = "-c user.name=t -c user.email=t@t"
    return f"git init -q && git add -A && git {who} commit -qm {message}"


def edit(project: Project, old: str, new: str) -> None:
    project.stack.write_text(project.stack.read_text().replace(old, new))


def plan(runner: Runner) -> tuple[int, dict[str, str], str]:
    return runner.use(command="plan", changed_since="HEAD")


def warned(printed: str) -> str:
    (line,) = (it for it in printed.splitlines() if it.startswith("::warning"))
    return line


def failed(printed: str) -> str:
    (line,) = (it for it in printed.splitlines() if it.startswith("::error"))
    return line


def test_a_wrong_stack_is_annotated_and_fails_the_job(runner: Runner) -> None:
    edit(runner.project, "server:", "sever:")
    code, told, printed = plan(runner)
    assert (code, told["exit-code"]) == (3, "3")
    assert "::error file=stacks/demo.yaml,line=13,col=1,title=deployer::" in printed


def test_more_problems_than_github_shows_end_in_a_word_about_them(
    runner: Runner,
) -> None:
    """GitHub drops all but ten annotations of a step, and says nothing."""
    wrong = "".join(f"\n  unknown_{number}: 1" for number in range(30))
    edit(runner.project, "server:", f"server:{wrong}")
    _, _, printed = plan(runner)
    told = [line for line in printed.splitlines() if line.startswith("::error")]
    assert len(told) == 10
    assert told[-1].endswith("::GitHub shows no more here: the log has all problems")
    assert printed.count("`unknown_29`") == 1


def test_an_unknown_command_is_refused(runner: Runner) -> None:
    code, _, printed = runner.use(command="deploy")
    assert code == 3
    assert "::error::there is no command `deploy`" in printed


def test_a_checkout_without_history_says_what_to_do(runner: Runner) -> None:
    """As a checkout of GitHub's is without `fetch-depth: 0`: one commit, no branch."""
    shallow = runner.project.folder / "shallow"
    clone = f"git clone -q --depth 1 file://{runner.project.folder} {shallow}"
    assert runner.project.shell(clone).code == 0
    runner.project = Project(
        shallow, runner.project.home, runner.project.port, runner.project.binary
    )
    code, told, printed = runner.use(command="plan", changed_since="HEAD~1")
    assert (code, told["exit-code"]) == (3, "3")
    assert told["summary"] == "#### deployer plan: failed, exit 3"
    assert "`fetch-depth: 0` where CI checks it out" in runner.step_summary
    assert "git says: Needed a single revision, and this clone is shallow" in printed


def test_two_paths_are_applied_one_after_the_other(runner: Runner) -> None:
    """Each is told by itself, and the worst code is the code."""
    code, told, printed = runner.use(command="apply", paths="nowhere also-nowhere")
    assert (code, told["exit-code"]) == (3, "3")
    assert told["summary"] == "#### deployer apply: 0 changed, 2 failed"
    for name in ("nowhere", "also-nowhere"):
        assert re.search(rf"^    .*{name}.*$", runner.step_summary, re.MULTILINE)
    assert "::error file=nowhere,line=1,col=1,title=deployer::" in printed


def test_an_apply_beside_another_ends_at_the_lock_and_says_whose(
    runner: Runner,
) -> None:
    """The first of two merges is still at work."""
    store = FileStateStore(runner.project.state.parent, "demo")
    with store.lock(operation="apply"):
        code, told, printed = runner.use(command="apply", paths="stacks/demo.yaml")
    assert (code, told["exit-code"]) == (5, "5")
    assert told["summary"] == "#### deployer apply: 0 changed, 1 failed"
    (line,) = (it for it in printed.splitlines() if it.startswith("::error"))
    assert "error: `demo` is locked by " in line
    assert line.endswith(" for apply")
    assert "    error: `demo` is locked by " in runner.step_summary


def test_a_fork_plans_without_state_and_without_asking(runner: Runner) -> None:
    """It has no secret; where the states lie is not asked at all."""
    runner.values["github.event.pull_request.head.repo.fork"] = "true"
    runner.environment["DEPLOYER_STATE_URL"] = "s3://team/states?region=eu-west-1"
    code, told, printed = plan(runner)
    assert code == 0, printed
    assert told["changes"] == "true"
    assert (
        "- `the state was not read (--without-state) of stacks/demo.yaml:"
        " all of it counts as new`"
    ) in runner.step_summary
    assert not list(Path(told["plan-file"]).iterdir())


def comment(runner: Runner, text: str, *, code: int = 0, fork: bool = False) -> str:
    """What the step that comments prints for a plan."""
    file = runner.temp / "runner" / "deployer" / "comment.md"
    file.parent.mkdir(exist_ok=True)
    file.write_text(f"{text}\n{MARKER}\n")
    env = {"GH_TOKEN": "ghs_token", "NUMBER": "7", "FORK": str(fork).lower()}
    done = runner.bash('bash "$GITHUB_ACTION_PATH/action/comment.sh"', env)
    assert done.code == code, done.err
    return done.out


if GH:

    def test_one_comment_is_kept_and_nobody_elses_is_touched(runner: Runner) -> None:
        """Also not one with the marker, and also where there are many pages of them."""
        others = {n: ("somebody", f"{MARKER} {n}") for n in range(1, 131)}
        runner.github.comments.update(others)
        assert plan(runner)[0] == 0
        (first,) = runner.github.plans
        assert "127.0.0.1" in first
        assert first in runner.step_summary
        assert comment(runner, "newer") == ""
        assert runner.github.plans == [f"newer\n{MARKER}\n"]
        assert {n: runner.github.comments[n] for n in others} == others

    def test_a_refused_comment_fails_the_job_and_says_why(runner: Runner) -> None:
        """An old plan would stand there; for a fork none can be written."""
        runner.github.comments[1] = (BOT, MARKER)
        for status, message in REFUSALS:
            runner.github.faults.append(("PATCH", status, message))
            text = (
                f"the plan is in the summary of this job: gh: {message} (HTTP {status})"
            )
            assert text in failed(comment(runner, "new", code=1))
            runner.github.faults.append(("PATCH", status, message))
            assert text in warned(comment(runner, "new", fork=True))
        assert runner.github.plans == [MARKER]

    def test_a_comment_that_failed_once_is_written_once(runner: Runner) -> None:
        runner.github.faults.append(("POST", 502, "Bad Gateway"))
        assert comment(runner, "new") == ""
        assert len(runner.github.plans) == 1

    def test_an_api_that_is_down_fails_the_job(runner: Runner) -> None:
        runner.github.faults.extend([("POST", 503, "Unavailable")] * 3)
        assert "(HTTP 503)" in failed(comment(runner, "new", code=1))
        assert runner.github.plans == []


def test_without_gh_the_summary_has_the_plan(runner: Runner, tmp_path: Path) -> None:
    """As on a runner of one's own."""
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "bash").symlink_to(runner.project.shell("command -v bash").out.strip())
    runner.environment["PATH"] = str(tools)
    said = failed(comment(runner, "new", code=1))
    assert "`gh` is not installed on this runner" in said


def test_a_gate_that_held_an_apply_back_is_told_with_what_it_saw(
    runner: Runner,
) -> None:
    folder = runner.project.folder
    verdict = {"type": "verdict", "gate": "speed", "outcome": "fail"}
    events = [
        {"type": "version"},
        {**verdict, "outcome": "pass", "gate": "chat", "because": "answered `hi`"},
        {**verdict, "because": "3 tokens/s, 50 % of what it may"},
        {"type": "error"},
    ]
    (folder / "events").write_text("".join(f"{json.dumps(it)}\n" for it in events))
    (folder / "said").write_text("a.yaml:3:1: error: no\n  hint: yes\n")
    tell = 'python3 "$GITHUB_ACTION_PATH/action/tell.py" applied 6 said <events'
    done = runner.bash(tell, {})
    assert done.out == (
        "#### deployer apply: 0 changed, 1 failed\n\n"
        "    ✔ chat: answered `hi`\n"
        "    ✖ speed: 3 tokens/s, 50 % of what it may\n"
        "    a.yaml:3:1: error: no\n"
        "      hint: yes\n"
    )
    assert done.err == (
        "::error file=a.yaml,line=3,col=1,title=deployer::no\n"
        "::error title=deployer::✖ speed: 3 tokens/s, 50 %25 of what it may\n"
    )


def test_a_huge_summary_is_cut_and_says_so(runner: Runner) -> None:
    """GitHub drops one of more than 1 MiB, of which a comment takes 64,000 at most."""
    lines = "".join(f"stacks/{n}.yaml: pid {n} is gone 🦙\n" for n in range(40_000))
    (runner.project.folder / "said").write_text(lines)
    command = 'python3 "$GITHUB_ACTION_PATH/action/tell.py" said "#### found" <said'
    told = runner.bash(command, {}).out
    assert 890_000 < len(told.encode()) < (1 << 20) - 65_536
    first, *_, last = told.splitlines()
    assert first == "#### found"
    shown = told.count("    stacks/")
    assert last == f"{40_000 - shown} more lines are in the log of this job."
