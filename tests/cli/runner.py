"""A runner of GitHub's: carries out the steps of the action and of the workflows."""

import io
import json
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.cli.github import OURS, GitHub, Pull, Run, filled, holds
from tests.cli.project import KEY, Done, Project

ROOT = Path(__file__).parents[2]


@dataclass
class Runner:
    """Runs steps in a checkout, with the files and variables that GitHub gives them.

    What cannot be reached is left out: setting up Python, and `install`.
    """

    project: Project
    temp: Path
    github: GitHub
    environment: dict[str, str]
    values: dict[str, str] = field(
        default_factory=lambda: {
            "github.event.pull_request.number": "7",
            "github.token": "ghs_token",
            "runner.temp": "",
            "secrets.LLAMA_API_KEY": KEY,
        }
    )
    """What expressions find."""
    environments: tuple[str, ...] = ("production",)
    """Environments whose reviewers let a job run."""
    run: Run | None = None
    """The run of the workflow that plans, while it runs."""

    def __post_init__(self) -> None:
        """Give it the command `deployer`."""
        commands = self.temp / "bin"
        commands.mkdir(parents=True)
        (self.temp / "runner").mkdir()
        self.values["runner.temp"] = str(self.temp / "runner")
        file = commands / "deployer"
        file.write_text(f'#!/bin/sh\nexec {sys.executable} -m deployer "$@"\n')
        file.chmod(0o755)

    @property
    def step_summary(self) -> str:
        return (self.temp / "step-summary").read_text()

    def workflow(self, name: str, commit: str, **more: str) -> tuple[int, str]:
        """Exit code of the jobs of an example whose condition holds, and their log."""
        file = ROOT / "docs" / "gitops" / f"github-{name}.yml"
        known = {"github.event_name": "push", **self.values, **more}
        known["github.sha"] = commit
        (self.temp / "step-summary").write_text("")
        worst, printed = 0, ""
        for id_, job in yaml.safe_load(file.read_text())["jobs"].items():
            if not holds(job.get("if", "always()"), known):
                continue
            if job.get("environment") not in (None, *self.environments):
                continue
            code, said, values = self._job(job, dict(known))
            for output, value in job.get("outputs", {}).items():
                known[f"needs.{id_}.outputs.{output}"] = filled(value, values)
            worst, printed = worst or code, printed + said
        return worst, printed

    def _job(
        self, job: Mapping[str, Any], values: dict[str, str]
    ) -> tuple[int, str, dict[str, str]]:
        """Exit code of a job, what it printed, and what expressions find at its end."""
        code, printed = 0, ""
        env = {k: filled(v, values) for k, v in job.get("env", {}).items()}
        for step in job["steps"]:
            condition = step.get("if", "")
            if (code and "always()" not in condition) or not holds(condition, values):
                continue
            done, outputs = self._any(step, values, env)
            of = f"steps.{step.get('id')}.outputs"
            values |= {f"{of}.{k}": v for k, v in outputs.items()}
            code, printed = code or done.code, printed + done.out + done.err
        return code, printed, values

    def plan_of(self, pull: Pull, *, attempt: int = 1) -> tuple[int, str]:
        """Run the workflow that plans a pull request, as its next run or attempt."""
        if attempt == 1:
            number = max((it.id for it in self.github.runs), default=0) + 1
            run = Run(number, pull.head, pull.branch, pull.repository)
            self.github.runs.append(run)
        else:
            run = max(
                (it for it in self.github.runs if it.head == pull.head),
                key=lambda it: it.id,
            )
        run.attempt, run.conclusion = attempt, None
        self.run = run
        event = {"pull_request": {"number": pull.number, "head": {"sha": pull.head}}}
        (self.temp / "event.json").write_text(json.dumps(event))
        fork = str(pull.repository != OURS).lower()
        more = {
            "github.base_ref": "main",
            "github.event_name": "pull_request",
            "github.event.pull_request.number": str(pull.number),
            "github.event.pull_request.head.repo.fork": fork,
        }
        code, printed = self.workflow("plan", pull.head, **more)
        run.conclusion = "failure" if code else "success"
        (self.temp / "event.json").unlink()
        self.run = None
        return code, printed

    def bash(self, commands: str, env: Mapping[str, str]) -> Done:
        """Run commands as a step does."""
        return self._bash(commands, env, "")[0]

    def use(self, **inputs: str) -> tuple[int, dict[str, str], str]:
        """Exit code of the action, its outputs, and all that was printed."""
        given = {name.replace("_", "-"): value for name, value in inputs.items()}
        done, told = self._action(given, self.values, {})
        return done.code, told, done.out + done.err

    def _any(
        self, step: Mapping[str, Any], values: dict[str, str], env: Mapping[str, str]
    ) -> tuple[Done, dict[str, str]]:
        """A step of a workflow; what it uses, or what it runs."""
        given = {k: filled(v, values) for k, v in step.get("with", {}).items()}
        own = {k: filled(v, values) for k, v in step.get("env", {}).items()}
        match step.get("uses", "").partition("@")[0]:
            case "":
                return self._step(step, values, env)
            case "actions/checkout":
                # What the real one does: also what git ignores is removed.
                commands = (
                    "git fetch -q origin && git checkout -qf $0 && git clean -qffdx"
                )
                return self._bash(commands, env, values["github.sha"])
            case "actions/upload-artifact":
                return self._keep(Path(given["path"]), given["name"]), {}
            case "actions/download-artifact":
                return self._unpack(Path(given["path"]), given["name"]), {}
            case "your-organisation/deployer":
                return self._action(given | {"install": ""}, values, {**env, **own})
            case other:
                assert other == "actions/setup-python", step
                return Done(0, "", ""), {}

    def _keep(self, folder: Path, name: str) -> Done:
        files = sorted(folder.iterdir())
        archive = io.BytesIO()
        with zipfile.ZipFile(archive, "w") as made:
            for file in files:
                made.write(file, file.name)
        if files and self.run is not None:
            others = [it for it in self.run.artifacts if it[0] != name]
            self.run.artifacts = [*others, (name, archive.getvalue())]
        elif files:
            (self.temp / f"{name}.zip").write_bytes(archive.getvalue())
        return Done(0, "", "")

    def _unpack(self, folder: Path, name: str) -> Done:
        """Hand over what another job of the same run left."""
        file = self.temp / f"{name}.zip"
        if not file.exists():
            return Done(1, "", f"Artifact not found: {name}")
        with zipfile.ZipFile(file) as archive:
            archive.extractall(folder)
        return Done(0, "", "")

    def _action(
        self, given: dict[str, str], known: dict[str, str], env: Mapping[str, str]
    ) -> tuple[Done, dict[str, str]]:
        action = yaml.safe_load((ROOT / "action.yml").read_text())
        assert given.keys() <= action["inputs"].keys()
        defaults = {k: filled(v["default"], known) for k, v in action["inputs"].items()}
        values = {f"inputs.{k}": str(v) for k, v in (defaults | given).items()}
        values |= {k: v for k, v in known.items() if k.startswith("github.")}
        code, out, err = 0, "", ""
        for step in action["runs"]["steps"]:
            if not holds(step.get("if", "always()"), values):
                continue
            done, outputs = self._step(step, values, env)
            of = f"steps.{step.get('id')}.outputs"
            values |= {f"{of}.{k}": v for k, v in outputs.items()}
            code, out, err = code or done.code, out + done.out, err + done.err
        told = {k: filled(v["value"], values) for k, v in action["outputs"].items()}
        return Done(code, out, err), told

    def _step(
        self, step: Mapping[str, Any], values: dict[str, str], env: Mapping[str, str]
    ) -> tuple[Done, dict[str, str]]:
        own = {k: filled(v, values) for k, v in step.get("env", {}).items()}
        return self._bash(step["run"], {**env, **own}, values.get("github.sha", ""))

    def _bash(
        self, commands: str, env: Mapping[str, str], commit: str
    ) -> tuple[Done, dict[str, str]]:
        output = self.temp / "output"
        output.write_text("")
        path = self.project.environment({})["PATH"]
        given = {
            "PATH": f"{self.temp / 'bin'}:{path}",
            "GITHUB_ACTION_PATH": str(ROOT),
            "GITHUB_ACTIONS": "true",
            "GITHUB_ACTOR": "author",
            "GITHUB_EVENT_PATH": str(self.temp / "event.json"),
            "GITHUB_REF_NAME": "main",
            "GITHUB_RUN_ATTEMPT": str(self.run.attempt if self.run else 1),
            "GITHUB_RUN_ID": str(self.run.id if self.run else 4711),
            "GITHUB_SERVER_URL": "https://github.com",
            "GITHUB_OUTPUT": str(output),
            "GITHUB_REPOSITORY": OURS,
            "GITHUB_SHA": commit,
            "GITHUB_STEP_SUMMARY": str(self.temp / "step-summary"),
            "RUNNER_TEMP": str(self.temp / "runner"),
            **self.environment,
            **env,
        }
        done = subprocess.run(
            ["/bin/bash", "-e", "-o", "pipefail", "-c", commands, commit],
            cwd=self.project.folder,
            env=self.project.environment(given),
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        pairs = (line.split("=", 1) for line in output.read_text().splitlines())
        return Done(done.returncode, done.stdout, done.stderr), dict(pairs)
