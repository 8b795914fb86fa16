"""Compare what deployer reads of source trees with what a C++ parser reads of them.

    uv pip install tree-sitter tree-sitter-cpp
    python -m scripts.trees                 # every tree below
    python -m scripts.trees b8672 b11549    # some
    python -m scripts.trees --folder ~/trees b8672

The trees come from the package index; what is read of them stays in the folder.  The
second reader shares nothing with `deployer/llama/tree.py`: names, number of values,
values, environment variable and the programs that have an option come from the syntax
tree.  Exit 1 where the two differ, or where an option that no build has is accepted.
"""

import argparse
import importlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Final, TypeAlias

from deployer.llama.build.trees import SourceRequest, Surroundings, fetch_tree, pin_tree
from deployer.llama.catalogue import Option, Takes, problems_of
from deployer.llama.description import READ, Description, describe_tree
from deployer.planning.progress import unwatched

TREES: Final = (
    *(8672, 8722, 8746, 8929, 9093, 9246, 9294, 9496, 9538, 9628, 9713, 9763, 9873),
    *(10001, 10068, 10105, 10156, 10229, 10240, 10435, 10566, 10698, 10809, 10867),
    *(10883, 11003, 11063, 11218, 11321, 11401, 11434, 11549),
)
"""Builds whose source the index carries, b8672 to the newest (2026-11-30)."""
FOLDER: Final = Path.home() / ".cache/deployer-tests/trees"
Node: TypeAlias = Any
"""A node of the parser, which is no dependency of the project."""
_EACH: Final = 20
_BY_NAME: Final = ("from_str", "from_name", "from_string", "_from_names")
_UNKNOWN: Final = "--no-such-option-in-any-build"


