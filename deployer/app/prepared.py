"""What a plan needs of the files of a stack, remembered while no file changes.

Reading the model costs more than a whole plan without changes, so what it led to is
kept beside the store, under the digests of every file it came from and of the code
that read them.  A file that differs by a byte, or a local artefact that was touched,
is read anew; losing the cache costs one slower plan.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import deployer
from deployer.core.fit import Fit, fit_data, fit_of
from deployer.core.notices import Notice, Severity, notice_data
from deployer.core.problems import Place
from deployer.core.resources import Graph, Kind, Node
from deployer.core.values import JsonValue


@dataclass(frozen=True, slots=True)
class Prepared:
    """A stack that was read, checked, resolved and expanded."""

    name: str
    engine: str
    graph: Graph
    places: Mapping[str, Place]
    """Where each field was written, by dotted path."""
    notes: tuple[str, ...]
    """What the user should know though it is not wrong."""
    fit: Fit | None = None
    """The memory that it needs where it runs first; None where nobody knows yet."""
    notices: tuple[Notice, ...] = ()
    """Known traps that it is in."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """The files that a prepared stack came from."""

    texts: tuple[Path, ...]
    """Stack, bases, lock file: compared by content."""
    artefacts: tuple[Path, ...]
    """Weights, binaries, pictures of this machine: compared by size and time."""
    machine: str = ""
    """What the abilities of this machine were found out for, where they matter."""


class Cache:
    """Prepared stacks in one folder."""

    def __init__(self, folder: Path, allowed: tuple[Path, ...] = ()) -> None:
        """`allowed` is what stacks may read: another list, another answer."""
        self._folder = folder
        self._allowed = ":".join(map(str, allowed))

    def find(
        self, stack_file: Path, engine: str | None, machine: Callable[[str], str]
    ) -> Prepared | None:
        """What was prepared from exactly these files, if anything.

        ``machine`` tells of an engine what its abilities here depend on now.
        """
        try:
            content = json.loads(self._file(stack_file, engine).read_bytes())
            inputs = Inputs(
                tuple(Path(p) for p in content["texts"]),
                tuple(Path(p) for p in content["artefacts"]),
                str(content["machine"]),
            )
            if content["digest"] != _digest(inputs):
                return None
            engine = content["prepared"]["engine"]
            if inputs.machine and inputs.machine != machine(engine):
                return None
            return _prepared(content["prepared"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def keep(
        self, stack_file: Path, engine: str | None, prepared: Prepared, inputs: Inputs
    ) -> None:
        """Remember; not being able to is no error."""
        with suppress(OSError):
            content = {
                "texts": [str(path) for path in inputs.texts],
                "artefacts": [str(path) for path in inputs.artefacts],
                "machine": inputs.machine,
                "digest": _digest(inputs),
                "prepared": _data(prepared),
            }
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            file = self._file(stack_file, engine)
            new = file.with_suffix(f".{os.getpid()}.new")
            new.write_text(json.dumps(content), encoding="utf-8")
            new.replace(file)

    def _file(self, stack_file: Path, engine: str | None) -> Path:
        name = f"{stack_file.absolute()}\n{stack_file}\n{engine or ''}\n{self._allowed}"
        return self._folder / f"{hashlib.sha256(name.encode()).hexdigest()[:24]}.json"


def _digest(inputs: Inputs) -> str:
    found = hashlib.sha256(_code().encode())
    for path in inputs.texts:
        found.update(hashlib.sha256(path.read_bytes()).digest())
    for path in inputs.artefacts:
        status = path.stat()
        stamp = f"{path}:{status.st_size}:{status.st_mtime_ns}:{status.st_ino}\n"
        found.update(stamp.encode())
    return found.hexdigest()


def _code() -> str:
    """Version and state of our own files: another deployer may read otherwise."""
    root = Path(deployer.__file__).parent
    stamps = [f"{p}:{m}:{s}" for p, m, s in sorted(_stamps((root, root / "core")))]
    return "\n".join((deployer.__version__, *stamps))


def _stamps(folders: Iterable[Path]) -> Iterable[tuple[str, int, int]]:
    for folder in folders:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.endswith(".py"):
                    status = entry.stat()
                    yield entry.path, status.st_mtime_ns, status.st_size


def _data(prepared: Prepared) -> dict[str, JsonValue]:
    return {
        "name": prepared.name,
        "engine": prepared.engine,
        "nodes": [_node_data(node) for node in prepared.graph.values()],
        "places": {p: [w.file, w.line, w.column] for p, w in prepared.places.items()},
        "notes": list(prepared.notes),
        "fit": None if prepared.fit is None else fit_data(prepared.fit),
        "notices": [notice_data(notice) for notice in prepared.notices],
    }


def _node_data(node: Node) -> JsonValue:
    return {
        "address": node.address,
        "kind": node.kind.value,
        "key": node.key,
        "fields": dict(node.fields),
        "needs": dict(node.needs),
        "spec": dict(node.spec),
    }


def _prepared(content: Mapping[str, JsonValue]) -> Prepared:
    """Raises KeyError, TypeError or ValueError for anything that is not ours."""
    match content:
        case {
            "name": str(name),
            "engine": str(engine),
            "nodes": list(nodes),
            "places": dict(places),
            "notes": list(notes),
            "fit": None | dict() as fit,
            "notices": list(notices),
        }:
            graph = {n.address: n for n in (_node(node) for node in nodes)}
            found = {path: _place(place) for path, place in places.items()}
            told = tuple(str(note) for note in notes)
            known = None if fit is None else fit_of(fit)
            traps = tuple(_notice(notice) for notice in notices)
            return Prepared(name, engine, graph, found, told, known, traps)
        case _:
            raise ValueError("not a prepared stack")


def _node(content: JsonValue) -> Node:
    match content:
        case {
            "address": str(address),
            "kind": str(kind),
            "key": str(key),
            "fields": dict(fields),
            "needs": dict(needs),
            "spec": dict(spec),
        }:
            found = {kind: str(needed) for kind, needed in needs.items()}
            return Node(address, Kind(kind), key, fields, found, spec)
        case _:
            raise ValueError("not a node")


def _notice(content: JsonValue) -> Notice:
    match content:
        case {
            "file": str(file),
            "line": int(line),
            "column": int(column),
            "severity": str(severity),
            "id": str(name),
            "path": str(path),
            "what": str(what),
            "hint": str(hint),
        }:
            place = Place(file, line, column)
            return Notice(place, Severity(severity), name, path, what, hint)
        case _:
            raise ValueError("not a notice")


def _place(content: JsonValue) -> Place:
    match content:
        case [str(file), int(line), int(column)]:
            return Place(file, line, column)
        case _:
            raise ValueError("not a place")
