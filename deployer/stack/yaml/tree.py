"""What a YAML file says, with the place of every key and value."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from deployer.diagnostics import Place
from deployer.stack.fields.values import JsonValue

Steps = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Scalar:
    """One value that holds no others."""

    value: bool | float | str | None
    text: str
    """As it is written, without quotes."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A value under a key, or in a list."""

    place: Place
    """Where the key is written; in a list, where the item is."""
    node: "Node"


@dataclass(frozen=True, slots=True)
class Table:
    """A mapping, in the order of the file."""

    entries: dict[str, Entry]


@dataclass(frozen=True, slots=True)
class Listing:
    """A list."""

    items: tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class Broken:
    """Something whose problem has been told; nothing more is said about it."""


Node = Scalar | Table | Listing | Broken


def merged(base: Table, over: Table) -> Table:
    """The overlay on the base: mappings merge, everything else replaces.

    A null stays in, so that it still removes what a later base would bring.
    """
    entries = dict(base.entries)
    for key, entry in over.entries.items():
        below = entries.get(key)
        match below and below.node, entry.node:
            case Table() as lower, Table() as upper:
                entries[key] = Entry(entry.place, merged(lower, upper))
            case _:
                entries[key] = entry
    return Table(entries)


def plain(node: Node) -> JsonValue:
    """The values alone; what is null or broken in a mapping is absent."""
    match node:
        case Scalar(value):
            return value
        case Listing(items):
            return [plain(item.node) for item in items]
        case Table(entries):
            return {
                key: plain(entry.node)
                for key, entry in entries.items()
                if not _removes(entry.node) and not isinstance(entry.node, Broken)
            }
        case Broken():
            return None


def walk(node: Node, path: Steps = ()) -> Iterator[tuple[Steps, Entry]]:
    """Every entry below a node with its path, parents first; without removed keys."""
    below: Iterator[tuple[str | int, Entry]]
    match node:
        case Table(entries):
            below = ((k, e) for k, e in entries.items() if not _removes(e.node))
        case Listing(items):
            below = enumerate(items)
        case _:
            return
    for step, entry in below:
        here = (*path, step)
        yield here, entry
        yield from walk(entry.node, here)


def node_at(node: Node, path: Steps) -> Node | None:
    """What stands at a path, or the broken value above it; None if nothing does."""
    for step in path:
        match node, step:
            case Table(entries), str() if step in entries:
                node = entries[step].node
            case Listing(items), int() if step < len(items):
                node = items[step].node
            case Broken(), _:
                return node
            case _:
                return None
    return node


def place_of(places: Mapping[str, Place], path: str) -> Place | None:
    """The place of a path, or of the nearest one above it that was written."""
    while path:
        if found := places.get(path):
            return found
        path = path.rpartition(".")[0]
    return None


def dotted(path: Steps) -> str:
    """A path as people write it."""
    return ".".join(map(str, path))


def _removes(node: Node) -> bool:
    """Return whether a key with this value is as if it were not written."""
    return isinstance(node, Scalar) and node.value is None
