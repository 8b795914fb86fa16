"""From a pull request to a healthy server: the example workflows, carried out.

A repository with an origin, a developer's clone and the checkout of a runner; the real
`gh` asks a GitHub on loopback, and the server that is deployed is real.
"""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests.cli.github import GH, Pull, github
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

    def propose(self, message: str, number: int = 7, *, approve: bool = True) -> Pull:
        """Push a pull request of the work in the clone, and run its plan."""
        branch = f"work-{number}"
        head = self.git(
            f"checkout -q -B {branch} origin/main",
            "add -A",
            f"commit -qm {message}",
            f"push -qf origin {branch}",
        )
        self.git("checkout -q main")
        pull = Pull(number, head, branch)
        self.runner.github.pulls[number] = pull
        code, printed = self.runner.plan_of(pull)
        assert code == 0, printed
        if approve:
            pull.approve()
        return pull

    def merge(self, pull: Pull, how: str = "--no-ff") -> str:
        """Merge a pull request in one of GitHub's ways; returns the new commit."""
        self.git("fetch -q", "checkout -q -B main origin/main")
        if how == "rebase":
            self.git(f"cherry-pick {pull.head}")
        else:
            self.git(f"merge -q {how} -m merged {pull.head}")
        if how == "--squash":
            self.git("commit -qm squashed")
        pull.merged = self.git("push -q origin main")
        return pull.merged

    def apply(self, commit: str) -> tuple[int, str]:
        """Run what runs on main after a merge."""
        before = self.git(f"checkout -q {commit}~1")
        self.git("checkout -q main")
        return self.runner.workflow("apply", commit, **{"github.event.before": before})

    def merged(self, pull: Pull, how: str = "--no-ff") -> tuple[int, str]:
        """Merge, and apply."""
        return self.apply(self.merge(pull, how))

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
        pull = team.propose("smaller")
        (comment,) = team.runner.github.plans
        assert "-     server.ctx_size: 1024\n+     server.ctx_size: 512" in comment
        assert "no recorded state" not in comment
        assert "- `at the merge: deployer-apply.yml applies these changes" in comment
        page = "https://github.com/o/r/actions/runs/1/attempts/1"
        assert f"<sub>deployer · commit `{pull.head}` · plan `" in comment
        assert f" · [run]({page}) · " in comment

        code, printed = team.merged(pull)
        assert code == 0, printed
        assert "#### deployer apply: 1 changed, 0 failed" in team.runner.step_summary
        assert "    ✔ chat: answered " in team.runner.step_summary
        assert "    stacks/demo.yaml: release 2, http://" in team.runner.step_summary
        assert team.runner.project.server() != before
        (result,) = team.runner.github.results_of(7)
        assert "#### deployer apply: 1 changed, 0 failed" in result
        assert len(team.runner.github.plans) == 1

        assert team.watch(WATCH_DRIFT)[0] == 0
        team.runner.project.end()
        code, printed = team.watch(WATCH_DRIFT)
        assert code == 1
        assert "::error::servers drifted from what was deployed" in printed
        told = "    stacks/demo.yaml: demo/server: crashed or was killed"
        assert told in team.runner.step_summary

    def test_of_two_merges_each_is_applied_though_the_state_moved_on(
        team: Team,
    ) -> None:
        """Both plans were read before either was merged; the changes are the same."""
        team.edit("ctx_size: 1024", "ctx_size: 512")
        first = team.propose("smaller", 7)
        team.edit("metrics: true", "metrics: false")
        second = team.propose("quieter", 8)
        assert team.merged(first, "--squash")[0] == 0
        code, printed = team.merged(second, "rebase")
        assert code == 0, printed
        assert "    stacks/demo.yaml: release 3, http://" in team.runner.step_summary

    def test_a_run_that_was_cancelled_is_made_up_for_by_the_next(team: Team) -> None:
        team.edit("ctx_size: 1024", "ctx_size: 512")
        first = team.propose("smaller", 7)
        team.edit("metrics: true", "metrics: false")
        second = team.propose("quieter", 8)
        team.merge(first)  # and its run never begins
        code, printed = team.merged(second)
        assert code == 0, printed
        assert "release 2, http://" in team.runner.step_summary

    def test_what_nobody_approved_is_left_and_asks_in_the_environment(
        team: Team,
    ) -> None:
        team.edit("ctx_size: 1024", "ctx_size: 512")
        pull = team.propose("smaller", approve=False)
        live = team.runner.project.server()
        code, printed = team.merged(pull)
        assert code == 7
        assert (
            "::warning title=deployer::pull request 7: nobody approved its" in printed
        )
        assert "error: not approved: `server.ctx_size` 1024 → 512" in printed
        assert "+     server.ctx_size: 512" in team.runner.step_summary
        assert team.runner.project.server() == live
        assert "not approved" in team.runner.github.results_of(7)[0]

        team.runner.environments += ("production-confirm",)
        code, printed = team.apply(pull.merged)
        assert code == 7  # of the first job
        assert "release 2, http://" in team.runner.step_summary
        assert team.runner.project.server() != live

    def test_a_push_after_the_approval_is_not_approved(team: Team) -> None:
        team.edit("ctx_size: 1024", "ctx_size: 512")
        pull = team.propose("smaller")
        team.edit("ctx_size: 1024", "ctx_size: 256")
        again = team.propose("smaller-still", approve=False)
        again.reviews = pull.reviews
        code, printed = team.merged(again)
        assert code == 7
        assert "nobody approved its last commit" in printed

    def test_the_approval_of_a_stranger_is_none(team: Team) -> None:
        team.edit("ctx_size: 1024", "ctx_size: 512")
        pull = team.propose("smaller", approve=False)
        pull.approve("stranger")
        code, printed = team.merged(pull)
        assert code == 7
        assert "nobody approved its last commit" in printed

    def test_more_reviews_than_are_read_approve_nothing(team: Team) -> None:
        team.edit("ctx_size: 1024", "ctx_size: 512")
        pull = team.propose("smaller")
        pull.reviews += [("reviewer", "COMMENTED", pull.head)] * 99
        code, printed = team.merged(pull)
        assert code == 7
        assert "it has more reviews than are read" in printed

    def test_a_plan_that_was_changed_after_it_was_shown_counts_for_nothing(
        team: Team,
    ) -> None:
        team.edit("ctx_size: 1024", "ctx_size: 512")
        pull = team.propose("smaller")
        ((number, (author, body)),) = team.runner.github.comments.items()
        team.runner.github.comments[number] = (author, body.replace("512", "768"))
        code, printed = team.merged(pull)
        assert code == 7
        assert "pull request 7: the comment does not show what its plans" in printed

    def test_a_fork_with_the_same_head_brings_no_plan(team: Team) -> None:
        """Its run has the commit, and nothing else of what is asked for."""
        team.edit("ctx_size: 1024", "ctx_size: 512")
        pull = team.propose("smaller")
        mine = team.runner.github.runs[0]
        theirs = replace(mine, id=9, repository="stranger/r", branch="work-7")
        team.runner.github.runs.append(theirs)
        other = replace(mine, id=10, event="push")
        older = replace(mine, id=11, path=".github/workflows/other.yml")
        team.runner.github.runs += [other, older]
        assert team.merged(pull)[0] == 0

    def test_a_second_attempt_replaces_the_plans_of_the_first(team: Team) -> None:
        team.edit("ctx_size: 1024", "ctx_size: 512")
        pull = team.propose("smaller")
        ((name, first),) = team.runner.github.runs[0].artifacts
        assert team.runner.plan_of(pull, attempt=2)[0] == 0
        ((_, second),) = team.runner.github.runs[0].artifacts
        assert first != second
        team.runner.github.runs[0].artifacts = [(name, first)]
        code, printed = team.merged(pull)
        assert code == 7
        assert "is of another run, or attempt" in printed
        team.runner.github.runs[0].artifacts = [(name, second)]
        code, printed = team.apply(pull.merged)
        assert code == 0, printed

    def test_a_stack_that_is_gone_is_destroyed_by_hand_only(team: Team) -> None:
        """The comment says destroy; a merge leaves it, fails, and says the command."""
        team.stack.unlink()
        pull = team.propose("gone")
        assert "1 would be destroyed" in team.runner.github.plans[0]
        code, printed = team.merged(pull)
        assert code == 7
        told = "not approved: `demo` is live, and no stack file asks for it"
        assert told in printed
        assert "run `deployer destroy stacks/demo.yaml`" in printed
        assert team.runner.project.servers()

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
