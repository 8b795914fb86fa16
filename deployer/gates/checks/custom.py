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
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Annotated, Final, Literal
from urllib.parse import urlsplit

from pydantic import ConfigDict, Field, ValidationError

from deployer.gates.harness.answers import (
    Judgement,
    Shape,
    excerpt,
    first_problem,
    unmeasured,
)
from deployer.gates.harness.client import Client, Target
from deployer.gates.harness.gate import Gate, Subject
from deployer.planning.events import Exchange, Outcome
from deployer.stack.fields import gate_options as asked
from deployer.system.children import python_command, variables

_CALLING: Final = Path(__file__).with_name("python_runner.py")
_MOST_BYTES: Final = 2**20
"""Read of the output, and of what is said beside it."""


@dataclass(frozen=True, slots=True)
class Ending:
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


class Custom(Gate[asked.Custom, Ending]):
    """Only a verdict that was printed in order counts."""

    subject, limit = Subject.QUALITY, 600

    async def measure(self, client: Client) -> Ending:
        """Run the command to its end; out of time, it is killed with all it started."""
        began = client.clock()
        measured = Ending(problem="it ran out of time, and was killed")
        try:
            async with reachable(self.target) as url:
                key = self.target.api_key
                environment = {
                    **variables(os.environ),
                    "DEPLOYER_URL": url,
                    "DEPLOYER_GATE": client.gate,
                    **({} if key is None else {"DEPLOYER_API_KEY": key}),
                }
                measured = await _run(self._argv, environment, self.target)
        finally:
            client.keep(
                Exchange(
                    f"run {self._shown}",
                    None,
                    measured.output.decode(errors="replace"),
                    client.clock() - began,
                    measured.problem or f"exit code {measured.code}; {measured.said}",
                )
            )
        return measured

    def judge(self, measured: Ending) -> Judgement:
        """Read the verdict."""
        command = f"`{excerpt(self._shown, 60)}`"
        if measured.problem:
            return unmeasured(f"{command}: {measured.problem}")
        if (code := measured.code) != 0:
            said = f": {measured.said}" if measured.said else ""
            ended = f"ended with exit code {code}"
            if code < 0:
                ended = f"was killed by signal {-code}"
            return unmeasured(f"{command} {ended}{said}")
        try:
            printed = Printed.model_validate_json(measured.output.strip())
        except ValidationError as error:
            shown = excerpt(measured.output, 60) or "nothing"
            problem = first_problem(error)
            return unmeasured(f"{command} printed `{shown}`, no verdict: {problem}")
        return Judgement(Outcome(printed.outcome), printed.because, printed.figures)

    @property
    def _shown(self) -> str:
        """The command as the stack states it."""
        return self.options.python or shlex.join(self.options.command or ())

    @property
    def _argv(self) -> tuple[str, ...]:
        if self.options.python is None:
            return self.options.command or ()
        file, _, function = self.options.python.rpartition(":")
        return python_command(str(_CALLING), file, function)


async def _run(
    command: tuple[str, ...], variables: Mapping[str, str], target: Target
) -> Ending:
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
            return Ending(problem=f"it cannot be started: {reason}")
        try:
            code = await process.wait()
        finally:
            # The group holds all that it started and that is still there.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
        lines = _beginning(beside).decode(errors="replace").split("\n")
        last = next((line for line in reversed(lines) if line.strip()), "")
        return Ending(code, _beginning(output), excerpt(last, 160))


def _beginning(file: IO[bytes]) -> bytes:
    file.seek(0)
    return file.read(_MOST_BYTES)


_CHUNK: Final = 64 * 1024
_HERE: Final = "127.0.0.1"


@asynccontextmanager
async def reachable(target: Target) -> AsyncIterator[str]:
    """Yield the URL that leads every program to the server of a target.

    While a candidate shares its port with the live server, the kernel hands it only
    what comes from `source_address`, which a program of the user does not choose: it
    would reach the live one instead.
    """
    if target.source_address is None:
        yield target.base
        return
    carrying: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(_carry(target, reader, writer))
        carrying.add(task)
        task.add_done_callback(carrying.discard)

    server = await asyncio.start_server(accept, _HERE, 0)
    try:
        yield f"http://{_HERE}:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in tuple(carrying):
            task.cancel()
        await asyncio.gather(*carrying, return_exceptions=True)


async def _carry(
    target: Target, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Carry the bytes of one connection both ways until either side ends it."""
    parts = urlsplit(target.base)
    with closing(writer), suppress(OSError):
        there, back = await asyncio.open_connection(
            parts.hostname, parts.port or 80, local_addr=(target.source_address, 0)
        )
        with closing(back):
            async with asyncio.TaskGroup() as group:
                group.create_task(_pour(reader, back))
                group.create_task(_pour(there, writer))


async def _pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while chunk := await reader.read(_CHUNK):
            writer.write(chunk)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()
