"""YAML to a tree: the YAML 1.2 core schema, and refusals where YAML surprises.

Only `true` and `false` are booleans, `012` is 12, `1e3` a number; `on`, `22:22` and
dates are strings, and so is everything in quotes.  Refused: duplicate keys, merge keys,
tags, keys that are no strings, values left empty, several documents.  The parser's
events are read one by one, so depth and aliases are bounded before they cost.
"""

import math
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeAlias

import yaml

from deployer.diagnostics import Diagnostic, Place
from deployer.spelling import did_you_mean, shown
from deployer.stack.fields.marks import looks_like_a_credential
from deployer.stack.fields.values import JsonValue
from deployer.stack.project_root import how_to_allow, leads_out, root_of
from deployer.system.files import NotRegularError, read_regular

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
    """A value whose problem has been reported; nothing more is said about it."""


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
    """Return the node at a path, or the broken value above it; None without one."""
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


def dotted(path: Steps) -> str:
    """A path as people write it."""
    return ".".join(map(str, path))


def _removes(node: Node) -> bool:
    """Return whether a key with this value is as if it were not written."""
    return isinstance(node, Scalar) and node.value is None


class Mark(Protocol):
    """A position in a string; the C parser's class is not the Python one's."""

    line: int
    column: int


_COMPLAINTS: Mapping[str, tuple[str, str]] = {
    "mapping values are not allowed": (
        "a second `:` on this line, or the line is indented too far",
        (
            "write a string that contains `: ` in quotes; "
            "keys of one section start in one column"
        ),
    ),
    "that cannot start any token": (
        "this character cannot start a value",
        "write strings that start with `@`, `%` or `` ` `` in quotes",
    ),
    "\t": ("a tab in the indentation", "indent with spaces"),
    "did not find expected ',' or ']'": (
        "a list in `[` is not closed",
        "separate its items by `,` and close it with `]`",
    ),
    "did not find expected ',' or '}'": (
        "a mapping in `{` is not closed",
        "separate its entries by `,` and close it with `}`",
    ),
    "expected ',' or ']'": (
        "a list in `[` is not closed",
        "separate its items by `,` and close it with `]`",
    ),
    "expected ',' or '}'": (
        "a mapping in `{` is not closed",
        "separate its entries by `,` and close it with `}`",
    ),
    "could not find expected ':'": (
        "a key without `:`",
        "write `key: value`; a string of several lines starts with `|`",
    ),
    "did not find expected key": (
        "expected a key here",
        (
            "keys of one section start in one column; "
            "a string after a closing quote belongs inside the quotes"
        ),
    ),
    "did not find expected '-' indicator": (
        "expected another `- item` of the list",
        "items of one list start in one column",
    ),
    "block sequence entries are not allowed": (
        "a list item cannot start here",
        "put `- item` on a line of its own",
    ),
    "unexpected end of stream": (
        "the file ends inside a quoted string",
        "close the quotes",
    ),
    "unexpected document indicator": (
        "a document ends inside a quoted string",
        "close the quotes",
    ),
    "escape": (
        "an escape that YAML does not know",
        "in `\"…\"` write `\\\\` for a backslash, or use `'…'`",
    ),
    "expected hexdecimal number": (
        "an escape that YAML does not know",
        "in `\"…\"` write `\\\\` for a backslash, or use `'…'`",
    ),
    "undefined tag handle": (
        "tags (`!…`) are not used in stacks",
        "leave it out; a string is written in quotes",
    ),
    "<document start>": (
        "expected nothing more here",
        "put everything under keys at the start of the line",
    ),
    "alphabetic or numeric character": (
        "a name is missing behind `&` or `*`",
        "write a string that starts with `&` or `*` in quotes",
    ),
    "<block end>": (
        "expected a key or a list item here",
        "keys of one section start in one column",
    ),
    "directive": (
        "a line that starts with `%` is a directive",
        "leave it out, or write the text in quotes",
    ),
    "incompatible": ("this version of YAML is not known", "leave the `%YAML` line out"),
}
"""Part of a message of libyaml or of its Python twin -> what, hint."""

