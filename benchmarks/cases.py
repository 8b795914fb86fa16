"""All cases, in the order in which they are run."""

import contextlib
import io
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import cast

from benchmarks.result import Result, Run


@dataclass(frozen=True, slots=True)
class Case:
    """What is measured, and what it needs."""

    about: str
    measures: str
    """`module:function`, of `benchmarks`: takes a `Run`, gives a `Result`.

    A module alone is a script with a `main()`: what it prints is the result.
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
        "a plan without changes, beside other tools",
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
    "serving": Case(
        "tokens a second through a stack and by hand",
        "serving:serving",
        stacks=True,
        offline=False,
    ),
    "gates": Case(
        "all gates, one after the other and side by side", "gates:gates", stacks=True
    ),
    "render": Case("rendering a stack for Modal", "render:render"),
    "pull_request": Case("the plan of a pull request", "pull_request:pull_request"),
    "plan": Case("plan and validate beside bare imports", "plan"),
}


def measure(run: Run) -> Result:
    """Run a case."""
    case = CASES[run.case]
    module, _, function = case.measures.partition(":")
    found = import_module(f"benchmarks.{module}")
    if not function:
        return _script(found.main, case)
    return cast("Callable[[Run], Result]", getattr(found, function))(run)


def _script(main: Callable[[], object], case: Case) -> Result:
    """What a script prints: a text, or Markdown where it holds a table."""
    printed = io.StringIO()
    sys.argv[1:] = []  # of the case; a script may have options of its own
    with contextlib.redirect_stdout(printed):
        main()
    title = case.about[:1].upper() + case.about[1:]
    return Result(title, about=(), tables=(), text=printed.getvalue())
