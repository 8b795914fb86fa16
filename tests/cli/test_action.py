"""The GitHub action, without GitHub: its shell steps run as they stand, for real.

A fake `gh` is a program that keeps the comments of a pull request in a file, or
refuses as GitHub does for the token of a fork.
"""

import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cli.project import Done, Project

ROOT = Path(__file__).parents[2]
GH = """\
#!/usr/bin/env python3
import os, re, sys
from pathlib import Path
words = sys.argv[1:]
if os.environ.get("GH_REFUSES"):
    sys.exit("HTTP 403: Resource not accessible by integration")
comments = Path(os.environ["GH_COMMENTS"])
comments.mkdir(exist_ok=True)
if "--method" not in words:
    assert words[1] == "repos/o/r/issues/7/comments", words
    known = sorted(comments.iterdir())
    marked = (c.name for c in known if "<!-- deployer:plan -->" in c.read_text())
    print("\\n".join(marked))
    sys.exit()
body = Path(words[words.index("-F") + 1].removeprefix("body=@")).read_text()
if words[words.index("--method") + 1] == "POST":
    number = str(1 + len(list(comments.iterdir())))
else:
    number = re.fullmatch("repos/o/r/issues/comments/(.*)", words[4])[1]
(comments / number).write_text(body)
"""