UNKNOWN = ("this is not YAML", "check indentation, quotes and brackets around here")


def explained(error: yaml.MarkedYAMLError, text: str) -> tuple[Mark | None, str, str]:
    """Where it is, what is wrong and a hint, for a complaint about a string."""
    mark = error.problem_mark or error.context_mark
    problem, context = error.problem or "", error.context or ""
    if "cannot start any token" in problem and mark and _at(text, mark) == "\t":
        problem = "\t"
    what, hint = _words(problem, context)
    begun = error.context_mark
    if begun and ("not closed" in what or "inside a quoted" in what):
        hint += f"; it begins in line {begun.line + 1}, column {begun.column + 1}"
    return mark, what, hint


def _words(problem: str, context: str) -> tuple[str, str]:
    for complaint in (problem, context):
        for part, words in _COMPLAINTS.items():
            if part in complaint:
                return words
    return UNKNOWN


def _at(text: str, mark: Mark) -> str:
    lines = text.splitlines()
    line = lines[mark.line] if mark.line < len(lines) else ""
    return line[mark.column : mark.column + 1]


Loader: TypeAlias = type[yaml.SafeLoader] | type[yaml.CSafeLoader]

LOADER: Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
DEEPEST = 32
MOST_NODES = 20_000
LARGEST = 2**63 - 1

_SECRET = "looks like a secret"  # noqa: S105 - the words, not one
_ELSEWHERE = (
    "keep it out of the file: name the environment variable or the Modal secret "
    "that holds it, as `auth.api_key` does"
)

