"""What a place in a stack expects, in words, read off the schema."""

import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from deployer.spelling import one_of
from deployer.stack.fields.schema import known_schema
from deployer.stack.fields.values import DURATION_PATTERN, SIZE_PATTERN

_FORMS: Mapping[str, str] = {
    "name": "a name of lower-case letters, digits and dashes, at most 48 long, "
    "that starts with a letter",
    "llama_cpp.tag": "a release (`b9763` or `v1.2.3`) or a commit "
    "of 7 to 40 hexadecimal digits",
    "llama_cpp.commit": "a commit of 7 to 40 hexadecimal digits in lower case",
    "llama_cpp.package": "a pinned package such as `name==1.2.3`",
    "llama_cpp.cuda": "a CUDA version such as `12.8.1`",
    "model.repo": "a repository such as `owner/name`",
    "model.url": "an address such as `https://host/file.gguf`",
    "model.sha256": "a SHA-256 digest of 64 hexadecimal digits in lower case",
    "model.alias": "a text",
    "auth.api_key.env": "the name of an environment variable such as `LLAMA_API_KEY`",
    "local.host": "a host name or an IP address",
}
"""A field of each form of text -> the form in words; equal forms are said alike."""

_UNITS: Mapping[str, str] = {
    DURATION_PATTERN: "a duration such as `90s`, `5m` or `1h30m`, "
    "or a number of seconds",
    SIZE_PATTERN: "a size such as `24GiB` or `500MB`, or a number of bytes",
}
"""Forms that speak for the number beside them in a union, too."""

_KINDS: Mapping[str, str] = {
    "array": "a list",
    "object": "a section of `key: value` lines",
    "string": "a text",
}

Steps = tuple[str | int, ...]
Node = Mapping[str, Any]
"""A part of the schema."""


def at(path: Steps) -> Node:
    """The part of the schema that a path of a stack leads to; empty if none."""
    node: Node = known_schema()
    for step in path:
        members = [_child(member, step) for member in _members(node)]
        node = next((member for member in members if member), {})
    return _followed(node)


def real_path(location: Steps) -> Steps:
    """The path in the stack of a location by pydantic, which names union members."""
    node: Node = known_schema()
    path: list[str | int] = []
    for step in location:
        members = _members(node)
        if len(members) > 1:
            node = next((m for m in members if m.get("type") == "array"), {})
            continue
        path.append(step)
        node = _child(_followed(node), step)
    return tuple(path)


def expected(node: Node) -> str:
    """Return what belongs there, as `expected …` goes on."""
    members = _members(node)
    for member in members:
        for pattern, words in _UNITS.items():
            if str(member.get("pattern", "")).startswith(pattern):
                return words
    literals = choices(node)
    if len(members) > 1 and {"type": "number"} in members:
        members = [m for m in members if m.get("type") != "integer"]
    others = dict.fromkeys(_one(member) for member in members if not _choices(member))
    if not others:
        return one_of(literals)
    parts = [*others, *(f"`{word}`" for word in literals)]
    return " or ".join(filter(None, (", ".join(parts[:-1]), parts[-1])))


def choices(node: Node) -> list[str]:
    """The words that may stand there, as they are written in YAML."""
    return [word for member in _members(node) for word in _choices(member)]


def matches(node: Node, text: str) -> bool:
    """Return whether a text would be right there."""
    patterns = [m.get("pattern", "") for m in _members(node) if m["type"] == "string"]
    return any(re.search(pattern, text) for pattern in patterns)


def keys(node: Node) -> list[str]:
    """The keys that a section knows."""
    return list(_followed(node).get("properties", {}))


def owners(key: str) -> Iterator[str]:
    """Every path outside the gates at which a key of that name is known."""
    for name in keys(known_schema()):
        if name == key:
            yield name
        if name != "gates" and key in keys(at((name,))):
            yield f"{name}.{key}"


def _members(node: Node) -> list[Node]:
    """The members of a union; the node itself if it is none."""
    return [_followed(member) for member in node.get("anyOf", [node])]


def _followed(node: Node) -> Node:
    """Return what a reference refers to."""
    if "$ref" not in node:
        return node
    target: Node = known_schema()["$defs"][node["$ref"].rpartition("/")[2]]
    return target


def _child(node: Node, step: str | int) -> Node:
    """Return what stands under a key or an index; empty for one that is not known."""
    if isinstance(step, int):
        below = node.get("items", {})
    else:
        below = node.get("properties", {}).get(step) or node.get("additionalProperties")
    return below if isinstance(below, Mapping) else {}


def _choices(node: Node) -> list[str]:
    if node.get("type") == "boolean":
        return ["true", "false"]
    return [str(word) for word in node.get("enum", [node.get("const")]) if word]


def _one(node: Node) -> str:
    match node.get("type"):
        case "integer":
            return "a whole number" + _range(node)
        case "number":
            return "a number" + _range(node)
        case "string" if words := _forms().get(node.get("pattern", "")):
            return words
        case "array":
            return f"a list (each item: {expected(node['items'])})"
        case kind:
            return _KINDS.get(str(kind), "a value")


def _range(node: Node) -> str:
    low, high = node.get("minimum"), node.get("maximum")
    if low is not None and high is not None:
        return f" from {low} to {high}"
    if (above := node.get("exclusiveMinimum")) is not None:
        return " of at least 1" if node["type"] == "integer" else f" above {above}"
    return "" if low is None else f" of at least {low}"


@cache
def _forms() -> dict[str, str]:
    """The form in words of each pattern."""
    return {at(tuple(p.split(".")))["pattern"]: words for p, words in _FORMS.items()}
