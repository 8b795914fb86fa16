"""Changes to a stack file by byte span: all that is not changed stays as it is.

A key that goes takes its lines, and the comment behind it, along; a collection that
would be left empty goes with its last entry, since a stack has no empty values.
"""

import copy
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from deployer.stack.fields.values import JsonValue
from deployer.stack.yaml12 import Steps, resolved


@dataclass(frozen=True, slots=True)
class SetValue:
    """Another value for a scalar that is there."""

    path: Steps
    value: str | float


@dataclass(frozen=True, slots=True)
class Rename:
    """Another key for a value, which may change as well."""

    path: Steps
    key: str
    value: str | float | None = None
    """None keeps it."""


@dataclass(frozen=True, slots=True)
class Remove:
    """A key with its value, or one item of a list."""

    path: Steps


Edit = SetValue | Rename | Remove


@dataclass(frozen=True, slots=True)
class _Span:
    """A piece of the text, and what takes its place."""

    start: int
    end: int
    text: str


def edited(text: str, edits: Iterable[Edit]) -> str:
    """The text with the changes; raises KeyError for a path that is not in it.

    Several removals from one collection are one change: they are made in one go.
    """
    for edit in _in_order(edits):
        # Composed anew: the places behind a change have moved.
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        if root is None:
            raise KeyError(edit.path)
        span = _span(text, root, edit)
        text = f"{text[: span.start]}{span.text}{text[span.end :]}"
    return text


def applied(values: JsonValue, edits: Iterable[Edit]) -> JsonValue:
    """The same changes to the values of a file: what the edited text has to say."""
    found = copy.deepcopy(values)
    for edit in _in_order(edits):
        _apply(found, edit)
    return found


def _apply(values: JsonValue, edit: Edit) -> None:
    *above, last = edit.path
    inside = [values]
    for step in above:
        inside.append(_value(inside[-1], step))
    match edit:
        case SetValue(_, value):
            _put(inside[-1], last, value)
        case Rename(_, key, value):
            kept = _value(inside[-1], last) if value is None else value
            _put(inside[-1], last, kept, key)
        case Remove():
            _take_out(inside, edit.path)


def _value(parent: JsonValue, step: str | int) -> JsonValue:
    match parent, step:
        case dict(), str():
            return parent[step]
        case list(), int():
            return parent[step]
        case _:
            raise KeyError(step)


def _put(parent: JsonValue, step: str | int, value: JsonValue, key: str = "") -> None:
    """Put a value in the place of another one, in a mapping under another key."""
    match parent, step:
        case list(), int():
            parent[step] = value
        case dict(), str():
            entries = [*parent.items()]
            parent.clear()
            for name, old in entries:
                is_it = name == step
                parent[key if is_it and key else name] = value if is_it else old
        case _:
            raise KeyError(step)


def _take_out(inside: list[JsonValue], path: Steps) -> None:
    """Take out what a path leads to, and what is left empty around it."""
    for parent, step in zip(reversed(inside), reversed(path), strict=True):
        match parent, step:
            case dict(), str():
                del parent[step]
            case list(), int():
                del parent[step]
            case _:
                raise KeyError(step)
        if parent:
            return


def _in_order(edits: Iterable[Edit]) -> Iterator[Edit]:
    """Removals of items last and from behind, so that no index moves."""
    removals: list[Remove] = []
    for edit in edits:
        if isinstance(edit, Remove):
            removals.append(edit)
        else:
            yield edit
    yield from sorted(
        removals, key=lambda r: [(isinstance(s, int), str(s).zfill(9)) for s in r.path]
    )[::-1]


def _span(text: str, root: yaml.Node, edit: Edit) -> _Span:
    match edit:
        case SetValue(path, value):
            _, node = _found(root, path)
            return _aligned(text, _scalar(text, node, value))
        case Rename(path, key, value):
            named, node = _found(root, path)
            assert named is not None  # only keys are renamed  # noqa: S101
            start, end = named.start_mark.index, named.end_mark.index
            if value is None:
                return _Span(start, end, key)
            written = _scalar(text, node, value)
            between = text[end : written.start]
            return _Span(start, written.end, f"{key}{between}{written.text}")
        case Remove(path):
            return _removal(text, root, path)


def _found(root: yaml.Node, path: Steps) -> tuple[yaml.Node | None, yaml.Node]:
    """The key and the value at a path; an item of a list has no key."""
    key: yaml.Node | None = None
    node = root
    for step in path:
        key, node = _below(node, step)
    return key, node