_WORDS: dict[str, bool | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_DECIMAL = re.compile(r"[-+]?[0-9]+")
_BASED = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_SPECIAL = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")


class UnreadableError(Exception):
    """A file says nothing that could be checked further; carries why."""

    def __init__(self, problem: Diagnostic) -> None:
        super().__init__(problem.what)
        self.problem = problem


def parse(
    text: str, file: str, *, loader: Loader = LOADER
) -> tuple[Table, list[Diagnostic]]:
    """The mapping a string holds, and the problems that leave the rest readable.

    Raises UnreadableError with the one problem that does not.
    """
    builder = _Builder(file)
    try:
        for event in yaml.parse(text, Loader=loader):
            builder.take(event)
    except yaml.MarkedYAMLError as error:
        mark, what, hint = explained(error, text)
        raise UnreadableError(
            Diagnostic("", what, hint, place=builder.at(mark))
        ) from error
    except (yaml.YAMLError, ValueError) as error:
        raise UnreadableError(Diagnostic("", *UNKNOWN, place=Place(file))) from error
    return builder.table(), builder.problems


def resolved(text: str) -> bool | float | str | None:
    """The value of a plain scalar under the core schema of YAML 1.2.

    Raises ValueError for a number that is not finite, or too large to be meant.
    A whole number is an integer however it is written: JSON knows no difference.
    """
    if text in _WORDS:
        return _WORDS[text]
    if text[0] not in "+-.0123456789":
        return text
    number: float
    if _DECIMAL.fullmatch(text):
        number = int(text) if len(text.lstrip("+-0")) < 20 else math.inf
    elif _BASED.fullmatch(text):
        number = int(text, 0) if len(text) < 30 else math.inf
    elif _FLOAT.fullmatch(text):
        number = float(text)
    elif _SPECIAL.fullmatch(text):
        raise ValueError("is not a finite number")
    else:
        return text
    if abs(number) > LARGEST:
        raise ValueError("is read as a number, and is too large for one")
    return int(number) if number == int(number) else number


@dataclass(slots=True)
class _Open:
    """A collection whose end has not come yet."""

    place: Place
    anchor: str | None
    began: int
    """Nodes counted before it."""
    is_table: bool
    entries: dict[str, Entry] = field(default_factory=dict)
    items: list[Entry] = field(default_factory=list)
    key: str | None = None
    """Key that waits for its value."""
    key_place: Place | None = None
    """Also set while the value of a refused key is passed over."""
    height: int = 1


@dataclass(frozen=True, slots=True)
class _Anchored:
    """The node that an alias stands for, and the cost of writing it out."""

    node: Node
    size: int
    height: int


class _Builder:
    """Takes events, and builds the tree of one document."""

    def __init__(self, file: str) -> None:
        self.problems: list[Diagnostic] = []
        self._file = file
        self._open: list[_Open] = []
        self._anchors: dict[str, _Anchored] = {}
        self._nodes = 0
        self._root: tuple[Place, Node] | None = None

    def table(self) -> Table:
        """The root, which has to be a mapping."""
        match self._root:
            case None | (_, Scalar(None) | Broken()):
                hint = "`deployer init` writes a stack to start from"
                raise self._stop(Place(self._file), "the file is empty", hint)
            case (_, Table() as table):
                return table
            case (place, _):
                what = "expected `key: value` lines at the top"
                raise self._stop(place, what, "a stack begins with `version: 1`")

    def at(self, mark: Mark | None) -> Place:
        """The place of a mark; marks count from 0."""
        if mark is None:
            return Place(self._file)
        return Place(self._file, mark.line + 1, mark.column + 1)

    def take(self, event: yaml.Event) -> None:
        """Take the next event of the parser."""
        match event:
            case yaml.ScalarEvent():
                self._check_node(event)
                self._take_scalar(event)
            case yaml.MappingStartEvent() | yaml.SequenceStartEvent():
                self._check_node(event)
                self._begin(event)
            case yaml.CollectionEndEvent():
                self._end()
            case yaml.AliasEvent():
                self._take_alias(event)
            case yaml.DocumentStartEvent() if self._root:
                what = "a second document starts here"
                raise self._stop(self.at(event.start_mark), what, "one stack a file")

    def _check_node(self, event: yaml.ScalarEvent | yaml.CollectionStartEvent) -> None:
        place = self.at(event.start_mark)
        self._count(1, place)
        if event.tag is not None:
            hint = "leave it out; a string is written in quotes"
            raise self._stop(place, "tags (`!…`) are not used in stacks", hint)

    def _count(self, nodes: int, place: Place) -> None:
        self._nodes += nodes
        if self._nodes > MOST_NODES:
            what = f"more than {MOST_NODES} values, aliases written out"
            raise self._stop(place, what, "a stack is at most a few hundred lines")

    def _take_scalar(self, event: yaml.ScalarEvent) -> None:
        place = self.at(event.start_mark)
        if self._wants_key():
            self._take_key(event, place)
            return
        node = self._value(event, place)
        if event.anchor:
            self._anchors[event.anchor] = _Anchored(node, 1, 0)
        self._add(place, node, 0)

    def _value(self, event: yaml.ScalarEvent, place: Place) -> Node:
        text = event.value
        if looks_like_a_credential(text, key=self._key()):
            return self._broken(place, _SECRET, _ELSEWHERE)
        if not event.implicit[0]:
            return Scalar(text, text)
        if text == "" and self._open:
            hint = "write `{}` for an empty section, `null` to remove a base's value"
            return self._broken(place, "no value here", hint)
        try:
            return Scalar(resolved(text), text)
        except ValueError as error:
            hint = f'if it is a string, write it in quotes: `"{text}"`'
            hint = hint if len(text) < 80 else "if it is a string, write it in quotes"
            return self._broken(place, f"`{text[:40]}` {error}", hint)

    def _take_key(self, event: yaml.ScalarEvent, place: Place) -> None:
        top = self._open[-1]
        top.key_place = place
        key = event.value
        if looks_like_a_credential(key):
            self._broken(place, _SECRET, _ELSEWHERE)
        elif event.implicit[0] and key == "<<":
            hint = "use `extends:` to build on another file"
            self._broken(place, "merge keys (`<<`) are not used in stacks", hint)
        elif event.implicit[0] and not _is_text(key):
            what = f"expected a key that is a string, got `{key[:40]}`"
            self._broken(place, what, f'write it in quotes: `"{key[:40]}"`')
        elif key in top.entries:
            first = top.entries[key].place
            what = f"`{shown(key)}` is written twice"
            self._broken(place, what, f"the first is in line {first.line}: keep one")
        else:
            top.key = key

    def _begin(self, event: yaml.CollectionStartEvent) -> None:
        place = self.at(event.start_mark)
        is_table = isinstance(event, yaml.MappingStartEvent)
        if self._wants_key():
            hint = 'a string with braces or brackets needs quotes: `"{…}"`'
            raise self._stop(place, "expected a key, got a collection", hint)
        self._check_depth(len(self._open) + 1, place)
        self._open.append(_Open(place, event.anchor, self._nodes - 1, is_table))

    def _end(self) -> None:
        top = self._open.pop()
        node = Table(top.entries) if top.is_table else Listing(tuple(top.items))
        if top.anchor:
            size = self._nodes - top.began
            self._anchors[top.anchor] = _Anchored(node, size, top.height)
        self._add(top.place, node, top.height)

    def _take_alias(self, event: yaml.AliasEvent) -> None:
        place = self.at(event.start_mark)
        name = f"*{shown(event.anchor or '')}"
        if self._wants_key():
            raise self._stop(place, f"`{name}` cannot be a key", "write the key out")
        anchored = self._anchors.get(event.anchor or "")
        if anchored is None or any(up.anchor == event.anchor for up in self._open):
            hint = f"write `&{name[1:]}` before the value it stands for"
            raise self._stop(place, f"`{name}` stands for nothing above it", hint)
        self._count(anchored.size, place)
        self._check_depth(len(self._open) + anchored.height, place)
        self._add(place, anchored.node, anchored.height)

    def _add(self, place: Place, node: Node, height: int) -> None:
        if not self._open:
            self._root = (place, node)
            return
        top = self._open[-1]
        top.height = max(top.height, height + 1)
        if not top.is_table:
            top.items.append(Entry(place, node))
            return
        if top.key is not None and top.key_place is not None:
            top.entries[top.key] = Entry(top.key_place, node)
        top.key = top.key_place = None

    def _wants_key(self) -> bool:
        return bool(self._open) and (
            self._open[-1].is_table and self._open[-1].key_place is None
        )

    def _key(self) -> str:
        return (self._open and self._open[-1].key) or ""

    def _check_depth(self, depth: int, place: Place) -> None:
        if depth > DEEPEST:
            what = f"nested more than {DEEPEST} deep"
            raise self._stop(place, what, "close the brackets above")

    def _broken(self, place: Place, what: str, hint: str) -> Broken:
        self.problems.append(Diagnostic(self._path(), what, hint, place=place))
        return Broken()

    def _stop(self, place: Place, what: str, hint: str) -> UnreadableError:
        return UnreadableError(Diagnostic(self._path(), what, hint, place=place))

    def _path(self) -> str:
        steps = (o.key if o.is_table else len(o.items) for o in self._open)
        return dotted(tuple(step for step in steps if step is not None))


def _is_text(key: str) -> bool:
    try:
        return isinstance(resolved(key), str)
    except ValueError:
        return False


LARGEST_FILE = 1 << 20
"""Bytes; a stack is a few kilobytes."""

_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\ufffe\uffff]")


