"""Errors of the model in words: what was expected, what is written, what to do.

What a place expects is read off the schema.
"""

import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from pydantic import ValidationError

from deployer.diagnostics import Diagnostic
from deployer.engines.registry import ENGINES
from deployer.spelling import did_you_mean, nearest, one_of, shown
from deployer.stack.fields.marks import Section, marks_at
from deployer.stack.fields.model import Stack
from deployer.stack.fields.schema import OTHER_NAMES, followed_schema
from deployer.stack.fields.values import DURATION_PATTERN, SIZE_PATTERN
from deployer.stack.yaml12 import (
    Broken,
    Listing,
    Node,
    Scalar,
    Steps,
    Table,
    dotted,
    node_at,
)

_ALMOST_BOOLEAN: Mapping[str, str] = {
    **dict.fromkeys(("on", "yes", "y", "enabled"), "true"),
    **dict.fromkeys(("off", "no", "n", "disabled"), "false"),
}
_SWITCHES: Mapping[str, str] = {"true": "on", "false": "off"}
_THOUSANDS = re.compile(r"([0-9]{1,6})[kK]")
"""How people write context sizes."""


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
    "model.alias": "a string",
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
    "string": "a string",
}

Part = Mapping[str, Any]
"""A part of the schema."""


def wrong_paths(root: type[Section], error: ValidationError) -> dict[Steps, str]:
    """Return each path that is wrong, and how; one entry for all members of a union."""
    wrong: dict[Steps, str] = {}
    for detail in error.errors(include_url=False, include_input=False):
        wrong.setdefault(_real_path(root, detail["loc"]), detail["type"])
    parents = {path[:length] for path in wrong for length in range(len(path))}
    return {path: kind for path, kind in wrong.items() if path not in parents}


def explained(
    root: type[Section], wrong: Mapping[Steps, str], tree: Table
) -> Iterator[Diagnostic]:
    """Yield a diagnostic for each wrong path that YAML has not reported already."""
    for path, kind in wrong.items():
        node = node_at(tree, path)
        if isinstance(node, Broken):
            continue
        match kind:
            case "missing":
                words = _missing(root, path)
            case "extra_forbidden":
                words = _unknown(root, path)
            case _:
                words = _mismatch(at(root, path), node, path)
        about_key = kind == "extra_forbidden"
        yield Diagnostic(dotted(path), *words, about_key=about_key)


def _missing(root: type[Section], path: Steps) -> tuple[str, str]:
    field = at(root, path)
    below = f" under `{dotted(path[:-1])}`" if len(path) > 1 else ""
    return f"`{path[-1]}` is missing{below}", f"add `{path[-1]}:` ({expected(field)})"


def _unknown(root: type[Section], path: Steps) -> tuple[str, str]:
    *above, last = path
    key = str(last)
    section = tuple(above)
    under = f" under `{shown(dotted(section))}`" if section else ""
    return f"unknown key `{shown(key)}`{under}", _meant(root, key, section)


def _meant(root: type[Section], key: str, section: Steps) -> str:
    """Where the key went: another spelling, another section, or what there is."""
    known = keys(at(root, section))
    plain = key.lower().lstrip("-").replace("-", "_")
    name = OTHER_NAMES.get(plain, plain)
    here = dotted(section)
    if name in known:
        return f"did you mean `{name}`?"
    if elsewhere := [path for path in _owners(root, name) if path != here]:
        return f"it belongs elsewhere: write {one_of(elsewhere)}"
    if near := nearest(plain, known):
        return f"did you mean `{near}`?"
    if section == ("server",):
        return "other options of llama-server go under `server.flags`"
    if not known:
        return "this section takes no keys"
    return f"keys here: {', '.join(f'`{word}`' for word in known[:20])}"


def _mismatch(field: Part, node: Node | None, path: Steps) -> tuple[str, str]:
    if path == ("version",) and isinstance(node, Scalar) and _is_newer(node):
        what = f"version {node.text} of this file needs a newer deployer"
        return what, "upgrade deployer, or write `version: 1`"
    if path[:1] == ("auth",) or path[:2] == (
        "server",
        "env",
    ):  # a key may have been written where its name belongs
        return f"expected {expected(field)}, got {_kind(node)}", ""
    what = f"expected {expected(field)}, got {_written(node)}"
    return what, _slip(field, node, path) or _edit(field, node)


