"""Prepared stacks, kept while everything that they came from is the same.

Reading the model costs more than a whole plan without changes.  So what a stack led to
is kept below the home of this user, with each path that it came from and what was seen
there.  It is used again only where every look sees the same; losing it costs one slower
plan.
"""

import json
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from stat import S_ISDIR, S_ISREG

import deployer
from deployer.artefacts.json_files import decoded, encoded
from deployer.diagnostics import Diagnostic, Place
from deployer.planning.plan import Fit, Share, memory_of, share_of
from deployer.planning.resources import Graph
from deployer.stack.fields.values import DECIDING
from deployer.stack.project_root import TRUSTED
from deployer.system.files import read, write

_ABSENT = "-"
_LARGE = 256 * 1024
"""Bytes from which on a file is known by its stamp and not by its digest."""
_VARIABLES = ("HOME", "PATH", "XDG_DATA_HOME")
"""Variables that decide what is read, beside our own."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A stack that was read, checked, resolved and expanded."""

    name: str
    engine: str
    graph: Graph
    places: Mapping[str, Place]
    """Where each field was written, by dotted path."""
    notes: tuple[str, ...]
    """Notes for the user that are no problem."""
    fit: Fit | None = None
    """The memory that it needs where it runs first; None where nobody knows yet."""
    notices: tuple[Diagnostic, ...] = ()
    """Known traps that it is in."""
    seen: Mapping[str, str] | None = None
    """Paths that it came from, and what was there; None for too many or moving ones."""

    @property
    def listens(self) -> str:
        """Host and port of its server on this machine; empty where it has none."""
        host, port = f"{self.engine}.host", f"{self.engine}.port"
        for node in self.graph.values():
            if host in node.fields and port in node.fields:
                return f"{node.fields[host]}:{node.fields[port]}"
        return ""

    @property
    def share(self) -> Share:
        """The GPUs of this machine that its server uses; none for one elsewhere."""
        fields = {p: v for node in self.graph.values() for p, v in node.fields.items()}
        return share_of(fields if self.listens else {}, memory_of(self.fit))


class Cache:
    """Prepared stacks in one folder, for one environment."""

    def __init__(self, home: Path, environment: Mapping[str, str]) -> None:
        """``home`` holds the folder; the variables decide what a stack leads to."""
        self._folder = str(home / "cache" / "stacks")
        # A folder that is trusted no more is read no more.
        trusted = look(str(home / TRUSTED))
        self._around = _digest(_surroundings(environment), trusted)

    def find(self, stack_file: Path, engine: str | None) -> Prepared | None:
        """Return what was prepared from exactly this, if anything."""
        try:
            content = json.loads(read(self._folder, _name(stack_file, engine)))
            if content["around"] != self._around:
                return None
            prepared = content["prepared"]
            if any(look(path) != word for path, word in prepared["seen"].items()):
                return None
            return decoded(Prepared, prepared)
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def keep(self, stack_file: Path, engine: str | None, prepared: Prepared) -> None:
        """Keep what was prepared; being unable to is no error."""
        if prepared.seen is None:
            return
        content = {"around": self._around, "prepared": encoded(prepared)}
        with suppress(OSError, ValueError):
            text = json.dumps(content).encode()
            write(self._folder, _name(stack_file, engine), text)


def look(path: str) -> str:
    """Return one word for what is at a path now; raises OSError where it is closed.

    A small file by its content, a large one by its stamp, a folder by its names; and
    where links lead to.  Absence is a word, too.
    """
    try:
        status = os.stat(path)
        if S_ISDIR(status.st_mode):
            word = _digest(*sorted(os.listdir(path)))
        elif not S_ISREG(status.st_mode):
            word = "other"
        elif status.st_size > _LARGE:
            times = f"{status.st_mtime_ns}:{status.st_ctime_ns}"
            word = f"{status.st_size}:{times}:{status.st_ino}"
        else:
            # Never waits: what was a file a moment ago may be a pipe.
            with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as stream:
                word = sha256(stream.read(_LARGE + 1)).hexdigest()
    except (FileNotFoundError, NotADirectoryError):
        return _ABSENT
    return f"{word}:{status.st_mode:o}:{os.path.realpath(path)}"


@cache
def this_code() -> str:
    """Return the state of our own files: another deployer may read otherwise."""
    found: list[str] = []
    folders = [os.path.dirname(deployer.__file__)]
    for folder in folders:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir():
                    folders += () if entry.name == "__pycache__" else (entry.path,)
                    continue
                status = entry.stat()
                found.append(f"{entry.path}:{status.st_mtime_ns}:{status.st_size}")
    # An upgrade of an installed package renames a folder in one of these.
    ends = ("site-packages", "dist-packages")
    packages = [
        path for path in sys.path if path.endswith(ends) and os.path.isdir(path)
    ]
    found += (f"{path}:{os.stat(path).st_mtime_ns}" for path in packages)
    return _digest(sys.version, *sorted(found))


def _surroundings(environment: Mapping[str, str]) -> str:
    """One digest of what every stack depends on: code, machine, user, variables."""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    machine = (os.uname().release, str(pages), str(os.geteuid()))
    ours = [
        name
        for name in environment
        if name in _VARIABLES or name.startswith(("DEPLOYER_", *DECIDING))
    ]
    variables = (f"{name}={environment[name]}" for name in sorted(ours))
    return _digest(this_code(), *machine, *variables)


def _name(stack_file: Path, engine: str | None) -> str:
    whole = os.path.abspath(stack_file)
    return f"{_digest(whole, str(stack_file), engine or '')}.json"


def _digest(*parts: str) -> str:
    return sha256("\0".join(parts).encode(errors="surrogateescape")).hexdigest()