def _below(node: yaml.Node, step: str | int) -> tuple[yaml.Node | None, yaml.Node]:
    match node, step:
        case yaml.MappingNode(), str():
            for key, value in node.value:
                if key.value == step:
                    return key, value
        case yaml.SequenceNode(), int() if step < len(node.value):
            return None, node.value[step]
    raise KeyError(step)


def _scalar(text: str, node: yaml.Node, value: str | float) -> _Span:
    """A new value in the quotes of the old one, where it needs any."""
    start, end = node.start_mark.index, node.end_mark.index
    quote = text[start]
    written = str(value).lower() if isinstance(value, bool) else str(value)
    if isinstance(value, str) and (quote in "'\"" or not _is_plain(value)):
        written = f"'{value}'" if quote == "'" else json.dumps(value)
    return _Span(start, end, written)


def _aligned(text: str, span: _Span) -> _Span:
    """With as many blanks behind it as keep a comment in its column."""
    blanks = _blanks(text[span.end :])
    if text[span.end + blanks : span.end + blanks + 1] != "#":
        return span
    grown = len(span.text) - (span.end - span.start)
    kept = " " * max(1, blanks - grown)
    return _Span(span.start, span.end + blanks, f"{span.text}{kept}")


def _is_plain(value: str) -> bool:
    """Return whether a text reads as itself without quotes."""
    words = value.replace(".", "").replace("_", "").replace("-", "").replace("+", "")
    return words.isalnum() and _reads_as_itself(value)


def _removal(text: str, root: yaml.Node, path: Steps) -> _Span:
    *above, step = path
    _, parent = _found(root, tuple(above))
    key, node = _below(parent, step)
    if len(parent.value) == 1 and above:
        return _removal(text, root, tuple(above))
    first = key or node
    if isinstance(parent, yaml.CollectionNode) and parent.flow_style:
        return _from_flow(text, first.start_mark.index, _end(node))
    start = text.rfind("\n", 0, first.start_mark.index) + 1
    return _Span(start, _end_of_block(text, node), "")


def _from_flow(text: str, start: int, end: int) -> _Span:
    """An entry between brackets, with the comma behind it, else that before it."""
    rest = len(text[end:]) - len(text[end:].lstrip())
    if text[end + rest : end + rest + 1] == ",":
        end += rest + 1
        return _Span(start, end + _blanks(text[end:]), "")
    before = text[:start].rstrip()
    if before.endswith(","):
        return _Span(len(before) - 1, end, "")
    return _Span(start, end, "")


def _end(node: yaml.Node) -> int:
    """Behind the last sign of a node; a block ends before what is below it."""
    inner = node.value
    if isinstance(node, yaml.CollectionNode) and not node.flow_style and inner:
        last = inner[-1]
        return _end(last[1] if isinstance(last, tuple) else last)
    return int(node.end_mark.index)


def _end_of_block(text: str, node: yaml.Node) -> int:
    """Behind the last line of a node in a block, its trailing comment included."""
    end = _end(node)
    if isinstance(node, yaml.ScalarNode) and node.style in ("|", ">"):
        return end
    newline = text.find("\n", end)
    return len(text) if newline < 0 else newline + 1


def _blanks(text: str) -> int:
    """Blanks before the next word of the same line."""
    return len(text) - len(text.lstrip(" "))


def yaml_text(value: Any) -> str:  # noqa: ANN401 - whatever the program wants
    """Block style, in the order of the value, one document."""
    return str(yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=88))


def flow(value: JsonValue) -> str:
    """A value in one line, as a stack writes it: strings in quotes where they need any.

    What it returns reads as the same value again (YAML 1.2).
    """
    match value:
        case list():
            return f"[{', '.join(map(flow, value))}]"
        case dict():
            return f"{{{', '.join(f'{flow(k)}: {flow(v)}' for k, v in value.items())}}}"
        case float():
            return f"{value:.9g}"
        case str() if _PLAIN.fullmatch(value) and _reads_as_itself(value):
            return value
        case _:
            return json.dumps(value, ensure_ascii=False)


_PLAIN = re.compile(r"[A-Za-z0-9./_~][A-Za-z0-9./_+-]*")


def _reads_as_itself(value: str) -> bool:
    try:
        return isinstance(resolved(value), str)
    except ValueError:
        return False
