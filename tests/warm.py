"""The command line, imported once and forked for each command.

Importing is most of what a command costs, and a suite runs thousands.  What a fork
cannot show (imports, an interpreter's own variables, signals, a terminal) is tested
with processes of their own.

As a program: reads a JSON object a line (`Warm.run` writes it), runs `deployer WORDS`
in a fork, and answers with its exit code, or null where it did not end in time.
"""

import gc
import io
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

_CPU_SECONDS = 5
"""More is a hang of a command that is watched, however slow the machine."""


class Warm:
    """Runs commands one after the other."""

    def __init__(self, *before: str) -> None:
        """`before` is what the Python is started with, such as strace."""
        root = str(Path(__file__).parents[1])
        self._process = subprocess.Popen(
            [*before, sys.executable, "-P", __file__],
            cwd="/",
            env={"PYTHONPATH": root, "PATH": os.environ["PATH"]},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(
        self,
        words: Sequence[str],
        cwd: Path,
        env: Mapping[str, str],
        *,
        out: Path,
        err: Path,
        seconds: float,
        typed: Path = Path(os.devnull),
        events: Path | None = None,
    ) -> int | None:
        """Return the exit code of a command; None where it hung, and was ended.

        With `events` every file that it opens, and program that it starts, is written
        there; its time on the processor is limited, and what it started ends with it.
        """
        asked = {
            "words": words,
            "cwd": str(cwd),
            "env": dict(env),
            "files": [str(typed), str(out), str(err)],
            "seconds": seconds,
            "events": None if events is None else str(events),
        }
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{json.dumps(asked)}\n")
        self._process.stdin.flush()
        answer: int | None = json.loads(self._process.stdout.readline())
        return answer

    def close(self) -> None:
        self._process.communicate()


def _serve() -> None:
    from deployer.cli.main import COMMANDS  # noqa: PLC0415 - only the program runs it

    for module, _ in COMMANDS.values():
        import_module(f"deployer.cli.commands.{module}")
    for module in (
        "usecases.reading.read_stack",
        "usecases.reading.weights",
        "engines.local.engine",
        "usecases.context.git",
    ):
        import_module(f"deployer.{module}")
    gc.freeze()
    for line in sys.stdin:
        asked = json.loads(line)
        pid = os.fork()
        if pid == 0:
            _child(asked)
        sys.stdout.write(f"{json.dumps(_ended(pid, asked))}\n")
        sys.stdout.flush()


def _ended(pid: int, asked: Mapping[str, Any]) -> int | None:
    """The exit code; None where it hung."""
    deadline = time.monotonic() + asked["seconds"]
    pause = 0.002
    status = None
    while status is None and time.monotonic() < deadline:
        done, found = os.waitpid(pid, os.WNOHANG)
        if done:
            status = found
        else:
            time.sleep(pause)
            pause = min(pause * 1.5, 0.05)
    if status is None or asked["events"] is not None:
        with suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
    if status is None:
        os.waitpid(pid, 0)
        return None
    code = os.waitstatus_to_exitcode(status)
    return None if code in {-signal.SIGXCPU, -signal.SIGKILL} else code


def _child(asked: Mapping[str, Any]) -> None:
    from deployer.cli.main import run  # noqa: PLC0415 - as above

    os.setsid()
    os.chdir(asked["cwd"])
    os.environ.clear()
    os.environ.update(asked["env"])
    for number, name in enumerate(asked["files"]):
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC if number else os.O_RDONLY
        os.dup2(os.open(name, flags, 0o600), number)
    sys.stdin = io.TextIOWrapper(io.BufferedReader(io.FileIO(0)), "utf-8")
    sys.stdout = io.TextIOWrapper(io.FileIO(1, "w"), "utf-8", write_through=True)
    sys.stderr = io.TextIOWrapper(io.FileIO(2, "w"), "utf-8", write_through=True)
    sys.argv = ["deployer", *asked["words"]]
    if asked["events"] is not None:
        resource.setrlimit(resource.RLIMIT_CPU, (_CPU_SECONDS, _CPU_SECONDS + 1))
        _watch(asked["events"])
    code = 1
    try:
        code = run()
        sys.stdout.flush()
    finally:
        os._exit(code)


def _watch(events: str) -> None:
    """Note each file that is opened, program that is started, code that is run."""
    place = os.open(events, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def note(kind: str, *words: object) -> None:
        text = json.dumps([kind, *map(_text, words)])
        os.write(place, f"{text}\n".encode())

    def hook(event: str, args: tuple[Any, ...]) -> None:
        match event:
            case "open" if isinstance(args[0], str | bytes):
                note("open", os.path.realpath(args[0]), args[1] or args[2])
            case "exec" if hasattr(args[0], "co_filename"):
                note("code", args[0].co_filename)
            case "os.system" | "os.exec" | "os.posix_spawn":
                note("start", args[0])
            case "subprocess.Popen":
                env = None if args[3] is None else json.dumps(dict(args[3]))
                words = args[1] if isinstance(args[1], list | tuple) else [args[1]]
                note("start", args[0], *words)
                note("variables", env)
            case _:
                pass

    sys.addaudithook(hook)


def _text(value: object) -> str | None:
    match value:
        case None:
            return None
        case bytes():
            return os.fsdecode(value).encode(errors="replace").decode()
        case _:
            return str(value).encode(errors="backslashreplace").decode()


if __name__ == "__main__":
    _serve()
