"""A stack on the emulated Modal, and the command line run on it as users run it."""

import functools
import hashlib
import json
import os
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.cli.project import COMMAND, LIMIT, Done
from tests.modal.emulated import ROOT, Emulated

KEY = "sk-of-the-tests"
SECRET = "llama-api-key"

STACK = """\
version: 1
name: tiny
engine: modal

llama_cpp:
  tag: b10434
  source: git
  repo: REPOSITORY

model:
  url: MODEL
  sha256: SHA256
  alias: tiny

server:
  ctx_size: 1024
  parallel: 2
  fit: off
  metrics: true

auth:
  api_key: {secret: llama-api-key, env: LLAMA_API_KEY}

snapshot:
  enabled: true
  warmup:
    - {prompt: Hello, max_tokens: 2}

scaling: {max_containers: 2, scaledown_window: 2m}

gates:
  health: {}
  auth: {}
  chat: {}
"""

# What stands for hours of compiling: the same target, made of a ready server.
_CMAKE = """\
cmake_minimum_required(VERSION 3.14)
project(llama.cpp NONE)
add_custom_target(llama-server
  COMMAND ${CMAKE_COMMAND} -E echo "compiling nothing"
  COMMAND mkdir -p bin
  COMMAND cp ${CMAKE_SOURCE_DIR}/llama-server bin/
  COMMAND cp -L READY/llama-server bin/libready.so
  COMMAND sh -c "cp -L READY/lib*.so.[0-9] READY/lib*-impl.so bin/")
"""

# A ready server may look for its libraries elsewhere than beside itself.
_LAUNCHER = """\
#!/bin/sh
here="$(dirname "$0")"
LD_LIBRARY_PATH="$here" exec "$here/libready.so" "$@"
"""


