"""From a pull request to a healthy server: the example workflows, carried out.

A repository with an origin, a developer's clone and the checkout of a runner; the real
`gh` asks a GitHub on loopback, and the server that is deployed is real.
"""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests.cli.github import GH, github
from tests.cli.project import Project
from tests.cli.runner import Runner

WATCH_DRIFT = {"github.event.schedule": "17 * * * *"}
WATCH_RESTORE = {"github.event.schedule": "43 3 * * *"}


@dataclass
class Team:
    """A developer, and the runner that serves what was merged."""

    developer: Project
    runner: Runner

    @property
    def stack(self) -> Path:
        return self.developer.stack

    def git(self, *lines: str) -> str:
        """Run lines of git in the developer's clone; returns the last commit."""
        for line in (*lines, "rev-parse HEAD"):
            who = "-c user.name=t -c user.email=t@t -c advice.detachedHead=false"
            done = self.developer.shell(f"git {who} {line}")
            assert done.code == 0, done.err
        return done.out.strip()

    def propose(self, message: str) -> str:
        """Push a pull request of the work in the clone, and run its plan."""
        head = self.git(
            "checkout -q -B work origin/main",
            "add -A",
            f"commit -qm {message}",
            "push -qf origin work",
        )
        more = {"github.base_ref": "main"}
        code, printed = self.runner.workflow("plan", head, **more)
        assert code == 0, printed
        return head

    def merge(self, head: str) -> tuple[int, str]:
        """Merge a pull request, and run what runs on main."""
        before = self.git("checkout -q -B main origin/main")
        commit = self.git(f"merge -q --no-ff -m merged {head}", "push -q origin main")
        self.runner.github.heads[commit] = head
        return self.runner.workflow("apply", commit, **{"github.event.before": before})

    def watch(self, schedule: dict[str, str]) -> tuple[int, str]:
        """Run what runs by the clock."""
        self.git("fetch -q")
        commit = self.git("checkout -q -B main origin/main")
        return self.runner.workflow("watch", commit, **schedule)

    def edit(self, old: str, new: str) -> None:
        self.stack.write_text(self.stack.read_text().replace(old, new))


@pytest.fixture
def team(project: Project, tmp_path: Path) -> Iterator[Team]:
    """A stack on main that is live; its state lies outside of the checkouts."""
    origin, clone, work = (tmp_path / name for name in ("origin.git", "clone", "work"))
    (project.folder / ".gitignore").write_text(".deployer/\n")
    states = f"file://{tmp_path}/states"
    shutil.copytree(project.folder, clone, ignore=shutil.ignore_patterns("home"))
    developer = replace(project, folder=clone)
    setup = (
        f"git init -q -b main && git add -A && git -c user.name=t -c user.email=t@t"
        f" commit -qm stack && git clone -q --bare . {origin} && git remote add origin"
        f" {origin} && git fetch -q && git clone -q {origin} {work}"
    )
    assert developer.shell(setup).code == 0
    serving = replace(project, folder=work)
    words = ("apply", "stacks/demo.yaml", "--yes")
    done = serving.run(*words, env={"DEPLOYER_STATE_URL": states})
    assert done.code == 0, done.err
    with github() as (fake, variables):
        runner = Runner(serving, tmp_path / "github", fake, variables)
        runner.values["vars.DEPLOYER_STATE_URL"] = states
        yield Team(developer, runner)


if GH:

    def test_a_change_is_planned_approved_applied_and_watched(team: Team) -> None:
        """Exactly the plan that was read; and what moves afterwards is seen."""
        before = team.runner.project.server()
        team.edit("ctx_size: 1024", "ctx_size: 512")
        head = team.propose("smaller")
        (comment,) = team.runner.github.plans
        assert "-     server.ctx_size: 1024\n+     server.ctx_size: 512" in comment
        assert "no recorded state" not in comment

        code, printed = team.merge(head)
        assert code == 0, printed
        assert "#### deployer apply: 1 changed, 0 failed" in team.runner.step_summary
        assert "    ✔ chat: answered " in team.runner.step_summary
        assert "    stacks/demo.yaml: release 2, http://" in team.runner.step_summary
        assert team.runner.project.server() != before
        assert len(team.runner.github.plans) == 1

        assert team.watch(WATCH_DRIFT)[0] == 0
        team.runner.project.end()
        code, printed = team.watch(WATCH_DRIFT)
        assert code == 1
        assert "::error::servers drifted from what was deployed" in printed
        told = "    stacks/demo.yaml: demo/server: crashed or was killed"
        assert told in team.runner.step_summary

    def test_the_second_of_two_merges_is_stale_and_says_so(team: Team) -> None:
        """Both plans were read before either was merged."""
        team.edit("ctx_size: 1024", "ctx_size: 512")
        first = team.propose("smaller")
        team.git("checkout -q main")
        team.edit("metrics: true", "metrics: false")
        second = team.propose("quieter")

        assert team.merge(first)[0] == 0
        live = team.runner.project.server()
        code, printed = team.merge(second)
        assert code == 7
        assert "error: the plan is stale: " in printed
        assert "hint: plan again: `deployer plan stacks/demo.yaml" in printed
        assert "::error title=deployer::" in printed
        assert "#### deployer apply: 0 changed, 1 failed" in team.runner.step_summary
        assert "    error: the plan is stale" in team.runner.step_summary
        assert team.runner.project.server() == live

    def test_a_stack_that_is_gone_is_destroyed_by_hand_only(team: Team) -> None:
        """The comment says destroy; a merge leaves it, fails, and says the command."""
        team.stack.unlink()
        head = team.propose("gone")
        assert "1 would be destroyed" in team.runner.github.plans[0]

        code, printed = team.merge(head)
        assert code == 1
        assert "::warning::no plan was approved for " in printed
        assert "::error::not all of what was merged is applied" in printed
        assert team.runner.project.servers()
        (line,) = (it for it in team.runner.step_summary.splitlines() if "Next: " in it)
        command = line.split("`")[1].removeprefix("deployer ").split()
        states = {"DEPLOYER_STATE_URL": team.runner.values["vars.DEPLOYER_STATE_URL"]}
        done = team.runner.project.run(*command, "--yes", env=states)
        assert done.code == 0, done.err
        assert team.runner.project.servers() == set()

    def test_the_restore_gate_runs_by_the_clock(team: Team) -> None:
        """A file that was renamed is the same stack, and its verdict is told."""
        team.git(
            "mv stacks/demo.yaml stacks/prod.yaml",
            "commit -qm named",
            "push -q origin main",
        )
        code, printed = team.watch(WATCH_RESTORE)
        assert code == 6
        assert "does not pass: inconclusive `restore`" in printed
        assert "this server was started without a snapshot" in team.runner.step_summary
