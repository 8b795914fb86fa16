"""What a plan needs of the files of a stack, remembered while no file changes.

Reading the model costs more than a whole plan without changes, so what it led to is
kept beside the store, with everything it came from and the state of the code that
read it.  A file that differs by a byte, one that appears, or a local artefact that was
touched, is read anew; losing the cache costs one slower plan.
"""

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from deployer.answers.inputs import Input, code, digest, look
from deployer.answers.private import read, write
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
    inputs: tuple[Input, ...] | None = None
    """What it came from; None where that cannot be told, or moves."""


class Cache:
    """Prepared stacks in one folder."""

    def __init__(self, folder: Path, allowed: tuple[Path, ...] = ()) -> None:
        """`allowed` is what stacks may read: another list, another answer."""
        self._folder = str(folder)
        self._allowed = ":".join(map(str, allowed))

    def find(
        self, stack_file: Path, engine: str | None, machine: Callable[[str], str]
    ) -> Prepared | None:
        """What was prepared from exactly these inputs, if anything.

        ``machine`` tells of an engine what its abilities here depend on now.
        """
        try:
            content = json.loads(read(self._folder, self._name(stack_file, engine)))
            if content["code"] != this_code():
                return None
            if any(look(how, path) != word for how, path, word in content["inputs"]):
                return None
            inputs = tuple((how, path) for how, path, _ in content["inputs"])
            found = _prepared(content["prepared"], inputs)
            if content["machine"] and content["machine"] != machine(found.engine):
                return None
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return found

    def keep(
        self, stack_file: Path, engine: str | None, prepared: Prepared, machine: str
    ) -> None:
        """Remember; not being able to is no error.

        ``machine`` is what the abilities of this machine were found out for, where
        they matter.  The inputs have to be `unchanged` since before they were read.
        """
        if prepared.inputs is None:
            return
        with suppress(OSError, ValueError):
            content = {
                "code": this_code(),
                "inputs": [[how, it, look(how, it)] for how, it in prepared.inputs],
                "machine": machine,
                "prepared": _data(prepared),
            }
            text = json.dumps(content).encode()
            write(self._folder, self._name(stack_file, engine), text)

    def _name(self, stack_file: Path, engine: str | None) -> str:
        name = (str(stack_file.absolute()), str(stack_file), engine or "")
        return f"{digest(*name, self._allowed)[:24]}.json"


@cache  # two hundred files; what runs is imported already
def this_code() -> str:
    """The state of our own files, found out once a run."""
    return code()


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


def _prepared(content: Mapping[str, JsonValue], inputs: tuple[Input, ...]) -> Prepared:
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
            return Prepared(name, engine, graph, found, told, known, traps, inputs)
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
