"""A project with everything that a plan can depend on, and what may happen to it."""

import random
import shutil
import sys
from collections.abc import Mapping
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path

from deployer.artefacts import lock_file
from deployer.cli.commands.planning import print_plan
from deployer.errors import DeployerError
from deployer.planning.facts import Facts, Pin
from deployer.stack.load import load
from deployer.usecases.artefacts import lock
from deployer.usecases.context.settings import Options, Settings
from deployer.usecases.plan import plan
from deployer.usecases.reading.prepared import Cache

NOBODY = sys.maxsize
"""Begun after everything: nobody edits while a run of these tests reads."""

BASE = """\
version: 1
engine: local
extends: common.yaml
llama_cpp: {tag: b10434, binary: ../server/llama-server}
model: {path: ../tiny.gguf, alias: tiny}
gates: {health: {}, custom: {mine: {command: [bash, check.sh]}}}
"""
COMMON = "server: {ctx_size: 4096, parallel: 2}\n"
DEMO = """\
extends: base.yaml
name: demo
server: {chat_template: mine.jinja, metrics: true}
snapshot: {enabled: auto}
"""
PATCHED = """\
version: 1
name: patched
engine: local
llama_cpp: {tag: b9763, source: git, repo: "file://REPO", patches: [mine]}
model: {path: ../tiny.gguf, alias: tiny}
"""
PATCH = """\
diff --git a/one.cpp b/one.cpp
--- a/one.cpp
+++ b/one.cpp
@@ -1 +1 @@
-old
+new
"""
DESCRIPTION = """\
name: mine
why: it is needed
reference: https://example.org/1
status: ours
"""


@dataclass
class World:
    """A project, its home and the variables of its user."""

    folder: Path
    random: random.Random
    variables: dict[str, str] = field(default_factory=dict)

    @property
    def stacks(self) -> Path:
        return self.folder / "project" / "stacks"

    @property
    def demo(self) -> Path:
        return self.stacks / "demo.yaml"

    @property
    def settings(self) -> Settings:
        home = Path(self.variables["DEPLOYER_HOME"])
        return Settings(dict(self.variables), home, begun=NOBODY)

    def write(self, name: str, text: str) -> Path:
        file = self.folder / "project" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        return file


def world(folder: Path, seed: int) -> World:
    """A project whose stacks are locked, and plan without asking anybody."""
    made = World(folder, random.Random(seed))  # noqa: S311 - the same walk each time
    mend(made)
    return made


def mend(made: World) -> None:
    """Put everything back as it was first; only what is remembered stays."""
    project = made.folder / "project"
    project.mkdir(exist_ok=True)  # it stays: the tests stand in it
    inside = (*project.iterdir(), *(made.folder / it for it in ("bin", "states")))
    for folder in (*inside, made.folder / ".git"):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.is_dir():
            folder.unlink(missing_ok=True)
    made.variables = {
        "HOME": str(made.folder),
        "PATH": f"{made.folder / 'bin'}:/usr/bin:/bin",
        "DEPLOYER_HOME": str(made.folder / "home"),
    }
    (made.folder / "bin").mkdir()
    (project / ".git").mkdir()
    made.write("server/llama-server", "#!/bin/sh\n").chmod(0o755)
    (project / "tiny.gguf").write_bytes(b"GGUF\x03\0\0\0" + bytes(100))
    for name, text in files(made).items():
        made.write(name, text)
    lock(made.demo, made.settings, None, upgrade=False)
    _lock_patched(made)


def locked_anew(made: World) -> None:
    """Lock the stack as it is now; nothing where it is wrong."""
    with suppress(DeployerError):
        lock(made.demo, made.settings, None, upgrade=True)


def files(made: World) -> Mapping[str, str]:
    """The files of the project as they are first."""
    return {
        "stacks/common.yaml": COMMON,
        "stacks/base.yaml": BASE,
        "stacks/demo.yaml": DEMO,
        "stacks/mine.jinja": "{{ messages }}",
        "stacks/patched.yaml": PATCHED.replace(
            "REPO", str(made.folder / "project" / "none")
        ),
        "patches/mine/mine.patch": PATCH,
        "patches/mine/patch.yaml": DESCRIPTION,
    }


def _lock_patched(made: World) -> None:
    """Lock a stack without the repository that it names."""
    from deployer.usecases.reading.pins import patches_of  # noqa: PLC0415 - beside its use

    file = made.stacks / "patched.yaml"
    stack = load(file).stack
    digests = {
        f"llama_cpp.patches.{it.name}": it.digest for it in patches_of(stack, file)
    }
    known = lock_file.read(lock_file.lock_path(made.demo))
    assert known is not None
    build = Pin(
        "source-git",
        {"commit": "c0ffee" + "0" * 34},
        {"repo": str(stack.llama_cpp.repo), "tag": stack.llama_cpp.tag},
        {"size": 1000},
    )
    inputs = lock_file.inputs_of(stack, digests)
    facts = Facts(build, known.weights, inputs)
    lock_file.write(lock_file.lock_path(file), facts, "patched")


def planned(made: World, path: str, *, cached: bool) -> str | None:
    """What a plan prints, and keeps where it is ``cached``; None for an error."""
    said = StringIO()
    try:
        found = plan(Path(path), made.settings, Options(cached=cached))
        with redirect_stdout(said):
            print_plan(found, "text", Path(path), steps=False)
    except DeployerError:
        return None
    return said.getvalue()


def is_kept(made: World, path: str) -> bool:
    """Whether a plan would not read the stack again."""
    settings = made.settings
    cache = Cache(settings.home, settings.environment)
    return cache.find(Path(path), None) is not None