def main() -> None:
    """Read every tree in both ways, and print what differs."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("builds", nargs="*", metavar="BUILD")
    parser.add_argument("--folder", type=Path, default=FOLDER)
    asked = parser.parse_args()
    wrong = options = 0
    slowest = 0.0
    for build in asked.builds or [f"b{it}" for it in TREES]:
        tree = asked.folder / build
        if not tree.is_dir():
            _fetch(build, tree)
        begun = time.process_time()
        mine = describe_tree(tree)
        took = time.process_time() - begun
        if mine is None:
            raise SystemExit(f"{build}: no options were read")
        theirs = Reader(tree).options()
        found = [*_differences(mine, theirs), *_accepted(mine)]
        sys.stdout.write(
            f"{build}: {len(theirs)} options, {took:.2f} s CPU, {len(found)} differ\n"
        )
        sys.stdout.writelines(f"  {line}\n" for line in found)
        sys.stdout.flush()
        wrong, options = wrong + len(found), options + len(theirs)
        slowest = max(slowest, took)
    sys.stdout.write(
        f"{options} options, {wrong} differ; at most {slowest:.2f} s CPU a tree\n"
    )
    raise SystemExit(1 if wrong else 0)


def _fetch(build: str, into: Path) -> None:
    """Get a tree from the index, and keep the files that are read."""
    into.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=into.parent) as folder:
        downloads, tree, kept = (Path(folder) / it for it in ("downloads", "t", "kept"))
        downloads.mkdir()
        tree.mkdir()
        around = Surroundings(downloads, os.environ, unwatched)
        fetch_tree(pin_tree(SourceRequest("pypi", build), (), around), tree, around)
        for file in (it for pattern in READ for it in tree.glob(pattern)):
            place = kept / file.relative_to(tree)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, place)
        kept.rename(into)


@dataclass(frozen=True)
class Second:
    """One option, as the second reader has it."""

    names: tuple[str, ...]
    off: tuple[str, ...]
    count: int
    """Number of values."""
    values: frozenset[str]
    """Words that its handler compares with."""
    env: str


def _differences(mine: Description, theirs: Mapping[str, Second]) -> Iterator[str]:
    by_name = {option.names: option for option in mine.options}
    seconds = {it.names: it for it in theirs.values()}
    for names in sorted(by_name.keys() | seconds.keys()):
        one, other = by_name.get(names), seconds.get(names)
        if one is None or other is None:
            yield f"{names}: only {'the parser' if one is None else 'deployer'} has it"
        else:
            yield from _compared(one, other)


def _compared(one: Option, other: Second) -> Iterator[str]:
    count = {Takes.NOTHING: 0, Takes.TWO: 2}.get(one.takes, 1)
    for what, mine, theirs in (
        ("turned off by", one.off, other.off),
        ("values", count, other.count),
        ("environment", one.env, other.env),
        ("words", frozenset(one.values), other.values),
    ):
        if mine != theirs:
            shown = [
                sorted(it) if isinstance(it, frozenset) else it for it in (mine, theirs)
            ]
            yield f"{one.name}: {what} {shown[0]}, by the parser {shown[1]}"


def _accepted(mine: Description) -> Iterator[str]:
    """Yield an option that the build does not have and that would be valid."""
    known = mine.catalogue(None)
    for option in mine.options[::_EACH]:  # naming the nearest one takes its time
        wrong = f"{option.name}x"
        if known.find(wrong) is None and not list(
            problems_of([("f", [wrong])], None, known)
        ):
            yield f"{wrong} is valid"
    if not list(problems_of([("f", [_UNKNOWN])], None, known)):
        yield f"{_UNKNOWN} is valid"


class Reader:
    """The options of a tree by the syntax tree of its files."""

    def __init__(self, tree: Path) -> None:
        """Parse every file below ``common/``."""
        library = importlib.import_module("tree_sitter")
        language = importlib.import_module("tree_sitter_cpp").language()
        parser = library.Parser(library.Language(language))
        files = [*tree.glob("common/*.cpp"), *tree.glob("common/*.h")]
        roots = [parser.parse(it.read_bytes()).root_node for it in sorted(files)]
        self._options: list[Node] = []
        self._declared: dict[str, Node] = {}
        self._functions: dict[str, Node] = {}
        for node in chain.from_iterable(map(_every, roots)):
            match node.type:
                case "call_expression":
                    if _text(node.child_by_field_name("function")) == "add_opt":
                        self._options.append(node)
                case "init_declarator":
                    name = _text(node.child_by_field_name("declarator"))
                    self._declared[name] = node.child_by_field_name("value")
                case "function_definition":
                    declared = node.child_by_field_name("declarator")
                    name = _text(next(_of_kind(declared, "identifier"), declared))
                    self._functions[name] = node.child_by_field_name("body")
                case _:
                    pass

    def options(self) -> dict[str, Second]:
        """Each option of llama-server by its first long name; the first one counts."""
        found: dict[str, Second] = {}
        for call in self._options:
            option = self._option(
                call.child_by_field_name("arguments").named_children[0]
            )
            if option is not None:
                long = [it for it in option.names if it.startswith("--")]
                found.setdefault((long or [*option.names])[0], option)
        return found

    def _option(self, call: Node) -> Second | None:
        env, tools, excluded = "", {"LLAMA_EXAMPLE_COMMON"}, set[str]()
        while (function := call.child_by_field_name("function")) is not None:
            if function.type != "field_expression":
                break
            name = _text(function.child_by_field_name("field"))
            given = call.child_by_field_name("arguments")
            programs = self._named({_text(it) for it in _of_kind(given, "identifier")})
            if name == "set_env":
                env = _string(given.named_children[0])
            elif name == "set_examples":
                tools = programs
            elif name == "set_excludes":
                excluded = programs
            call = function.child_by_field_name("argument")
        mine = tools & {"LLAMA_EXAMPLE_COMMON", "LLAMA_EXAMPLE_SERVER"}
        if not mine or "LLAMA_EXAMPLE_SERVER" in excluded:
            return None
        given = call.child_by_field_name("arguments") or call.child_by_field_name(
            "value"
        )
        parts = [it for it in given.named_children if it.type != "comment"]
        names, handler = _strings(parts[0]), parts[-1]
        off = _strings(parts[1]) if parts[1].type == "initializer_list" else ()
        takes = _parameters(handler)
        count = {"bool": 0}.get(takes[0], len(takes)) if takes else 0
        hint = "".join(_strings(parts[1])) if count else ""
        values = self._values(handler, takes, hint) if count == 1 else frozenset[str]()
        return Second(names, off, count, values, env)

    def _values(self, handler: Node, takes: list[str], hint: str) -> frozenset[str]:
        if takes == ["int"]:
            return frozenset()
        calls = {
            _text(it.child_by_field_name("function")).rpartition("::")[2]: it
            for it in _of_kind(handler, "call_expression")
        }
        shown = _choice(hint)
        if "is_truthy" in calls:
            return shown or frozenset(
                {"on", "off", *(["auto"] if "is_autoy" in calls else [])}
            )
        equal = frozenset(_equal(handler, "value"))
        if {
            "stoi",
            "stol",
            "stoll",
            "stoul",
            "stoull",
            "atoi",
            "stof",
            "stod",
            "strtof",
        } & {name for name, call in calls.items() if _first_is(call, "value")}:
            return equal
        for name in calls:
            named = name.endswith(_BY_NAME) or "type_from" in name
            if named and (found := self._table(name)):
                return found
        other = (it for it in _of_kind(handler, "else_clause"))
        closed = any(True for it in other for _ in _of_kind(it, "throw_statement"))
        if equal and (shown or closed):
            return equal
        return shown

    def _table(self, function: str) -> frozenset[str]:
        """The words that a function accepts, or that the table it looks into has."""
        body = self._functions.get(function)
        if body is None or next(_of_kind(body, "throw_statement"), None) is None:
            return frozenset()  # what it does not know is passed over
        if words := [*_equal(body, "")]:
            return frozenset(words)
        for name in (_text(it) for it in _of_kind(body, "identifier")):
            value = self._declared.get(name)
            if value is not None and value.type == "initializer_list":
                named = [_text(it) for it in _of_kind(value, "identifier")]
                types = [it for it in named if it.startswith("GGML_TYPE_")]
                pairs = map(_strings, value.named_children)
                words = [it.removeprefix("GGML_TYPE_").lower() for it in types]
                if words := words or [it[0] for it in pairs if it]:
                    return frozenset(words)
        return frozenset()

    def _named(self, programs: set[str]) -> set[str]:
        """The programs, where a variable lists them."""
        lists = (self._declared.get(it) for it in programs)
        found = {
            _text(n)
            for it in lists
            if it is not None
            for n in _of_kind(it, "identifier")
        }
        return found or programs


def _every(node: Node) -> Iterator[Node]:
    """Every node below this one, and it, in the order of the text."""
    waiting = [node]
    while waiting:
        it = waiting.pop()
        yield it
        waiting.extend(reversed(it.children))


def _of_kind(node: Node, kind: str) -> Iterator[Node]:
    return (it for it in _every(node) if it.type == kind)


def _text(node: Node) -> str:
    return "" if node is None else node.text.decode("utf-8", "replace")


def _string(node: Node) -> str:
    return "".join(_text(it) for it in _of_kind(node, "string_content"))


def _strings(node: Node) -> tuple[str, ...]:
    return tuple(_string(it) for it in _of_kind(node, "string_literal"))


def _parameters(handler: Node) -> list[str]:
    """The types of what a handler gets beside the parameters."""
    lists = next(_of_kind(handler, "parameter_list"), None)
    given = [] if lists is None else lists.named_children[1:]
    return [
        _text(it.child_by_field_name("type"))
        for it in given
        if it.type == "parameter_declaration"
    ]


def _equal(node: Node, name: str) -> Iterator[str]:
    """The strings that a variable is compared with; every one for an empty name."""
    for it in _of_kind(node, "binary_expression"):
        left, right = (it.child_by_field_name(side) for side in ("left", "right"))
        same = _text(it.child_by_field_name("operator")) == "=="
        if same and right.type == "string_literal" and name in ("", _text(left)):
            yield from filter(None, [_string(right)])


def _first_is(call: Node, name: str) -> bool:
    given = call.child_by_field_name("arguments").named_children
    return bool(given) and _text(given[0]) == name


def _choice(hint: str) -> frozenset[str]:
    """The words of a hint such as ``[on|off|auto]`` or ``{none,layer,row}``."""
    inner = hint[1:-1]
    sign = {"[": "|", "{": ","}.get(hint[:1])
    plain = all(it.isalnum() or it in "_+-|," for it in inner)
    if sign is None or hint[-1:] not in "]}" or not plain:
        return frozenset()
    words = inner.split(sign)
    return frozenset(words) if len(words) > 1 or sign == "," else frozenset()


if __name__ == "__main__":
    main()
