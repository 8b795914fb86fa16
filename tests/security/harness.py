"""A hostile checkout, canaries around it, and commands that must leave them alone.

    world = World(tmp_path, deployer, listener)
    world.write("stacks/demo.yaml", STACK)
    world.trap("git")                       # a program that notes that it ran
    outcome = world.run("plan", "--locked", "stacks/demo.yaml")
    assert_harmless(outcome)

Around the checkout lie: `world.outside` (private files), `world.home`
(DEPLOYER_HOME), `world.user` (HOME).  Credentials are in the environment of every
command; `listener` is a server on loopback for addresses that a checkout names.
"""

import hashlib
import json
import os
import re
import secrets
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.warm import Warm

SECONDS = 60.0
"""Wall time of a command that waits for nothing; what it computes is limited to 5 s."""
ROOT = Path(__file__).parents[2]
UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e"
    "\u2066-\u2069\ufeff\ufff9-\ufffb\ud800-\udfff]"
)
"""What moves the cursor of a terminal, or turns the order of reading."""
CREDENTIALS = {
    "HF_TOKEN": "hf_canary",
    "AWS_ACCESS_KEY_ID": "AKIACANARY",
    "AWS_SECRET_ACCESS_KEY": "aws-canary",
    "AWS_SESSION_TOKEN": "aws-session-canary",
    "AZURE_STORAGE_ACCOUNT_KEY": "YXp1cmUtY2FuYXJ5LWtleQ==",
    "GOOGLE_OAUTH_ACCESS_TOKEN": "google-canary",
    "GITHUB_TOKEN": "ghp_canary",
    "MODAL_TOKEN_ID": "ak-canary",
    "MODAL_TOKEN_SECRET": "as-canary",
    "PIP_INDEX_URL": "https://me:pip-canary@127.0.0.1:9/simple",
    "LLAMA_API_KEY": "sk-llama-canary",
    "OF_THE_JOB": "unlisted-canary",
}
"""Of the job that runs deployer: none of them may leave it."""
STACK = """\
version: 1
name: demo
engine: local
llama_cpp: {tag: b11434, binary: llama-server}
model: {path: tiny.gguf, alias: tiny}
auth: {api_key: {env: LLAMA_API_KEY}}
local: {port: 18080}
"""
"""Can be planned offline: `World.stack` writes what it names."""
_SENT = {"authorization", "x-amz-security-token", "x-amz-content-sha256", "cookie"}


