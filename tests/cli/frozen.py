"""Projects whose server comes from a snapshot, and what is seen of it."""

import json
import shutil
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from deployer.engines.local.snapshot.criu import VARIABLE
from tests.cli.clients import chat
from tests.cli.project import KEY, STACK, Done, Project, gone

DEMO = "stacks/demo.yaml"
ANSWER = "The answer is 42."
SNAPSHOT = """
snapshot:
  enabled: true
  warmup: [{prompt: Hello, max_tokens: 4}]
"""


DYING = """\
import os, runpy, signal, sys, threading

where, *sys.argv = sys.argv[1:]
calls = 0


def look(frame, event, _):
    code = frame.f_code
    if event == "call" and any(it in code.co_filename for it in OURS):
        count(code.co_name)


def count(name):
    global calls
    calls += 1
    if where in (name, str(calls)):
        os.kill(os.getpid(), signal.SIGKILL)


OURS = (
    "/deployer/engines/local/",
    "/deployer/gates/checks/server.py",
    "/deployer/artefacts/store.py",
)
sys.argv.insert(0, "deployer")
sys.addaudithook(lambda event, _: count(event) if event == "os.rename" else None)
threading.setprofile(look)
sys.setprofile(look)
try:
    runpy.run_module("deployer", run_name="__main__", alter_sys=True)
finally:
    sys.setprofile(None)
    print(calls, "calls", file=sys.stderr)
"""
"""Runs a command that is killed at a call: of a function, or by its number.

Before a name of a file changes is such a point, too.
"""


@dataclass(frozen=True)
class Frozen:
    """A project, with the CRIU that its commands use."""

    project: Project
    criu: Path

    @property
    def home(self) -> Path:
        return self.project.home

    def write(self, text: str = STACK + SNAPSHOT) -> None:
        self.project.write(text)

    def run(self, *words: str, env: Mapping[str, str | None] | None = None) -> Done:
        variables = {VARIABLE: str(self.criu), **(env or {})}
        return self.project.run(*words, env=variables)

    def dies(
        self, at: str, *words: str, env: Mapping[str, str | None] | None = None
    ) -> None:
        """Run a command that is killed when it calls this function of the engine."""
        variables = {VARIABLE: str(self.criu), **(env or {})}
        done = self.project.python(DYING, at, *words, env=variables)
        assert done.code == -signal.SIGKILL, done.out + done.err

    def may_die(
        self, at: int, *words: str, env: Mapping[str, str | None] | None = None
    ) -> Done:
        """Run a command that is killed at a call by its number, if it comes so far."""
        variables = {VARIABLE: str(self.criu), **(env or {})}
        return self.project.python(DYING, str(at), *words, env=variables)

    def calls(self, *words: str) -> int:
        """Run a command to its end; return how many calls it made."""
        done = self.project.python(
            DYING, "none", *words, env={VARIABLE: str(self.criu)}
        )
        assert done.code == 0, done.out + done.err
        return int(done.err.split()[-2])

    def unproven(self) -> list[Path]:
        """The marks of servers that were restored and not proven."""
        return list(self.home.glob("run/*/*/unproven"))

    def apply(self, **more: Mapping[str, str | None]) -> Done:
        done = self.run("apply", DEMO, "--yes", **more)
        assert done.code == 0, done.out + done.err
        return done

    def answer(self) -> str:
        return chat(self.project.port, KEY)

    def image(self) -> Path:
        """The folder of the live snapshot."""
        live = json.loads(self.project.state.read_text(encoding="utf-8"))["live"]
        return self.home / "snapshot" / str(live["demo/snapshot"]["key"])

    def file(self, name: str) -> Path:
        """A file of the image, made writable."""
        file = self.image() / name
        file.chmod(0o600)
        return file

    def kill(self) -> None:
        """End the server as a crash would."""
        for process in processes_below(self.home):
            with suppress(psutil.NoSuchProcess):
                process.kill()
            assert gone(process.pid)

    def start(self, env: Mapping[str, str | None] | None = None, key: str = KEY) -> str:
        """Start what was killed; whatever was said, the right server answers then."""
        done = self.run("start", DEMO, env={"LLAMA_API_KEY": key, **(env or {})})
        assert done.code == 0, done.out + done.err
        assert chat(self.project.port, key) == ANSWER
        return done.out

    def wrapper(self, name: str, script: str) -> str:
        """A program that stands for CRIU, and has the real one in CRIU."""
        file = self.project.folder / name
        file.write_text(f"#!/bin/bash\nCRIU={self.criu}\n{script}\n")
        file.chmod(0o755)
        return str(file)

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Whatever is done to the image, it is as before in the end."""
        image, copy = self.image(), self.project.folder / "image"
        shutil.copytree(image, copy)
        try:
            yield
        finally:
            shutil.rmtree(self.home / "cache" / "snapshots", ignore_errors=True)
            shutil.rmtree(image, ignore_errors=True)
            copy.rename(image)

    def pids(self) -> list[int]:
        return [process.pid for process in processes_below(self.home)]


@contextmanager
def frozen(project: Project, criu: Path) -> Iterator[Frozen]:
    """The project with its stack live from a snapshot; nothing of it is left."""
    made = Frozen(project, criu)
    made.write()
    out = made.apply().out
    assert "restored from its snapshot" in out, out
    assert made.answer() == ANSWER
    yield made
    project.end()


def processes_below(home: Path) -> Iterator[psutil.Process]:
    """Everything that lives and was started for a server below this home."""
    for process in psutil.process_iter():
        try:
            variables = process.environ()
            below = variables.get("DEPLOYER_RUN_DIR", "").startswith(f"{home}/")
            if below and process.status() != psutil.STATUS_ZOMBIE:
                yield process
        except (psutil.Error, OSError):
            continue