@dataclass
class Runner:
    """Runs the steps of `action.yml` as a runner of GitHub does."""

    project: Project
    temp: Path
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def comments(self) -> list[str]:
        folder = self.temp / "comments"
        return [file.read_text() for file in sorted(folder.glob("*"))]

    @property
    def step_summary(self) -> str:
        return (self.temp / "step-summary").read_text()

    def use(self, **inputs: str) -> tuple[int, dict[str, str], str]:
        """Exit code of the job, outputs of the action, and all that was printed."""
        action = yaml.safe_load((ROOT / "action.yml").read_text())
        given = {k: v["default"] for k, v in action["inputs"].items()}
        given |= {name.replace("_", "-"): value for name, value in inputs.items()}
        values = {f"inputs.{name}": str(value) for name, value in given.items()}
        values["github.event.pull_request.number"] = "7"
        code, printed = 0, ""
        for step in action["runs"]["steps"]:
            if not _holds(step.get("if", "always()"), values):
                continue
            done, outputs = self._step(step, values)
            values |= {
                f"steps.{step.get('id')}.outputs.{k}": outputs[k] for k in outputs
            }
            printed += done.out + done.err
            code = code or done.code
        told = {k: _filled(v["value"], values) for k, v in action["outputs"].items()}
        return code, told, printed

    def _step(
        self, step: Mapping[str, Any], values: Mapping[str, str]
    ) -> tuple[Done, dict[str, str]]:
        output = self.temp / "output"
        output.write_text("")
        own = {k: _filled(v, values) for k, v in step.get("env", {}).items()}
        done = subprocess.run(
            ["/bin/bash", "-e", "-o", "pipefail", "-c", step["run"]],
            cwd=self.project.folder,
            env=self.project.environment({**self._variables(output), **own}),
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        pairs = (line.split("=", 1) for line in output.read_text().splitlines())
        found = dict(pair for pair in pairs)
        return Done(done.returncode, done.stdout, done.stderr), found

    def _variables(self, output: Path) -> dict[str, str]:
        path = self.project.environment({})["PATH"]
        return {
            "PATH": f"{self.temp / 'bin'}:{path}",
            "GITHUB_ACTION_PATH": str(ROOT),
            "GITHUB_OUTPUT": str(output),
            "GITHUB_REPOSITORY": "o/r",
            "GITHUB_STEP_SUMMARY": str(self.temp / "step-summary"),
            "GH_COMMENTS": str(self.temp / "comments"),
            "RUNNER_TEMP": str(self.temp / "runner"),
            **self.environment,
        }


def _filled(text: str, values: Mapping[str, str]) -> str:
    return re.sub(r"\$\{\{ *(.*?) *\}\}", lambda m: values.get(m[1], ""), str(text))


def _holds(condition: str, values: Mapping[str, str]) -> bool:
    terms = [t for t in condition.split(" && ") if t != "always()"]
    found = [re.fullmatch(r"(\S+) (==|!=) '(.*)'", term) for term in terms]
    return all(m and (values.get(m[1], "") == m[3]) is (m[2] == "==") for m in found)


def _runner(project: Project, temp: Path) -> Runner:
    commands = temp / "bin"
    commands.mkdir(parents=True)
    (temp / "runner").mkdir()
    programs = {
        "gh": GH,
        "deployer": f'#!/bin/sh\nexec {sys.executable} -m deployer "$@"\n',
    }
    for name, text in programs.items():
        (commands / name).write_text(text)
        (commands / name).chmod(0o755)
    (project.folder / ".gitignore").write_text("home/\n.deployer/\n")
    shell = (
        "git init -q && git add -A && git -c user.name=t -c user.email=t@t commit -qm 1"
    )
    assert project.shell(shell).code == 0
    return Runner(project, temp)


@pytest.fixture
def on_paper(paper: Project, tmp_path: Path) -> Runner:
    return _runner(paper, tmp_path / "github")


def test_plan_on_a_pull_request_and_apply_on_merge(
    live: Project, tmp_path: Path
) -> None:
    """The whole way: plan, one comment, the saved plan applied, drift seen."""
    runner = _runner(live, tmp_path / "github")
    text = live.stack.read_text()
    live.stack.write_text(text.replace("ctx_size: 1024", "ctx_size: 512"))

    code, told, _ = runner.use(command="plan", changed_since="HEAD")
    assert (code, told["changes"], told["exit-code"]) == (0, "true", "2")
    assert told["summary"] == "#### deployer plan: 1 of 1 stack would change"
    runner.use(command="plan", changed_since="HEAD")
    (comment,) = runner.comments
    assert "-     server.ctx_size: 1024\n+     server.ctx_size: 512" in comment
    assert comment in runner.step_summary
    saved = tmp_path / "downloaded"
    Path(told["plan-file"]).rename(saved)

    code, told, printed = runner.use(command="apply", plan_files=str(saved))
    assert code == 0, printed
    assert told["summary"] == "#### deployer apply: 1 changed, 0 failed"
    code, told, printed = runner.use(command="apply", plan_files=str(saved))
    assert (code, told["exit-code"]) == (7, "7"), printed  # merged twice: it is stale

    assert runner.use(command="drift")[1]["changes"] == "false"
    live.end()
    assert runner.use(command="drift")[1]["changes"] == "true"


def test_a_wrong_stack_is_annotated_and_fails_the_job(on_paper: Runner) -> None:
    stack = on_paper.project.stack
    stack.write_text(stack.read_text().replace("server:", "sever:"))
    code, told, printed = on_paper.use(command="plan", changed_since="HEAD")
    assert (code, told["exit-code"]) == (3, "3")
    assert "::error file=stacks/demo.yaml,line=13,col=1,title=deployer::" in printed
    assert "1 cannot be planned" in on_paper.comments[0]


def test_a_fork_may_not_comment_and_the_summary_has_the_plan(on_paper: Runner) -> None:
    stack = on_paper.project.stack
    stack.write_text(stack.read_text().replace("1024", "512"))
    on_paper.environment["GH_REFUSES"] = "1"
    code, _, printed = on_paper.use(command="plan", changed_since="HEAD")
    assert code == 0
    assert "::warning::the comment was refused; the plan is in the summary" in printed
    assert "no recorded state here of stacks/demo.yaml" in on_paper.step_summary


def test_an_unknown_command_is_refused(on_paper: Runner) -> None:
    code, _, printed = on_paper.use(command="deploy")
    assert code == 3
    assert "::error::there is no command `deploy`" in printed