class Listener:
    """A server on loopback that notes every request and answers 404."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, str, dict[str, str], bytes]] = []
        listener = self

        class Handler(BaseHTTPRequestHandler):
            def _any(self) -> None:
                size = int(self.headers.get("Content-Length") or 0)
                headers = {k.lower(): v for k, v in self.headers.items()}
                body = self.rfile.read(size)
                listener.heard.append((self.command, self.path, headers, body))
                self.send_response(404)
                self.send_header("Content-Length", "0")
                self.end_headers()

            # as http.server names them
            do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _any  # noqa: N815

            def log_message(self, *_: Any) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@dataclass(frozen=True)
class Outcome:
    """What a command did."""

    words: tuple[str, ...]
    code: int | None
    """None: it hung."""
    out: str
    err: str
    harm: tuple[str, ...] = ()
    """What it may not do, and did."""

    @property
    def said(self) -> str:
        return self.out + self.err


def assert_harmless(outcome: Outcome) -> None:
    harm = list(outcome.harm)
    if outcome.code is None:
        harm.append("it hung")
    elif outcome.code not in range(70):
        harm.append(f"it ended with exit code {outcome.code}")
    assert not harm, "\n".join(
        (f"deployer {' '.join(outcome.words)}", *harm, outcome.said[-2000:])
    )


@dataclass
class World:
    """A checkout of a stranger, and canaries around it."""

    top: Path
    deployer: Warm
    listener: Listener
    canary: str = field(default_factory=lambda: f"canary-{secrets.token_hex(8)}")
    changes: dict[str, str] = field(default_factory=dict)
    """Variables of the job beside the usual ones."""

    def __post_init__(self) -> None:
        for folder in (self.checkout / "stacks", self.outside, self.home, self.user):
            folder.mkdir(parents=True)
        for name in ("secret.txt", "secret.gguf", "secret.yaml", "sub/secret.json"):
            file = self.outside / name
            file.parent.mkdir(exist_ok=True)
            file.write_text(f"{self.canary}\n")
        (self.outside / ".ssh").write_text(self.canary)
        # A repository of its own: a project ends where its repository does.
        (self.checkout / ".git").mkdir()

    @property
    def checkout(self) -> Path:
        return self.top / "checkout"

    @property
    def outside(self) -> Path:
        return self.top / "outside"

    @property
    def home(self) -> Path:
        return self.top / "home"

    @property
    def user(self) -> Path:
        return self.top / "user"

    @property
    def ran(self) -> Path:
        """Each trap adds a line."""
        return self.top / "ran"

    def write(self, name: str, content: str | bytes, mode: int = 0o644) -> Path:
        """Write a file of the checkout."""
        file = self.checkout / name
        file.parent.mkdir(parents=True, exist_ok=True)
        data = content if isinstance(content, bytes) else content.encode("utf-8")
        file.write_bytes(data)
        file.chmod(mode)
        return file

    def stack(self, text: str = STACK, name: str = "demo") -> str:
        """Write a stack; its binary and its model only look right."""
        binary = Path(sys.executable).read_bytes()[:4096]
        self.write("stacks/llama-server", binary, 0o755)
        self.write("stacks/tiny.gguf", b"GGUF\x03\0\0\0" + bytes(100))
        self.write(f"stacks/{name}.yaml", text)
        return f"stacks/{name}.yaml"

    def trap(self, name: str) -> Path:
        """A program of the checkout that notes that it ran, and claims to be fine."""
        text = f'#!/bin/sh\necho "{name} $*" >> {self.ran}\necho "Version: 4.2"\n'
        return self.write(name, text, 0o755)

    def module(self, name: str) -> Path:
        """A Python module of the checkout that notes that it ran."""
        return self.write(name, f"open({str(self.ran)!r}, 'a').write({name!r})\n")

    def environment(self) -> dict[str, str]:
        """The variables of the job."""
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.user),
            "LANG": "C.UTF-8",
            "DEPLOYER_HOME": str(self.home),
            "PIP_RETRIES": "0",
            **CREDENTIALS,
            **self.changes,
        }

    def run(self, *words: str, cwd: str = ".", seconds: float = SECONDS) -> Outcome:
        """Run `deployer` in the checkout, and look at what it did."""
        before = _listing(self.outside, self.user)
        files = {name: self.top / f".{name}" for name in ("out", "err", "events")}
        for file in files.values():
            file.unlink(missing_ok=True)
        begun = len(self.listener.heard)
        code = self.deployer.run(
            words,
            self.checkout / cwd,
            self.environment(),
            seconds=seconds,
            **files,
        )
        out, err = (_text(files[name]) for name in ("out", "err"))
        harm = [
            *self._programs(),
            *self._events(_text(files["events"])),
            *(f"it changed {name}" for name in _differing(before, self)),
            *self._sent(begun),
            *self._leaked(out + err),
        ]
        return Outcome(words, code, out, err, tuple(harm))

    def _programs(self) -> Iterator[str]:
        if self.ran.exists():
            yield f"a trap ran: {self.ran.read_text()!r}"
            self.ran.unlink()

    def _events(self, text: str) -> Iterator[str]:
        for line in text.splitlines():
            kind, *words = json.loads(line)
            match kind:
                case "open" if Path(words[0]).is_relative_to(self.outside):
                    yield f"it opened {words[0]}"
                case "code" if self._inside(words[0]):
                    yield f"it imported {words[0]}"
                case "start" if self._inside(words[0]):
                    yield f"it started {words}"
                case "variables" if words[0] is None or "OF_THE_JOB" in words[0]:
                    yield "a child got all variables"
                case _:
                    pass

    def _inside(self, name: str) -> bool:
        """Whether a program or module is of the checkout."""
        if name.startswith("<"):  # code without a file
            return False
        if os.sep not in name:  # looked for on PATH
            folders = self.environment()["PATH"].split(os.pathsep)
            return any(not Path(folder).is_absolute() for folder in folders)
        place = Path(os.path.realpath(self.checkout / name))
        return place.is_relative_to(self.checkout.resolve())

    def _sent(self, begun: int) -> Iterator[str]:
        for method, path, headers, body in self.listener.heard[begun:]:
            text = f"{path} {headers} {body!r}"
            found = [n for n, value in CREDENTIALS.items() if value in text]
            if found or _SENT & headers.keys():
                yield f"it sent {found or 'credentials'}: {method} {path} {headers}"

    def _leaked(self, said: str) -> Iterator[str]:
        if self.canary in said:
            yield "it printed a private file"
        for name, value in CREDENTIALS.items():
            if value in said:
                yield f"it printed {name}"
        if found := UNSEEN.search(said):
            yield f"it printed {found[0]!r}"
        if "Traceback (most recent" in said:
            yield "it printed a traceback"


@contextmanager
def started() -> Iterator[tuple[Warm, Listener]]:
    """All that the worlds of a run share."""
    deployer, listener = Warm(), Listener()
    try:
        yield deployer, listener
    finally:
        deployer.close()
        listener.close()


def _listing(*folders: Path) -> dict[str, str]:
    """Each file with the digest of its content, each link with where it leads."""
    found = {}
    for folder in folders:
        for place in sorted(folder.rglob("*")):
            with suppress(OSError):
                if place.is_symlink():
                    found[str(place)] = str(place.readlink())
                elif place.is_file():
                    found[str(place)] = hashlib.sha256(place.read_bytes()).hexdigest()
                else:
                    found[str(place)] = "folder"
    return found


def _differing(before: dict[str, str], world: World) -> list[str]:
    now = _listing(world.outside, world.user)
    # pip asks `rustc` how old it is, which makes itself a folder.
    names = [n for n in {**before, **now} if "/.rustup" not in n]
    return [name for name in names if before.get(name) != now.get(name)]


def _text(file: Path) -> str:
    return file.read_text("utf-8", errors="surrogateescape") if file.exists() else ""
