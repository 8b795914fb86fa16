"""A stack file to a `Stack`, with the place of every key; every problem at once."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from deployer.diagnostics import Place, Problem
from deployer.errors import StackError
from deployer.stack.checks_modal import modal_notes
from deployer.stack.fields.marks import leaves
from deployer.stack.fields.model import Stack
from deployer.stack.fields.values import JsonValue
from deployer.stack.validate import Written, validated
from deployer.stack.yaml.overlay import read_layers
from deployer.stack.yaml.tree import Broken, Entry, Scalar, Table, dotted, plain, walk


@dataclass(frozen=True, slots=True)
class Loaded:
    """A stack that is right in itself, and where each part of it was written."""

    stack: Stack
    places: Mapping[str, Place]
    """Dotted path -> where the key of the winning value is written."""
    sources: tuple[Path, ...]
    """Every file that was read, in the order of reading."""
    digest: str
    """SHA-256 of the merged values; equal for stacks that say the same."""
    notes: tuple[str, ...]
    """What is worth knowing, and no problem."""


def load(
    path: Path, *, engine: str | None = None, allowed: tuple[Path, ...] = ()
) -> Loaded:
    """Read a stack and all it extends; ``engine`` wins over the one in the file.

    Files that it names lie in its project, or below one of the ``allowed`` folders.

    Raises StackError with every problem of every file, sorted by place.
    """
    layers = read_layers(path, allowed=allowed)
    if layers.tree is None:
        raise _refused(layers.problems)
    tree = _with_engine(layers.tree, engine, path) if engine else layers.tree
    entries = tuple(walk(tree))
    places = {dotted(steps): entry.place for steps, entry in entries}
    broken = [steps for steps, entry in entries if isinstance(entry.node, Broken)]
    values = plain(tree)
    stack, problems = validated(Written(tree, places, broken, path, allowed), values)
    problems += layers.problems
    if problems or stack is None:
        raise _refused(problems)
    notes = _notes(stack, places)
    return Loaded(stack, places, tuple(layers.sources), _digest(values), notes)


def _refused(problems: list[Problem]) -> StackError:
    """Sorted, each once: an alias shows one mistake in several places."""
    told = {(problem.place, problem.what): problem for problem in reversed(problems)}
    return StackError(sorted(told.values()))


def _with_engine(tree: Table, engine: str, path: Path) -> Table:
    known = tree.entries.get("engine")
    place = known.place if known else Place(str(path))
    return Table({**tree.entries, "engine": Entry(place, Scalar(engine, engine))})


def _digest(values: JsonValue) -> str:
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _notes(stack: Stack, places: Mapping[str, Place]) -> tuple[str, ...]:
    """Settings that the engine does not use; a section of such only is named once.

    And what else an engine has to say.
    """
    written = [leaf for leaf in leaves(stack) if leaf.path in places]
    unused = [leaf for leaf in written if leaf.marks.only not in (None, stack.engine)]
    names: dict[str, None] = {}
    for leaf in unused:
        section = leaf.path.partition(".")[0]
        beside = [other for other in written if other.path.startswith(f"{section}.")]
        whole = len(beside) > 1 and all(other in unused for other in beside)
        names[section if whole else leaf.path] = None
    unread = (f"not used by {stack.engine}: {', '.join(names)}",) if names else ()
    return (*unread, *(modal_notes(stack) if stack.engine == "modal" else ()))