_SWITCHED: Mapping[int, str] = {1: "on", 0: "off", -1: "auto"}
"""Numbers that llama-server takes for the words of a switch."""


def _unset(path: Steps, node: Node | None) -> bool:
    """Return whether a number says what leaving the field out says."""
    marks = marks_at(Stack, dotted(path))
    defaults = {flag.default for flag in marks.flags} - {None}
    return isinstance(node, Scalar) and node.value in defaults


def _slip(field: Part, node: Node | None, path: Steps) -> str:
    """Return what to write for a value whose meaning is clear; empty for others."""
    low = _least(field)
    if path[0] in ENGINES and path[-1] == "host":
        return "write one address: lists of them and sockets are not supported"
    if path[:1] == ("server",) and _unset(path, node):
        return "leave it out: that is what unset means"
    match node:
        case Scalar(int() as number) if _SWITCHED.get(number) in (choices(field) or ()):
            return f"write `{_SWITCHED[number]}`"
        case Scalar(True) if "enabled" in keys(_table_of(field)):
            return f"write `{path[-1]}: {{enabled: true}}`"
        case Scalar(int(), text) if path[-1:] == ("tag",) and not matches(field, text):
            return f"write `b{text}`"
        case Scalar(str() as text) if path == ("name",) and (name := _name_of(text)):
            return f"write `{name}`"
        case Scalar(bool()):
            return ""
        case Scalar(int() | float() as number) if low is not None and number < low:
            return f"write `{low}` or more"
        case Scalar(str() as text):
            duration = _seconds_in(field, text)
            return f"write `{duration}`" if duration else ""
        case _:
            return ""


def _edit(field: Part, node: Node | None) -> str:
    """Return what to write instead of a value of another kind; empty if unknown."""
    words = choices(field)
    match node:
        case Scalar(value, text) if words and not isinstance(value, str):
            return _quoted(str(text), words)
        case Scalar(str() as text) if words:
            return _chosen(text, words)
        case Scalar(str() as text) if _is_number(text) and _takes_numbers(field):
            return f"write `{text}` without quotes"
        case Scalar(bool() | int() | float(), text) if matches(field, text):
            return f"write it in quotes: `{json.dumps(text)}`"
        case Scalar(str() as text) if _takes(field, "array"):
            return f"write a list: `[{shown(text)}]`"
        case Scalar(str() as text) if thousands := _THOUSANDS.fullmatch(text):
            return f"write `{int(thousands[1]) * 1024}`"
        case _:
            return ""


def _is_newer(node: Scalar) -> bool:
    """Return whether a version is above the one that this deployer reads."""
    return isinstance(node.value, int) and node.value > 1


def _kind(node: Node | None) -> str:
    """Return what kind of value is written, for one that may be a secret."""
    match node:
        case Scalar(str()):
            return "a string"
        case Scalar(bool()):
            return "a boolean"
        case Scalar(int() | float()):
            return "a number"
        case _:
            return _written(node)


def _table_of(field: Part) -> Part:
    """Return the member that is a section; empty where none is."""
    return next((m for m in _members(field) if m.get("properties")), {})


def _name_of(text: str) -> str:
    """Return the nearest name of a stack; empty where the text has no letters."""
    plain = re.sub("[^a-z0-9]+", "-", text.lower()).strip("-")[:48].rstrip("-")
    return plain if plain[:1].isalpha() else ""


def _least(field: Part) -> int | None:
    """Return the smallest integer that may stand there."""
    for member in _members(field):
        if member.get("type") == "integer":
            above = member.get("exclusiveMinimum")
            low = member.get("minimum") if above is None else above + 1
            return low if isinstance(low, int) else None
    return None


def _seconds_in(field: Part, text: str) -> str:
    """Return a duration from a number with another unit, such as `2 sec`."""
    found = re.match(r"([0-9]+) *(s|m|h)", text)
    duration = "".join(found.groups()) if found else ""
    is_one = any(
        str(m.get("pattern", "")).startswith(DURATION_PATTERN) for m in _members(field)
    )
    return duration if is_one else ""


def _chosen(text: str, words: list[str]) -> str:
    """Return the hint for a string where one of some words is expected."""
    boolean = _ALMOST_BOOLEAN.get(text.lower())
    if boolean in words:
        return f"YAML 1.2: write `{boolean}`, without quotes"
    if text in words:
        return f"write `{text}` without quotes"
    return did_you_mean(text, words)