def text_of(path: Path, *, file: str, asked: Place) -> str:
    """The text of a file that messages call ``file``; a byte order mark is dropped.

    Raises UnreadableError: at ``asked`` when there is no such file, else inside it.
    """
    try:
        data = read_regular(path, LARGEST_FILE + 1)
    except (OSError, ValueError) as error:
        raise UnreadableError(_trouble(path, file, asked, error)) from error
    return decoded(data, file)


def decoded(data: bytes, file: str) -> str:
    """The text of a content; raises UnreadableError where it is none."""
    if len(data) > LARGEST_FILE:
        what = f"`{shown(file)}` is larger than 1 MiB"
        hint = "a stack is a few kilobytes: is this the file you mean?"
        raise UnreadableError(Diagnostic("", what, hint, place=Place(file)))
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start].decode("utf-8-sig", errors="replace")
        what = f"not UTF-8: byte 0x{data[error.start]:02x} at offset {error.start}"
        problem = Diagnostic(
            "", what, "save the file as UTF-8", place=_end_of(before, file)
        )
        raise UnreadableError(problem) from error
    if found := _CONTROL.search(text):
        what = f"control character U+{ord(found[0]):04X}"
        place = _end_of(text[: found.start()], file)
        raise UnreadableError(Diagnostic("", what, "remove it", place=place))
    return text


