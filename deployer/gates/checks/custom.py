"""Gate custom: a command or a Python function of the user's own, and its verdict.

It runs in the folder of the stack without a shell, with few variables: `DEPLOYER_URL`,
`DEPLOYER_API_KEY`, `DEPLOYER_GATE`, and what every program gets (`system.children`).
It has to end with exit code 0, and its whole standard output has to be one JSON object
such as
`{"outcome": "pass", "because": "it answers in French", "figures": {"score": 0.9}}`.
A function returns that object; it is a command too (see `python_runner`), because
what a pull request wrote must not run in the process that holds everybody's keys.
"""

import asyncio
import os
import shlex
import signal
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Annotated, Final, Literal

from pydantic import ConfigDict, Field, ValidationError

from deployer.gates.harness.answers import (
    Judgement,
    Shape,
    excerpt,
    first_problem,
    unmeasured,
)
from deployer.gates.harness.client import Client
from deployer.gates.harness.source_proxy import reachable
from deployer.gates.harness.target import Target
from deployer.planning.verdict import Exchange, Outcome
from deployer.stack.fields.gate_options import Custom
from deployer.system.children import python_command, variables

_CALLING: Final = Path(__file__).parents[1] / "harness" / "python_runner.py"
_MOST_BYTES: Final = 2**20
"""Read of the output, and of what is said beside it."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """How the program ended; `problem` says why it did not begin."""

    code: int = 0
    output: bytes = b""
    said: str = ""
    """The last line of its standard error."""
    problem: str = ""


FigureName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")]


class Printed(Shape):
    """The verdict as the command prints it."""

    model_config = ConfigDict(extra="forbid")

    outcome: Literal["pass", "fail", "inconclusive", "error"]
    because: str = Field(min_length=1)
    figures: dict[FigureName, float] = Field(default_factory=dict)


async def measure(client: Client, parameters: Custom, target: Target) -> Measurement:
    """Run the command to its end; out of time, it is killed with all it started."""
    began = client.clock()
    measured = Measurement(problem="it ran out of time, and was killed")
    try:
        async with reachable(target) as url:
            variables = _environment(url, target.api_key, client.gate, os.environ)
            measured = await _run(_argv(parameters), variables, target)
    finally:
        client.keep(
            Exchange(
                f"run {_shown(parameters)}",
                None,
                measured.output.decode(errors="replace"),
                client.clock() - began,
                measured.problem or f"exit code {measured.code}; {measured.said}",
            )
        )
    return measured


def judge(measurement: Measurement, parameters: Custom, _target: Target) -> Judgement:
    """Only a verdict that was printed in order counts."""
    command = f"`{excerpt(_shown(parameters), 60)}`"
    if measurement.problem:
        return unmeasured(f"{command}: {measurement.problem}")
    if measurement.code != 0:
        said = f": {measurement.said}" if measurement.said else ""
        return unmeasured(f"{command} {_ending(measurement.code)}{said}")
    try:
        printed = Printed.model_validate_json(measurement.output.strip())
    except ValidationError as error:
        shown = excerpt(measurement.output, 60) or "nothing"
        problem = first_problem(error)
        return unmeasured(f"{command} printed `{shown}`, no verdict: {problem}")
    return Judgement(Outcome(printed.outcome), printed.because, printed.figures)


def _shown(parameters: Custom) -> str:
    """Return what runs, as the stack says it."""
    return parameters.python or shlex.join(parameters.command or ())


def _argv(parameters: Custom) -> tuple[str, ...]:
    if parameters.python is None:
        return parameters.command or ()
    file, _, function = parameters.python.rpartition(":")
    return python_command(str(_CALLING), file, function)


def _ending(code: int) -> str:
    if code < 0:
        return f"was killed by signal {-code}"
    return f"ended with exit code {code}"


def _environment(
    url: str, api_key: str | None, gate: str, mine: Mapping[str, str]
) -> dict[str, str]:
    key = {} if api_key is None else {"DEPLOYER_API_KEY": api_key}
    return {**variables(mine), "DEPLOYER_URL": url, "DEPLOYER_GATE": gate, **key}


async def _run(
    command: tuple[str, ...], variables: Mapping[str, str], target: Target
) -> Measurement:
    # Files, because what the command leaves running would hold a pipe open.
    with TemporaryFile() as output, TemporaryFile() as beside:
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                cwd=target.folder,
                env=variables,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=beside,
                start_new_session=True,
            )
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            return Measurement(problem=f"it cannot be started: {reason}")
        try:
            code = await process.wait()
        finally:
            # The group holds all that it started and that is still there.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
        lines = _beginning(beside).decode(errors="replace").split("\n")
        last = next((line for line in reversed(lines) if line.strip()), "")
        return Measurement(code, _beginning(output), excerpt(last, 160))


def _beginning(file: IO[bytes]) -> bytes:
    file.seek(0)
    return file.read(_MOST_BYTES)