def _quoted(text: str, words: list[str]) -> str:
    """Return the hint for a boolean or a number where one of some words is expected."""
    word = _SWITCHES.get(text.lower(), text)
    return f"write `{word}`" if word in words else ""


def _takes(field: Part, kind: str) -> bool:
    members = field.get("anyOf", [field])
    return isinstance(members, list) and kind in (m.get("type") for m in members)


def _takes_numbers(field: Part) -> bool:
    return _takes(field, "integer") or _takes(field, "number")


def _is_number(text: str) -> bool:
    return text.lstrip("-").replace(".", "", 1).isdigit()


def _written(node: Node | None) -> str:
    match node:
        case Table(entries):
            return "a section" if entries else "an empty section (`{}`)"
        case Listing(items):
            return "a list" if items else "an empty list (`[]`)"
        case Scalar(bool(), text):
            return f"`{text}`"
        case Scalar(int() | float(), text):
            return f"the number `{shown(text)}`"
        case Scalar(str(), text):
            return f"the string `{shown(text)}`" if text else "an empty string"
        case _:
            return "nothing"


def at(root: type[Section], path: Steps) -> Part:
    """Return the part of the schema that a path of a file leads to; empty if none."""
    node = followed_schema(root)
    for step in path:
        members = [_child(member, step) for member in _members(node)]
        node = next((member for member in members if member), {})
    return node


def _real_path(root: type[Section], location: Steps) -> Steps:
    """Return the path of a location by pydantic, which names union members."""
    node = followed_schema(root)
    path: list[str | int] = []
    for step in location:
        members = _members(node)
        if len(members) > 1:
            node = next((m for m in members if m.get("type") == "array"), {})
            continue
        path.append(step)
        node = _child(node, step)
    return tuple(path)


def expected(node: Part) -> str:
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


def choices(node: Part) -> list[str]:
    """The words that may stand there, as they are written in YAML."""
    return [word for member in _members(node) for word in _choices(member)]


def matches(node: Part, text: str) -> bool:
    """Return whether a text would be right there."""
    patterns = [m.get("pattern", "") for m in _members(node) if m["type"] == "string"]
    return any(re.search(pattern, text) for pattern in patterns)


def keys(node: Part) -> list[str]:
    """The keys that a section knows, or the one among the members of a union."""
    return [key for member in _members(node) for key in member.get("properties", {})]


def _owners(root: type[Section], key: str) -> Iterator[str]:
    """Yield every path outside the gates at which a key of that name is known."""
    for name in keys(followed_schema(root)):
        if name == key:
            yield name
        if name != "gates" and key in keys(at(root, (name,))):
            yield f"{name}.{key}"


def _members(node: Part) -> list[Part]:
    """Return the members of a union; the part itself if it is none."""
    return list(node.get("anyOf", [node]))


def _child(node: Part, step: str | int) -> Part:
    """Return what stands under a key or an index; empty for one that is not known."""
    if isinstance(step, int):
        below = node.get("items", {})
    else:
        below = node.get("properties", {}).get(step) or node.get("additionalProperties")
    return below if isinstance(below, Mapping) else {}


def _choices(node: Part) -> list[str]:
    if node.get("type") == "boolean":
        return ["true", "false"]
    return [str(word) for word in node.get("enum", [node.get("const")]) if word]


def _one(node: Part) -> str:
    match node.get("type"):
        case "integer" if node.get("minimum", 0) == node.get("maximum"):
            return f"the number {node['maximum']}"
        case "integer":
            return "an integer" + _range(node)
        case "number":
            return "a number" + _range(node)
        case "string" if words := _forms().get(node.get("pattern", "")):
            return words
        case "array":
            return f"a list (each item: {expected(node['items'])})"
        case kind:
            return _KINDS.get(str(kind), "a value")


def _range(node: Part) -> str:
    low, high = node.get("minimum"), node.get("maximum")
    if low is not None and high is not None:
        return f" from {low} to {high}"
    if (above := node.get("exclusiveMinimum")) is not None:
        return " of at least 1" if node["type"] == "integer" else f" above {above}"
    return "" if low is None else f" of at least {low}"


@cache
def _forms() -> dict[str, str]:
    """The form in words of each pattern."""
    parts = {path: at(Stack, tuple(path.split("."))) for path in _FORMS}
    return {part["pattern"]: _FORMS[path] for path, part in parts.items()}
