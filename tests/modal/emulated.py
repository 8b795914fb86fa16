"""The emulator as tests see it: a program of its own, that ends with them."""

import json
import os
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
HASTE = 10.0
"""How many times sooner than on Modal an idle container goes."""
_LIMIT = 30.0
PROXY_TOKEN = "wk-of-the-tests.ws-of-the-tests"
"""The token that the proxy of the emulated platform lets in."""


@dataclass(frozen=True)
class Emulated:
    """A control plane that runs."""

    url: str
    control: str
    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        """What points an unmodified client at it."""
        return {
            "MODAL_SERVER_URL": self.url,
            "MODAL_TOKEN_ID": "ak-of-the-tests",
            "MODAL_TOKEN_SECRET": "as-of-the-tests",
            "MODAL_CONFIG_PATH": str(self.folder / "none.toml"),
            "MODAL_PROXY_TOKEN": PROXY_TOKEN,
        }

    def seen(self) -> dict[str, Any]:
        """Counts, apps, containers."""
        found: dict[str, Any] = json.loads(self._ask("seen"))
        return found

    def requests(self) -> list[tuple[str, dict[str, Any]]]:
        """What the client asked for since `forget`, in order."""
        return [(name, content) for name, content in json.loads(self._ask("requests"))]

    def calls(self) -> dict[str, int]:
        """How often each request of the client came since `forget`."""
        found: dict[str, int] = self.seen()["calls"]
        return found

    def app(self, name: str) -> dict[str, Any] | None:
        """The newest app of a name, in any state."""
        found: dict[str, Any] | None = json.loads(self._ask(f"app?name={name}"))
        return found

    def volume(self, name: str) -> Path:
        """The folder that holds what is on a Volume."""
        return Path(self.seen()["volumes"][name])

    def log(self) -> str:
        """All that containers wrote, and the platform said."""
        return "".join(json.loads(self._ask("logs")))

    def forget(self) -> None:
        """Count from here on."""
        self._order("forget", {})

    def faults(self, **faults: object) -> None:
        """What goes wrong from here on; nothing, when nothing is named."""
        self._order("faults", faults)

    def secret(self, name: str, values: Mapping[str, str]) -> None:
        """Create a secret, or change it."""
        self._order("secret", {"name": name, "values": dict(values)})

    def preempt(self, app: str) -> None:
        """Take the machines of an app away."""
        self._order("preempt", {"app": app})

    def add_environment(self, name: str) -> None:
        self._order("environment", {"name": name})

    def cut(self) -> None:
        """Be unreachable until `mend`."""
        self._order("cut", {})

    def mend(self) -> None:
        self._order("mend", {})

    def _ask(self, what: str) -> bytes:
        with urllib.request.urlopen(f"{self.control}/{what}", timeout=_LIMIT) as found:
            content: bytes = found.read()
            return content

    def _order(self, what: str, content: Mapping[str, object]) -> None:
        body = json.dumps(content).encode()
        request = urllib.request.Request(f"{self.control}/{what}", data=body)
        urllib.request.urlopen(request, timeout=_LIMIT).close()


@contextmanager
def emulator(
    folder: Path, *, simulated: bool = False, haste: float = HASTE
) -> Iterator[Emulated]:
    """Run one; it ends when its stdin does, whatever becomes of us.

    ``simulated`` containers are no processes: what they would say and answer is made
    up, so that stories can be told by the thousand.
    """
    root = simulated or os.geteuid() == 0
    assert root, "its containers mount what they see: run this as root"
    words = [str(folder), str(haste), *(["simulated"] if simulated else [])]
    folder.mkdir(parents=True)
    with (folder / "emulator.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.modal.emulator", *words],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
        )
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line, (folder / "emulator.log").read_text(encoding="utf-8")
            found = json.loads(line)
            yield Emulated(found["url"], found["control"], folder)
        finally:
            assert process.stdin is not None
            process.stdin.close()
            process.wait(timeout=_LIMIT)
            assert process.stdout is not None
            process.stdout.close()


def wait_until(what: Callable[[], bool]) -> None:
    """Look again and again until something is so."""
    deadline = time.monotonic() + _LIMIT
    while not what():
        assert time.monotonic() < deadline, "it never came"
        threading.Event().wait(0.02)
