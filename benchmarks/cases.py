"""All cases, in the order in which they are run."""

import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import cast

from benchmarks.processes import MeasureError
from benchmarks.result import Result, Run


@dataclass(frozen=True, slots=True)
class Case:
    """What is measured, and what it needs."""

    about: str
    measures: str
    """`module:function`, of `benchmarks`: takes a `Run`, gives a `Result`.

    A module alone is a script: what it prints is the result.
    """
    stacks: bool = False
    """Needs llama-server and the model in the store."""
    snapshots: bool = False
    """Takes snapshots, where this machine can."""
    peers: bool = False
    """Compares with other tools, where they are wanted."""
    offline: bool = True
    """Runs with the network out of reach, where that is allowed."""


CASES: Mapping[str, Case] = {
    "helps": Case("`--help` of everybody", "commands:helps", peers=True),
    "plans": Case(
        "a plan without changes that asks the live server, beside other tools",
        "commands:plans",
        stacks=True,
        peers=True,
    ),
    "commands": Case("every reading command", "commands:commands", stacks=True),
    "start": Case(
        "start to first token: cold, warm, restored, and by hand",
        "start:start",
        stacks=True,
        snapshots=True,
        offline=False,
    ),
    "agent": Case(
        "the first answer to an agent's prompt: cold, warm, restored",
        "agent:agent",
        stacks=True,
        snapshots=True,
        offline=False,
    ),
    "serving": Case(
        "tokens a second through a stack and by hand",
        "serving:serving",
        stacks=True,
        offline=False,
    ),
    "drafting": Case(
        "tokens a second with and without a draft",
        "drafting:drafting",
        stacks=True,
        offline=False,
    ),
    "gates": Case(
        "all gates, one after the other and side by side", "gates:gates", stacks=True
    ),
    "chat_gates": Case(
        "the gates of a chat model, beside those of the commit before them",
        "chat_gates:chat_gates",
        stacks=True,
    ),
    "render": Case("rendering a stack for Modal", "render:render"),
    "pull_request": Case("the plan of a pull request", "pull_request:pull_request"),
    "plan": Case("plan and validate, everything read or prepared before", "plan"),
    "many": Case("plan and validate of 1 to 1,000 stacks", "many"),
    "fetching": Case("downloads and headers over a slow network", "fetching"),
    "verify": Case("weights that did not change", "verify"),
    "editor": Case("answers of the language server after an edit", "editor"),
}


def measure(run: Run) -> Result:
    """Run a case; raises MeasureError where it fails."""
    case = CASES[run.case]
    module, _, function = case.measures.partition(":")
    if not function:
        return _script(f"benchmarks.{module}", case)
    found = getattr(import_module(f"benchmarks.{module}"), function)
    return cast("Callable[[Run], Result]", found)(run)


def _script(module: str, case: Case) -> Result:
    """What a script prints: a text, or Markdown where it holds a table."""
    argv = (sys.executable, "-m", module)
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        raise MeasureError(f"`python -m {module}` failed: {done.stderr[-500:]}")
    title = case.about[:1].upper() + case.about[1:]
    return Result(title, about=(), tables=(), text=done.stdout)
