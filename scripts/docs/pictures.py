"""Pictures of a terminal for README and docs: `python -m scripts.docs.pictures`.

A story is played with the real `deployer`, a real llama-server and the small model of
the tests, each command in a terminal of its own; Chromium draws the pages that it
wrote.  DEPLOYER_TEST_LLAMA_SERVER names
another llama-server than that of the tests' cache.
"""

import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from scripts.docs.terminal import Ran, run, svg
from scripts.picture_of_comment import draw
from tests.models import tiny

ROOT: Final = Path(__file__).parents[2]
FOLDER: Final = ROOT / "docs" / "pictures"
HOME: Final = "~/.local/share/deployer"
KEY: Final = "local-demo"

STACK: Final = """\
# yaml-language-server: $schema=../schema/stack.schema.json
version: 1
name: demo
engine: local

llama_cpp:
  tag: b10434
  commit: COMMIT
  binary: ../llama.cpp/build/bin/llama-server

model:
  path: gemma4.gguf
  alias: gemma-4

server:
  ctx_size: 4096
  parallel: 2
  mmap: false
  ctx_checkpoints: 1
  chat_template: gemma4.jinja
  metrics: true

auth:
  api_key: {env: LLAMA_API_KEY}

local: {port: PORT}

ignore: [{trap: CVE-2026-107183, reason: only this machine has the key}]

gates:
  health: {}
  build: {}
  models: {}
  auth: {}
  chat: {}
  stream: {ttft: 10s}
  tools: {modes: [auto]}
  speed: {}
"""


@dataclass(frozen=True, slots=True)
class Scene:
    """One picture: what is changed in the stack first, and what is typed."""

    name: str
    title: str
    commands: tuple[str, ...]
    edit: tuple[str, str] = ("", "")
    unseen: tuple[str, ...] = ()
    """Commands that are run before, and not shown."""


STORY: Final = (
    Scene("plan", "The first plan of a stack", ("deployer plan stacks/demo.yaml",)),
    Scene(
        "apply",
        "An apply: gates prove the candidate, then it is promoted",
        ("deployer apply stacks/demo.yaml --yes",),
    ),
    Scene(
        "change",
        "One line was changed: the plan says what follows, and why",
        ("deployer plan stacks/demo.yaml",),
        edit=("ctx_size: 4096", "ctx_size: 8192"),
    ),
    Scene(
        "rollback",
        "The history of releases, and a rollback",
        (
            "deployer history stacks/demo.yaml",
            "deployer rollback stacks/demo.yaml --yes",
        ),
        unseen=("deployer apply stacks/demo.yaml --yes",),
    ),
    Scene(
        "gate",
        "A gate fails: nothing is promoted, and what was live stays",
        ("deployer apply stacks/demo.yaml --yes", "deployer status stacks/demo.yaml"),
        edit=("chat: {}", "chat: {contains: Paris}"),
    ),
    Scene(
        "doctor",
        "What is wrong, why, and what to do",
        ("deployer doctor stacks/demo.yaml",),
        unseen=(
            "deployer watch stacks/demo.yaml --idle 1s --rounds 6",
            "deployer report stacks --out report.html",
        ),
    ),
)


def main() -> None:
    """Play the story with the llama-server of the command line; write every picture."""
    if len(sys.argv) != 2:
        sys.exit("usage: python -m scripts.docs.pictures PATH/TO/llama-server")
    FOLDER.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory() as folder:
        for scene, ran in played(Path(sys.argv[1]).resolve(), Path(folder)):
            file = FOLDER / f"{scene.name}.svg"
            file.write_text(svg(ran, scene.title), encoding="utf-8")
        for name, page in _pages(Path(folder)).items():
            text = page.read_text(encoding="utf-8").replace(f"{folder}/home", HOME)
            text = re.sub(r"(?<=127\.0\.0\.1:)\d+", "8080", text)
            text = text.replace(f"{folder}/", "")
            draw(text, FOLDER / f"{name}.png", (1180, 1000))


def played(server: Path, folder: Path) -> Iterator[tuple[Scene, list[Ran]]]:
    """Play the story in a folder; each scene with what its commands left."""
    port = _free_port()
    stack = _project(server, folder, port)
    stage = _Stage(folder, server, port)
    try:
        for scene in STORY:
            text = stack.read_text(encoding="utf-8")
            stack.write_text(text.replace(*scene.edit), encoding="utf-8")
            for command in scene.unseen:
                stage.run(command)
            yield scene, [stage.run(command) for command in scene.commands]
    finally:
        stage.run("deployer destroy stacks/demo.yaml --yes")


def _pages(folder: Path) -> Mapping[str, Path]:
    """The pages that the story wrote: of all stacks, and of the gate that failed."""
    failed = max((folder / "home" / "reports").glob("*/2*/report.html"))
    return {"report": folder / "report.html", "gate-page": failed}


@dataclass(frozen=True, slots=True)
class _Stage:
    """Where the commands run, and what is neutral instead of this machine's."""

    folder: Path
    server: Path
    port: int

    def run(self, command: str) -> Ran:
        """Run a line that begins with `deployer`."""
        words = command.split()[1:]
        return run(
            (sys.executable, "-m", "deployer", *words),
            typed=command,
            folder=self.folder,
            environment=self._environment(),
            neutral={
                re.escape(f"{self.folder}/home"): HOME,
                re.escape(f"{self.folder}/"): "",
                re.escape(f"{self.server.parent}/"): "llama.cpp/build/bin/",
                rf"\b{self.port}\b": "8080",
                r"\bpid \d+": "pid 4711",
            },
        )

    def _environment(self) -> Mapping[str, str]:
        return {
            "DEPLOYER_ALLOW_OUTSIDE": str(self.server.parent),
            "DEPLOYER_HOME": str(self.folder / "home"),
            "HOME": str(self.folder),
            "LANG": "C.UTF-8",
            "LLAMA_API_KEY": KEY,
            "PATH": os.environ["PATH"],
            "PYTHONPATH": os.pathsep.join((str(ROOT), *sys.path[1:])),
            "TERM": "xterm-256color",
        }


def _project(server: Path, folder: Path, port: int) -> Path:
    """A folder as a user has one, with its stack; the path of the stack."""
    stacks, build = folder / "stacks", folder / "llama.cpp" / "build"
    stacks.mkdir()
    build.mkdir(parents=True)
    (build / "bin").symlink_to(server.parent)
    tiny.write(stacks / "gemma4.gguf", folder / "mmproj.gguf")
    shutil.copy(tiny.TEMPLATE, stacks)
    stack = stacks / "demo.yaml"
    text = STACK.replace("COMMIT", _commit(server)).replace("PORT", str(port))
    stack.write_text(text, encoding="utf-8")
    return stack


def _free_port() -> int:
    """A port with as many digits as the one that is shown, so that columns stay."""
    for port in range(8081, 9999):
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise OSError("no port from 8081 to 9998 is free")


def _commit(server: Path) -> str:
    """What the binary says it was built from."""
    done = subprocess.run(
        (server, "--version"), capture_output=True, text=True, check=True
    )
    found = re.search(r"version: .*\(.*?([0-9a-f]{7,40})\)", done.stdout + done.stderr)
    if found is None:
        raise ValueError(f"`{server} --version` names no commit")
    return found[1]


if __name__ == "__main__":
    main()
