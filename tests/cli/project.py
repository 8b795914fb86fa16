"""A folder with a stack, and the command line run in it as users run it."""

import atexit
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil

from tests.warm import Warm

KEY = "sk-of-the-tests"
"""Opens the servers of these tests."""

STACK = """\
version: 1
name: demo
engine: local

llama_cpp:
  tag: b10434
  binary: BINARY

model:
  path: tiny.gguf
  alias: tiny

server:
  ctx_size: 1024
  parallel: 2
  mmap: false
  metrics: true

auth:
  api_key: {env: LLAMA_API_KEY}

local:
  port: PORT

ignore: [{trap: CVE-2026-107183, reason: only tests have the key}]

gates:
  health: {}
  chat: {}
"""
"""What the tests change one line of; BINARY and PORT are put in when it is written."""

COMMAND = (sys.executable, "-m", "deployer")
ROOT = Path(__file__).parents[2]
LIMIT = 90.0
"""Seconds that no command of a test needs."""


@dataclass(frozen=True)
class Done:
    """What a command came back with."""

    code: int
    out: str
    err: str

    def results(self) -> list[dict[str, Any]]:
        """The results in the JSON object of stdout."""
        (line,) = self.out.splitlines()
        results: list[dict[str, Any]] = json.loads(line)["results"]
        return results

    def lines(self) -> list[dict[str, Any]]:
        """The JSON lines of a command that streams."""
        return [json.loads(line) for line in self.out.splitlines()]


@cache
def _warm() -> Warm:
    made = Warm()
    atexit.register(made.close)
    return made


def warm_run(
    words: Sequence[str], folder: Path, env: Mapping[str, str], typed: str = ""
) -> Done:
    """Run `deployer` in a fork of a process that has imported it."""
    with TemporaryDirectory() as made:
        place = Path(made)
        files = {name: place / name for name in ("typed", "out", "err")}
        files["typed"].write_text(typed, encoding="utf-8")
        code = _warm().run(words, folder, env, seconds=LIMIT, **files)
        out, err = (files[it].read_text(encoding="utf-8") for it in ("out", "err"))
    if code is None:
        raise subprocess.TimeoutExpired(["deployer", *words], LIMIT, out, err)
    return Done(code, out, err)


@dataclass(frozen=True)
class Project:
    """Where a test runs the command line."""

    folder: Path
    home: Path
    port: int
    binary: Path

    @property
    def stack(self) -> Path:
        return self.folder / "stacks" / "demo.yaml"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def state(self) -> Path:
        return self.stack.parent / ".deployer" / "state" / "demo.state.json"

    def write(self, text: str = STACK, name: str = "demo") -> Path:
        """Write a stack file, with this project's binary and port."""
        file = self.stack.with_stem(name)
        text = text.replace("BINARY", str(self.binary))
        file.write_text(text.replace("PORT", str(self.port)), encoding="utf-8")
        return file

    def run(
        self, *words: str, typed: str = "", env: Mapping[str, str | None] | None = None
    ) -> Done:
        """Run `deployer` without a terminal until it ends.

        In an interpreter of its own only where a variable changes the interpreter.
        """
        if any(name.startswith("PYTHON") for name in env or {}):
            return self._run((*COMMAND, *words), typed, env)
        return warm_run(words, self.folder, self.environment(env or {}), typed)

    def python(
        self, code: str, *words: str, env: Mapping[str, str | None] | None = None
    ) -> Done:
        """Run a program of the test, that calls `deployer` in its own way."""
        return self._run((sys.executable, "-c", code, *words), "", env)

    def shell(self, line: str) -> Done:
        """Run a line of a shell, or several."""
        return self._run(("bash", "-c", line), "", None, limit=10 * LIMIT)

    def _run(
        self,
        argv: Sequence[str],
        typed: str,
        env: Mapping[str, str | None] | None,
        limit: float = LIMIT,
    ) -> Done:
        done = subprocess.run(
            argv,
            cwd=self.folder,
            env=self.environment(env or {}),
            input=typed,
            capture_output=True,
            text=True,
            timeout=limit,
            check=False,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    @contextmanager
    def running(
        self, *words: str, limit: float = LIMIT
    ) -> Iterator[subprocess.Popen[str]]:
        """Run `deployer` beside the test; it is killed if it outlives the block."""
        process = subprocess.Popen(
            [*COMMAND, *words],
            cwd=self.folder,
            env=self.environment({}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            bufsize=1,
            start_new_session=True,
        )
        # A test that reads for ever is ended by the end of what it reads.
        watchdog = threading.Timer(limit, _kill, (process,))
        watchdog.start()
        try:
            yield process
        finally:
            watchdog.cancel()
            watchdog.join()
            _kill(process)
            process.communicate()

    def environment(self, changes: Mapping[str, str | None]) -> dict[str, str]:
        """The variables of a command; None takes one away."""
        base: dict[str, str | None] = {
            **os.environ,
            "DEPLOYER_HOME": str(self.home),
            "DEPLOYER_ALLOW_OUTSIDE": str(self.binary.parent),
            "LLAMA_API_KEY": KEY,
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
            **changes,
        }
        return {name: value for name, value in base.items() if value is not None}

    def servers(self) -> set[int]:
        """Processes that were started below this project's home, and still run."""
        return {process.pid for process in _servers_below(self.home)}

    def server(self) -> int:
        """The one server that runs."""
        (pid,) = self.servers()
        return pid

    def log(self) -> str:
        """Everything that servers of this project said."""
        logs = sorted(self.home.glob("run/*/*/server.log"))
        return "".join(log.read_text(encoding="utf-8") for log in logs)

    def end(self) -> None:
        """Kill what still runs."""
        running = list(_servers_below(self.home))
        for process in running:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(running, timeout=10)  # until then they have their port


def _kill(process: "subprocess.Popen[str]") -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _servers_below(home: Path) -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            variables = process.environ()
            below = variables.get("DEPLOYER_RUN_DIR", "").startswith(f"{home}/")
            if below and process.status() != psutil.STATUS_ZOMBIE:
                yield process


def read_until(process: "subprocess.Popen[str]", text: str) -> str:
    """Read stdout up to a line that holds ``text``; returns all that was read."""
    assert process.stdout is not None
    seen = ""
    for line in process.stdout:
        seen += line
        if text in line:
            return seen
    raise AssertionError(f"`{text}` never came:\n{seen}")


def finished(process: "subprocess.Popen[str]") -> Done:
    """Wait for the end, and return it with the rest of what was said."""
    out, err = process.communicate(timeout=LIMIT)
    return Done(process.returncode, out, err)


def gone(pid: int) -> bool:
    """Wait until a process is gone; false if it stays."""
    deadline = time.monotonic() + LIMIT
    while time.monotonic() < deadline:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
            psutil.Process(pid).wait(timeout=0.1)
        except psutil.NoSuchProcess:
            return True
        except psutil.TimeoutExpired:
            continue
    return False


def link_store(seed: Path, home: Path) -> None:
    """Give a new home the builds of another, without copying them."""
    home.mkdir()
    if (seed / "build").exists():
        shutil.copytree(
            seed / "build", home / "build", copy_function=os.link, symlinks=True
        )
        shutil.copy(seed / "digests.json", home)
