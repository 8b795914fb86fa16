"""Files laid over each other with ``extends``: own values win, every place is kept."""

import os
from dataclasses import dataclass, field
from pathlib import Path

from deployer.diagnostics import Diagnostic, Place
from deployer.spelling import shown
from deployer.stack.project_root import how_to_allow, leads_out, root_of
from deployer.stack.yaml.yaml12 import (
    Broken,
    Entry,
    Listing,
    Scalar,
    Table,
    UnreadableError,
    merged,
    parse,
    text_of,
)

LONGEST_CHAIN = 16

_NOT_A_PATH = (OSError, ValueError, RuntimeError)
"""What a path raises that is too long, holds a NUL, or is a loop of links."""


@dataclass(slots=True)
class Layers:
    """What was read for one stack."""

    tree: Table | None = None
    """Everything merged; None if a file could not be read."""
    sources: list[Path] = field(default_factory=list)
    problems: list[Diagnostic] = field(default_factory=list)


def read_layers(path: Path, *, allowed: tuple[Path, ...] = ()) -> Layers:
    """Read a stack and all it extends; problems of every file are collected.

    Bases lie in the project of the stack, or below one of the ``allowed`` folders.
    """
    layers = Layers()
    try:
        if leads_out(path, allowed):
            what = f"`{shown(str(path))}` is a link out of the project"
            problem = Diagnostic("", what, how_to_allow(path), place=Place(str(path)))
            return Layers(problems=[problem])
        root = root_of(path)
    except _NOT_A_PATH:
        what = f"`{shown(str(path))}` is not a path"
        return Layers(problems=[Diagnostic("", what, place=Place(shown(str(path))))])
    reader = _Reader(layers, (root, *allowed))
    tree = reader.read(path, (), Place(str(path)))
    if not reader.unreadable:
        layers.tree = tree
    return layers


class _Reader:
    """Reads each file once, however many extend it."""

    def __init__(self, layers: Layers, roots: tuple[Path, ...]) -> None:
        self.unreadable = False
        self._layers = layers
        self._roots = roots
        self._known: dict[Path, Table] = {}

    def read(self, path: Path, chain: tuple[Path, ...], asked: Place) -> Table:
        """The file merged with its bases; empty if it cannot be read."""
        real = Path(os.path.realpath(path))
        if real not in self._known:
            self._known[real] = self._fresh(path, (*chain, path), asked)
        return self._known[real]

    def _fresh(self, path: Path, chain: tuple[Path, ...], asked: Place) -> Table:
        file = str(path)
        try:
            text = text_of(path, file=file, asked=asked)
            self._layers.sources.append(path)
            own, problems = parse(text, file)
        except UnreadableError as error:
            self._layers.problems.append(error.problem)
            self.unreadable = True
            return Table({})
        self._layers.problems += problems
        tree = Table({})
        for name, place in self._names(own):
            tree = merged(tree, self._base(path.parent / name, name, chain, place))
        tree.entries.pop("extends", None)
        return merged(tree, own)

    def _base(
        self, path: Path, name: str, chain: tuple[Path, ...], place: Place
    ) -> Table:
        """One base; a problem of how it is named is told where it is named."""
        try:
            base = _tidy(path)
            real = Path(os.path.realpath(base))
            told = self._refusal(base, real, name, chain)
        except _NOT_A_PATH:
            told = (f"`{shown(name)}` is not a path", "")
        if told:
            self._layers.problems.append(Diagnostic("extends", *told, place=place))
            self.unreadable = True
            return Table({})
        return self.read(base, chain, place)

    def _refusal(
        self, base: Path, real: Path, name: str, chain: tuple[Path, ...]
    ) -> tuple[str, str] | None:
        if real in (Path(os.path.realpath(link)) for link in chain):
            links = " → ".join(f"`{shown(str(link))}`" for link in (*chain, base))
            return f"files extend each other: {links}", "take one `extends` out"
        if len(chain) > LONGEST_CHAIN:
            return f"more than {LONGEST_CHAIN} files extend each other", ""
        if not any(real.is_relative_to(root) for root in self._roots):
            hint = "bases live in the same repository, else in the folder of the stack"
            return f"`{shown(name)}` is outside the repository of the stack", hint
        return None

    def _names(self, tree: Table) -> list[tuple[str, Place]]:
        """The bases a file names; anything but texts is told, and taken out."""
        entry = tree.entries.get("extends")
        if entry is None:
            return []
        match entry.node:
            case Scalar(None):
                return []
            case Listing(items):
                pass
            case _:
                items = (entry,)
        names = [(e.node.value, e.place) for e in items if isinstance(e.node, Scalar)]
        texts = [(name, place) for name, place in names if isinstance(name, str)]
        if len(texts) < len(items):
            what = "expected the path of a stack file, or a list of paths"
            self._layers.problems.append(Diagnostic("extends", what, place=entry.place))
            tree.entries["extends"] = Entry(entry.place, Broken())
        return texts


def _tidy(path: Path) -> Path:
    """Without `..` where that names the same file, for messages people can click."""
    short = Path(os.path.normpath(path))
    return short if os.path.realpath(short) == os.path.realpath(path) else path
