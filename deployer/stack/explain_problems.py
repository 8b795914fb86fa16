"""What the model refuses, in words: what was expected, what is written, what to do."""

import json
import re
from collections.abc import Iterator, Mapping

from pydantic import ValidationError

from deployer.diagnostics import Diagnostic
from deployer.spelling import did_you_mean, nearest, one_of, shown
from deployer.stack.expected import (
    at,
    choices,
    expected,
    keys,
    matches,
    owners,
    real_path,
)
from deployer.stack.fields.schema import OTHER_NAMES
from deployer.stack.yaml.yaml12 import (
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


def wrong_paths(error: ValidationError) -> dict[Steps, str]:
    """Each path that is wrong, and how; one entry for all members of a union."""
    wrong: dict[Steps, str] = {}
    for detail in error.errors(include_url=False, include_input=False):
        wrong.setdefault(real_path(detail["loc"]), detail["type"])
    parents = {path[:length] for path in wrong for length in range(len(path))}
    return {path: kind for path, kind in wrong.items() if path not in parents}


def explained(wrong: Mapping[Steps, str], tree: Table) -> Iterator[Diagnostic]:
    """Yield a diagnostic for each wrong path that YAML has not reported already."""
    for path, kind in wrong.items():
        node = node_at(tree, path)
        if isinstance(node, Broken):
            continue
        match kind:
            case "missing":
                words = _missing(path)
            case "extra_forbidden":
                words = _unknown(path)
            case _:
                words = _mismatch(path, node)
        yield Diagnostic(dotted(path), *words)


def _missing(path: Steps) -> tuple[str, str]:
    field = at(path)
    below = f" under `{dotted(path[:-1])}`" if len(path) > 1 else ""
    return f"`{path[-1]}` is missing{below}", f"add `{path[-1]}:` ({expected(field)})"


def _unknown(path: Steps) -> tuple[str, str]:
    *above, last = path
    key = str(last)
    section = tuple(above)
    under = f" under `{shown(dotted(section))}`" if section else ""
    return f"unknown key `{shown(key)}`{under}", _meant(key, section)


def _meant(key: str, section: Steps) -> str:
    """Where the key went: another spelling, another section, or what there is."""
    known = keys(at(section))
    plain = key.lower().lstrip("-").replace("-", "_")
    name = OTHER_NAMES.get(plain, plain)
    here = dotted(section)
    if name in known:
        return f"did you mean `{name}`?"
    if elsewhere := [path for path in owners(name) if path != here]:
        return f"it belongs elsewhere: write {one_of(elsewhere)}"
    if near := nearest(plain, known):
        return f"did you mean `{near}`?"
    if section == ("server",):
        return "other options of llama-server go under `server.flags`"
    if not known:
        return "this section takes no keys"
    return f"keys here: {', '.join(f'`{word}`' for word in known[:20])}"


def _mismatch(path: Steps, node: Node | None) -> tuple[str, str]:
    field = at(path)
    words = choices(field)
    what = f"expected {expected(field)}, got {_written(node)}"
    match node:
        case Scalar(value, text) if words and not isinstance(value, str):
            return what, _quoted(str(text), words)
        case Scalar(str() as text) if words:
            return what, _chosen(text, words)
        case Scalar(str() as text) if _is_number(text) and _takes_numbers(field):
            return what, f"write `{text}` without quotes"
        case Scalar(bool() | int() | float(), text) if matches(field, text):
            return what, f"write it in quotes: `{json.dumps(text)}`"
        case Scalar(str() as text) if _takes(field, "array"):
            return what, f"write a list: `[{shown(text)}]`"
        case Scalar(str() as text) if thousands := _THOUSANDS.fullmatch(text):
            return what, f"write `{int(thousands[1]) * 1024}`"
        case _:
            return what, ""


def _chosen(text: str, words: list[str]) -> str:
    """The hint for a text where one of some words is expected."""
    boolean = _ALMOST_BOOLEAN.get(text.lower())
    if boolean in words:
        return f"YAML 1.2: write `{boolean}`, without quotes"
    if text in words:
        return f"write `{text}` without quotes"
    return did_you_mean(text, words)


def _quoted(text: str, words: list[str]) -> str:
    """The hint for a boolean or a number where one of some words is expected."""
    word = _SWITCHES.get(text.lower(), text)
    return f"write `{word}`" if word in words else ""


def _takes(field: Mapping[str, object], kind: str) -> bool:
    members = field.get("anyOf", [field])
    return isinstance(members, list) and kind in (m.get("type") for m in members)


def _takes_numbers(field: Mapping[str, object]) -> bool:
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
            return f"the text `{shown(text)}`" if text else "an empty text"
        case _:
            return "nothing"