@dataclass(frozen=True)
class Project:
    """Where a test runs the command line."""

    folder: Path
    cloud: Emulated
    words: Mapping[str, str]
    """What is put into a stack that is written."""

    @property
    def stack(self) -> Path:
        return self.folder / "stacks" / "tiny.yaml"

    @property
    def state(self) -> Path:
        return self.stack.parent / ".deployer" / "state" / "tiny.state.json"

    def write(self, text: str = STACK) -> Path:
        """Write the stack file."""
        for word, value in self.words.items():
            text = text.replace(word, value)
        self.stack.parent.mkdir(parents=True, exist_ok=True)
        self.stack.write_text(text, encoding="utf-8")
        return self.stack

    def change(self, old: str, new: str) -> None:
        """Change one line of the stack as it was written."""
        text = self.stack.read_text(encoding="utf-8")
        assert old in text
        self.stack.write_text(text.replace(old, new), encoding="utf-8")

    def run(self, *words: str, env: Mapping[str, str | None] | None = None) -> Done:
        """Run `deployer` without a terminal until it ends."""
        return self._run((*COMMAND, *words), env or {})

    def shell(self, line: str) -> Done:
        """Run a line of a shell, or several."""
        return self._run(("bash", "-c", line), {}, limit=10 * LIMIT)

    @contextmanager
    def running(self, *words: str) -> Iterator["subprocess.Popen[str]"]:
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
        watchdog = threading.Timer(LIMIT, process.kill)
        watchdog.start()
        try:
            yield process
        finally:
            watchdog.cancel()
            watchdog.join()
            process.kill()
            process.communicate()

    def slow_build(self, folder: Path) -> str:
        """The stack with a source that takes for ever to build."""
        slow = "add_custom_target(llama-server COMMAND sleep 60)"
        head = "cmake_minimum_required(VERSION 3.14)\nproject(llama.cpp NONE)\n"
        tree = folder / "slow"
        tree.mkdir()
        (tree / "CMakeLists.txt").write_text(head + slow, encoding="utf-8")
        return STACK.replace("REPOSITORY", _committed(tree))

    def apply(self, *, code: int = 0) -> Done:
        """Apply the stack, and say all there is when it ends otherwise."""
        done = self.run("apply", "stacks/tiny.yaml", "--yes")
        assert done.code == code, f"{done.out}\n{done.err}\n{self.cloud.log()[-4000:]}"
        return done

    def modal(self, *words: str) -> Done:
        """Run the client's own command line."""
        return self._run((sys.executable, "-m", "modal", *words), {})

    def _run(
        self,
        argv: Sequence[str],
        env: Mapping[str, str | None],
        limit: float = LIMIT,
    ) -> Done:
        done = subprocess.run(
            argv,
            cwd=self.folder,
            env=self.environment(env),
            capture_output=True,
            text=True,
            timeout=limit,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def environment(self, changes: Mapping[str, str | None]) -> dict[str, str]:
        """The variables of a command; None takes one away."""
        base: dict[str, str | None] = {
            **os.environ,
            **self.cloud.environment,
            "DEPLOYER_HOME": str(self.folder / "home"),
            "DEPLOYER_ALLOW_OUTSIDE": os.pathsep.join(self._trusted()),
            "LLAMA_API_KEY": KEY,
            "PYTHONPATH": str(ROOT),
            **changes,
        }
        return {name: value for name, value in base.items() if value is not None}

    def _trusted(self) -> Iterator[str]:
        """Where the repositories of this machine lie that stacks name."""
        yield str(self.folder.parent)
        if "REPOSITORY" in self.words:
            yield self.words["REPOSITORY"].removeprefix("file://")

    def live(self) -> dict[str, Any]:
        """The record of what is live, as the state has it."""
        content = json.loads(self.state.read_text(encoding="utf-8"))
        found: dict[str, Any] = content["live"].get("tiny/server", {})
        return found

    def ask(self, url: str, key: str = KEY) -> dict[str, Any]:
        """The answer to one chat request."""
        with self._asked(url, {}, key) as answer:
            found: dict[str, Any] = json.load(answer)
            return found

    def streamed(self, url: str) -> list[str]:
        """The events of an answer that is streamed."""
        with self._asked(url, {"stream": True}, KEY) as answer:
            lines = answer.read().decode().splitlines()
        return [line for line in lines if line]

    def _asked(self, url: str, more: Mapping[str, object], key: str) -> Any:
        body = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
        request = urllib.request.Request(
            f"{url}/v1/chat/completions",
            data=json.dumps({**body, **more}).encode(),
            headers=headers,
        )
        return urllib.request.urlopen(request, timeout=LIMIT)


def make_source(folder: Path, ready: Path) -> str:
    """The address of a repository whose build is a ready server."""
    tree = folder / "llama.cpp"
    tree.mkdir(parents=True)
    text = _CMAKE.replace("READY", str(ready.parent))
    (tree / "CMakeLists.txt").write_text(text, encoding="utf-8")
    (tree / "llama-server").write_text(_LAUNCHER, encoding="utf-8")
    (tree / "llama-server").chmod(0o755)
    return _committed(tree)


def _committed(tree: Path) -> str:
    """The address of a repository with this tree as the build of the tests."""
    for name in ("ggml", "common", "tools/server"):  # what makes it llama.cpp
        (tree / name).mkdir(parents=True)
        (tree / name / "CMakeLists.txt").touch()
    for words in (
        ("init", "--quiet", "--initial-branch=master"),
        ("add", "--all"),
        ("commit", "--quiet", "--message", "b10434"),
        ("tag", "b10434"),
        ("config", "uploadpack.allowAnySHA1InWant", "true"),
    ):
        author = {
            f"GIT_{who}_{what}": "t@example.org"
            for who in ("AUTHOR", "COMMITTER")
            for what in ("NAME", "EMAIL")
        }
        subprocess.run(
            ("git", *words), cwd=tree, check=True, env={**os.environ, **author}
        )
    return tree.as_uri()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """A folder as a site."""
    handler = functools.partial(_Quiet, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def digest_of(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