_BRACKETS: Mapping[type, Callable[[str], str]] = {
    yaml.FlowMappingStartToken: lambda within: f"{within}{{",
    yaml.FlowSequenceStartToken: lambda within: f"{within}[",
    yaml.FlowMappingEndToken: lambda within: within[:-1],
    yaml.FlowSequenceEndToken: lambda within: within[:-1],
}


def open_brackets(text: str) -> str:
    """Return the brackets that are open at the end of a text."""
    within = ""
    try:
        for token in yaml.scan(text):
            if change := _BRACKETS.get(type(token)):
                within = change(within)
    except yaml.YAMLError:
        pass  # what is wrong stands at the end, where the cursor is
    return within


def missing(path: Path, text: str) -> tuple[str, str]:
    """Return what to say of a file that is not there: the fact, and a name like it."""
    what = f"there is no file `{shown(text)}`"
    if not path.parent.is_dir():
        return what, f"there is no folder `{shown(str(path.parent))}`"
    try:
        names = sorted(found.name for found in path.parent.iterdir())
    except OSError:
        names = []
    return what, shown(did_you_mean(path.name, names))


def _trouble(
    path: Path, file: str, asked: Place, error: OSError | ValueError
) -> Diagnostic:
    hint = ""
    match error:
        case FileNotFoundError():
            what, hint = missing(path, file)
        case NotRegularError():
            what = f"`{shown(file)}` is not a regular file"
        case IsADirectoryError():
            what, hint = f"`{shown(file)}` is a directory", "name the file in it"
        case OSError():
            why = (error.strerror or "unknown trouble").lower()
            what = f"`{shown(file)}` cannot be read: {why}"
        case _:
            what = f"`{shown(file)}` is not a path"
    return Diagnostic("", what, hint, place=asked)


def _end_of(text: str, file: str) -> Place:
    """The place right behind a string."""
    lines = re.split("\r\n|\r|\n", text)
    return Place(file, len(lines), len(lines[-1]) + 1)


LONGEST_CHAIN = 16

_NOT_A_PATH = (OSError, ValueError, RuntimeError)
"""Errors of a path that is too long, contains a NUL, or is a loop of links."""


@dataclass(slots=True)
class Layers:
    """The files that were read for one stack."""

    tree: Table | None = None
    """Everything merged; None if a file could not be read."""
    sources: list[Path] = field(default_factory=list)
    problems: list[Diagnostic] = field(default_factory=list)


def read_layers(
    path: Path, *, allowed: tuple[Path, ...] = (), unsaved: str | None = None
) -> Layers:
    """Read a stack and all it extends; problems of every file are collected.

    Bases lie in the project of the stack, or below one of the ``allowed`` folders.
    What is ``unsaved`` in an editor is read in place of the content of the stack.
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
    reader = _Reader(layers, (root, *allowed), unsaved)
    tree = reader.read(path, (), Place(str(path)))
    if not reader.unreadable:
        layers.tree = tree
    return layers


class _Reader:
    """Reads each file once, however many extend it."""

    def __init__(
        self, layers: Layers, roots: tuple[Path, ...], unsaved: str | None
    ) -> None:
        self.unreadable = False
        self._unsaved = unsaved
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
            if self._unsaved is not None and chain == (path,):
                text = decoded(self._unsaved.encode(), file)
            else:
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
        """One base; a problem of how it is named is reported where it is named."""
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
        """The bases a file names; anything else is reported, and taken out."""
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
