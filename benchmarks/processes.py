"""Whole processes, measured in turn: CPU and wall seconds, and the peak of memory."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from deployer.stack.fields.values import JsonValue

LIMIT = 120
"""Seconds after which a program that is measured is killed."""
_LAUNCHER = Path(__file__).parent / "launcher.py"
_EXCERPT = 300


@dataclass(frozen=True, slots=True)
class Command:
    """A program that is measured."""

    name: str
    argv: tuple[str, ...]
    folder: Path
    environment: Mapping[str, str]
    codes: tuple[int, ...] = (0,)
    """Exit codes that mean that it did what was to be measured."""
    expects: str = ""
    """What it has to say."""
    note: str = ""
    before: Callable[[], object] | None = None
    """Done before every run, and not measured."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What one run of a program cost, with all its children that it waited for."""

    cpu: float
    wall: float
    peak: int
    """Bytes; below some 10 MiB it is the launcher's own."""


@dataclass(frozen=True, slots=True)
class Turn:
    """A command and what was run right before it, so that moods hit both alike."""

    floor: Sample
    ours: Sample
    """Where ours is not compared with anything, the sample itself."""
    it: Sample


class MeasureError(Exception):
    """A program did not do what was to be measured."""


class Launcher:
    """The small process that starts what is measured."""

    def __init__(self, process: "subprocess.Popen[str]", out: Path) -> None:
        self._process = process
        self._out = out

    @classmethod
    @contextmanager
    def started(cls) -> Iterator[Self]:
        """A launcher that ends with the block."""
        argv = [sys.executable, "-I", "-S", str(_LAUNCHER)]
        with (
            tempfile.TemporaryDirectory() as folder,
            subprocess.Popen(
                argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                bufsize=1,
            ) as process,
        ):
            try:
                yield cls(process, Path(folder) / "out")
            finally:
                process.kill()

    def run(self, command: Command) -> Sample:
        """Run it once; raises MeasureError where it did not do what it should."""
        if command.before is not None:
            command.before()
        request = {
            "argv": command.argv,
            "cwd": str(command.folder),
            "environment": dict(command.environment),
            "out": str(self._out),
            "limit": LIMIT,
        }
        assert self._process.stdin is not None  # noqa: S101 - both are pipes
        assert self._process.stdout is not None  # noqa: S101 - as above
        self._process.stdin.write(json.dumps(request) + "\n")
        line = self._process.stdout.readline()
        if not line:
            raise MeasureError(f"`{command.argv[0]}` cannot be started")
        answer = json.loads(line)
        said = self._out.read_text(encoding="utf-8", errors="replace")
        if answer["late"]:
            raise MeasureError(f"{command.name}: no end within {LIMIT} s")
        if answer["code"] not in command.codes or command.expects not in said:
            last = " ".join(said.split())[-_EXCERPT:]
            raise MeasureError(f"{command.name}: exit code {answer['code']}: …{last}")
        return Sample(answer["cpu"], answer["wall"], answer["peak"])


def floor(folder: Path) -> Command:
    """What no program of this Python can go below."""
    argv = (sys.executable, "-c", "pass")
    return Command("`python -c pass`", argv, folder, {"PATH": os.defpath})


def in_turn(
    launcher: Launcher,
    ours: Command | None,
    commands: Sequence[Command],
    rounds: int,
) -> Mapping[str, list[Turn]]:
    """Every command in every round, right after the floor and ours.

    A round before the first warms caches and is not counted.  Every other round goes
    backwards.
    """
    turns: dict[str, list[Turn]] = {command.name: [] for command in commands}
    for number in range(rounds + 1):
        for command in commands[:: -1 if number % 2 else 1]:
            least = launcher.run(floor(command.folder))
            own = None if ours is None else launcher.run(ours)
            it = launcher.run(command)
            if number:
                turns[command.name].append(Turn(least, own or it, it))
    return turns


def median_of(turns: Sequence[Turn], name: str) -> float:
    """The median of `cpu`, `wall` or `peak`."""
    return statistics.median(float(getattr(turn.it, name)) for turn in turns)


def floors(turns: Sequence[Turn]) -> tuple[float, ...]:
    """CPU time as a multiple of the floor's, pair by pair."""
    return tuple(turn.it.cpu / turn.floor.cpu for turn in turns)


def against_ours(turns: Sequence[Turn]) -> float:
    """The median of CPU time as a multiple of ours, pair by pair."""
    return statistics.median(turn.it.cpu / turn.ours.cpu for turn in turns)


def samples_of(turns: Mapping[str, Sequence[Turn]]) -> JsonValue:
    """Every sample, for the JSON file."""
    return {
        name: [
            {
                which: {"cpu": one.cpu, "wall": one.wall, "peak": one.peak}
                for which, one in (
                    ("floor", turn.floor),
                    ("ours", turn.ours),
                    ("it", turn.it),
                )
            }
            for turn in found
        ]
        for name, found in turns.items()
    }
