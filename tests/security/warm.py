"""A process that imported deployer once, and forks for each command it is asked for.

Reads a JSON object a line (cwd, env, words, out, err, events, seconds), runs
`deployer WORDS` in a fork that an audit hook watches, and answers with its exit code,
or null where it did not end in time.
"""

import gc
import io
import json
import os
import resource
import signal
import sys
import time
from contextlib import suppress
from importlib import import_module
from typing import Any

from deployer.cli.main import COMMANDS, run

CPU_SECONDS = 5
"""More is a hang, however slow the machine."""


def main() -> None:
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
        sys.stdout.write(f"{json.dumps(_ended(pid, asked['seconds']))}\n")
        sys.stdout.flush()


def _ended(pid: int, seconds: float) -> int | None:
    """The exit code; None where it hung.  All that it started is ended too."""
    deadline = time.monotonic() + seconds
    pause = 0.002
    status = None
    while status is None and time.monotonic() < deadline:
        done, found = os.waitpid(pid, os.WNOHANG)
        if done:
            status = found
        else:
            time.sleep(pause)
            pause = min(pause * 1.5, 0.05)
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    if status is None:
        os.waitpid(pid, 0)
        return None
    code = os.waitstatus_to_exitcode(status)
    return None if code in {-signal.SIGXCPU, -signal.SIGKILL} else code


def _child(asked: dict[str, Any]) -> None:
    os.setsid()
    os.chdir(asked["cwd"])
    os.environ.clear()
    os.environ.update(asked["env"])
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS + 1))
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    for number, name in ((1, "out"), (2, "err")):
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        os.dup2(os.open(asked[name], flags, 0o600), number)
    sys.stdin = io.TextIOWrapper(io.FileIO(0))
    sys.stdout = io.TextIOWrapper(io.FileIO(1, "w"), "utf-8", write_through=True)
    sys.stderr = io.TextIOWrapper(io.FileIO(2, "w"), "utf-8", write_through=True)
    sys.argv = ["deployer", *asked["words"]]
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
    main()
