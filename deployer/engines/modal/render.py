"""Values to the text of Modal apps: what is deployed, and what a person reads.

The same values give the same bytes on any machine.  Nothing of a stack enters a
template but as a literal of Python.

A text becomes a literal with every quote, backslash and unprintable character
escaped, so that no value of a stack can end the literal it stands in.

A release is rolled back to by deploying what was deployed then, whatever a newer
deployer would render.  So the files of a promoted server are kept on the Volume,
beside the binaries and weights they name.
"""

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Final, TypeAlias

from jinja2 import Environment, PackageLoader, StrictUndefined

from deployer import runtime
from deployer.engines.contract import Rendering, write_files
from deployer.engines.modal import apps
from deployer.engines.modal.apps import EVERYWHERE, Apps, Builder, Server
from deployer.engines.modal.drive import Account
from deployer.engines.modal.lower import (
    assets_of,
    candidate_of,
    files_of,
    lower,
    lower_server,
    outputs_of,
    tryout_of,
)
from deployer.engines.place import Place
from deployer.errors import EngineError
from deployer.llama.patches import Patch, load_patches
from deployer.planning.resources import Graph, Kind, Node
from deployer.runtime.warmup import Request
from deployer.stack.fields.values import Flat
from deployer.system.files import read_regular

Value: TypeAlias = (
    "str | int | float | bool | Sequence[Value] | Mapping[str, Value] | None"
)
"""A value that has a literal here; tuples and lists both become lists."""

WIDTH: Final = 88
_INDENT: Final = 4


def literal(value: Value, *, before: int = 0, indent: int = 0) -> str:
    """The source of a value, in as many lines as the formatter would take.

    ``before`` is how much of its line is taken, ``indent`` how far that line is in.
    """
    line = _on_one_line(value)
    if before + len(line) < WIDTH or not _opens(value):
        return line
    inner = indent + _INDENT
    pad, end = " " * inner, " " * indent
    match value:
        case Mapping():
            entries = [
                (head := f"{_text(key)}: ")
                + literal(item, before=inner + len(head), indent=inner)
                for key, item in value.items()
            ]
            opening, closing = "{", "}"
        case _:
            items = value if isinstance(value, list | tuple) else ()
            entries = [literal(item, before=inner, indent=inner) for item in items]
            opening, closing = "[", "]"
    body = "".join(f"{pad}{entry},\n" for entry in entries)
    return f"{opening}\n{body}{end}{closing}"


def options(words: Sequence[str]) -> str:
    """A list of options, each on a line of its own with its value beside it."""
    if not words:
        return "[]"
    groups: list[list[str]] = []
    for word in words:
        if word.startswith("--") or not groups:
            groups.append([word])
        else:
            groups[-1].append(word)
    return "[\n" + "".join(f"    {_group(group)}\n" for group in groups) + "]"


def call(values: Mapping[str, Value], name: str, *, indent: int) -> str:
    """A call with named arguments, on one line where it fits; a comma follows."""
    given = [f"{key}={_on_one_line(value)}" for key, value in values.items()]
    line = f"{name}({', '.join(given)})"
    if indent + len(line) < WIDTH:
        return line
    pad = " " * (indent + _INDENT)
    exact = (
        f"{pad}{key}={literal(value, before=len(pad) + len(key) + 1, indent=len(pad))}"
        for key, value in values.items()
    )
    return f"{name}(\n" + "".join(f"{it},\n" for it in exact) + f"{' ' * indent})"


def lines(text: str, *, indent: int = 0) -> str:
    """A text as a list of its lines, one below the other."""
    pad = " " * (indent + _INDENT)
    body = "".join(f"{pad}{_text(line)},\n" for line in text.splitlines(keepends=True))
    return f"[\n{body}{' ' * indent}]" if body else "[]"


def is_wide(text: str) -> bool:
    """Return whether a line of `lines` is longer than the formatter wants it."""
    texts = (_text(line) for line in text.splitlines(keepends=True))
    return any(len(text) + 3 * _INDENT >= WIDTH for text in texts)


def comment(text: str) -> str:
    """A text that may stand in a comment or a docstring: one line, no escapes."""
    kept = "".join(c if c.isprintable() and c not in '\\"' else "?" for c in text)
    return " ".join(kept.split())


def _group(words: Sequence[str]) -> str:
    if len(words) == 1:
        return f"{_text(words[0])},"
    line = f"*({', '.join(_text(word) for word in words)})"
    if EVERYWHERE in words:  # a linter asks why
        return f"{line},  # noqa: S104 - Modal connects from outside"
    if len(line) + _INDENT < WIDTH:
        return f"{line},"
    return "*(\n" + "".join(f"        {_text(word)},\n" for word in words) + "    ),"


def _opens(value: Value) -> bool:
    """Return whether there is something to put on lines of its own."""
    return isinstance(value, Mapping | list | tuple) and bool(value)


def _on_one_line(value: Value) -> str:
    match value:
        case None | bool():
            return repr(value)
        case int() | float():
            return repr(value)
        case str():
            return _text(value)
        case Mapping():
            pairs = (f"{_text(k)}: {_on_one_line(v)}" for k, v in value.items())
            return "{" + ", ".join(pairs) + "}"
        case _:
            return "[" + ", ".join(_on_one_line(item) for item in value) + "]"


def _text(text: str) -> str:
    """In double quotes, or in the others where that saves escapes."""
    quote = "'" if text.count('"') > text.count("'") else '"'
    return quote + "".join(_escaped(c, quote) for c in text) + quote


def _escaped(character: str, quote: str) -> str:
    if character in (quote, "\\"):
        return f"\\{character}"
    if character.isprintable():
        return character
    return ascii(character)[1:-1]


BUILDER_FILE: Final = "builder.py"
SERVER_FILE: Final = "server.py"
CANDIDATE_FILE: Final = "candidate.py"
TRYOUT_FILE: Final = "tryout.py"


def render(stack: Apps) -> Mapping[str, bytes]:
    """Every file of a stack on Modal, by name; they belong into one folder."""
    texts = {
        BUILDER_FILE: render_builder(stack.builder),
        TRYOUT_FILE: render_tryout(stack.tryout),
        CANDIDATE_FILE: render_server(stack.candidate),
        SERVER_FILE: render_server(stack.server),
    }
    files = {name: text.encode() for name, text in texts.items()}
    return {**files, **stack.assets, **runtime_files()}


@cache
def runtime_files() -> Mapping[str, bytes]:
    """Return the files that run in the containers: every rendering has them."""
    modules = sorted(Path(runtime.__path__[0]).glob("*.py"))
    return {f"runtime/{path.name}": path.read_bytes() for path in modules}


def render_builder(builder: Builder) -> str:
    """The app that puts builds and weights on their Volumes."""
    return _rendered("builder.py.j2", builder=builder)


def render_server(server: Server) -> str:
    """The app that serves; of a candidate, the same under another name."""
    return _rendered("server.py.j2", server=server)


def render_tryout(server: Server) -> str:
    """The app that starts the server once, in a plain function without retries."""
    return _rendered("tryout.py.j2", server=server)


def _rendered(template: str, **values: Builder | Server) -> str:
    text = _environment().get_template(template).render(values)
    return f"{text.rstrip()}\n"


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("deployer.engines.modal"),
        undefined=StrictUndefined,
        # Values are made literals by the filters below; there is no markup here.
        autoescape=False,  # noqa: S701 - Python source, not HTML
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "py": literal,
        "options": options,
        "lines": lines,
        "comment": comment,
        "call": call,
        "stated": _stated,
        "both": _both,
    }
    environment.tests["wide"] = is_wide
    environment.globals["names"] = apps
    return environment


def _both(value: float | tuple[float, float]) -> str:
    """A request, or a request and its limit."""
    return repr(value)


def _stated(request: Request) -> Mapping[str, Value]:
    """The fields of a request that are not as they are by default."""
    found = ((field, getattr(request, field.name)) for field in fields(request))
    return {field.name: value for field, value in found if value != field.default}


def render_stack(graph: Graph, place: Place) -> Rendering:
    """The files that would be deployed, and the command line they start."""
    nodes = {node.role: node for node in graph.values()}
    needs = {role: outputs_of(node) for role, node in nodes.items()}
    files = contents(files_of(nodes[Kind.SERVER], needs), place.folder)
    apps = lower(graph, patches_of(nodes[Kind.BUILD], place.patches), files)
    return Rendering(apps.server.command, render(apps))


def patches_of(build: Node, folder: Path) -> tuple[Patch, ...]:
    """The patches that a build names; raises StackError with all that is wrong."""
    match build.fields.get("llama_cpp.patches"):
        case [*names] if names:
            return load_patches(folder, tuple(str(name) for name in names))
        case _:
            return ()


def contents(names: Iterable[str], folder: Path) -> Mapping[str, bytes]:
    """Return what the files hold; raises EngineError for one that cannot be read."""
    found = {}
    for name in names:
        try:
            found[name] = read_regular(folder / name)
        except OSError as error:
            raise EngineError(
                f"`{folder / name}` cannot be read: {error.strerror}",
                hint="paths in a stack are relative to it",
            ) from error
    return found


PROMOTED: Final = "promoted.json"
RELEASES: Final = "/releases"
"""Folder of the Volume: in it one for each key of a server, and there one per stack."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """A server as values, and the files that it is deployed from."""

    server: apps.Server
    files: Mapping[str, bytes]


@contextmanager
def on_disk(files: Mapping[str, bytes], name: str) -> Iterator[Path]:
    """All files in a folder of their own, and in it the one that is named."""
    with tempfile.TemporaryDirectory(prefix="deployer-") as folder:
        write_files(files, Path(folder))
        yield Path(folder) / name


def rendered_server(node: Node, needs: Mapping[str, Flat], folder: Path) -> Rendered:
    """Return what today's deployer makes of a server or of a snapshot."""
    given = contents(files_of(node, needs), folder)
    server = lower_server(node, needs, given)
    texts = {
        TRYOUT_FILE: render_tryout(tryout_of(server)),
        CANDIDATE_FILE: render_server(candidate_of(server)),
        SERVER_FILE: render_server(server),
    }
    files = {name: text.encode() for name, text in texts.items()}
    given_files = {**assets_of(node, needs, given), **runtime_files()}
    return Rendered(server, {**files, **given_files})


def recorded(account: Account, stack: str, key: str) -> Mapping[str, bytes] | None:
    """The files that the server of this key was deployed from; None: it never was.

    Two stacks with the same content have servers of the same key, and apps of their
    own: so each has a folder below that of the key.
    """
    found = _files(account, _folder(stack, key))
    if found is not None:
        return found
    # Where deployer 0.1 kept them, of whichever stack was the last.
    found = _files(account, f"{RELEASES}/{key}")
    mine = f"STACK = {literal(stack)}\n".encode()
    return found if found is not None and mine in found[SERVER_FILE] else None


def record_files(
    account: Account, stack: str, key: str, files: Mapping[str, bytes]
) -> None:
    """Keep the files of a server, in place of those of an earlier try."""
    folder = _folder(stack, key)
    account.write(
        apps.VOLUME, {f"{folder}/{name}": content for name, content in files.items()}
    )


def mark_promoted(account: Account, stack: str, key: str) -> None:
    """From here on the files of this server are what a rollback deploys."""
    account.write(apps.VOLUME, {f"{_folder(stack, key)}/{PROMOTED}": b"{}\n"})


def promoted_files(
    account: Account, stack: str, key: str
) -> Mapping[str, bytes] | None:
    """The files of a server that was promoted once; None: it never was."""
    files = recorded(account, stack, key)
    return files if files is not None and PROMOTED in files else None


def _folder(stack: str, key: str) -> str:
    return f"{RELEASES}/{key}/{stack}"


def _files(account: Account, folder: str) -> Mapping[str, bytes] | None:
    paths = _listed(account, folder)
    if SERVER_FILE not in paths:
        return None
    with ThreadPoolExecutor() as pool:  # a file takes two requests, and there are many
        read = pool.map(lambda path: account.read(apps.VOLUME, path), paths.values())
        found = dict(zip(paths, read, strict=True))
    whole = {name: content for name, content in found.items() if content is not None}
    return whole if len(whole) == len(found) else None


def _listed(account: Account, folder: str) -> Mapping[str, str]:
    """The paths of all files of a folder, by their names in it."""
    entries = account.listed(apps.VOLUME, folder, deep=True) or ()
    paths = [PurePosixPath("/") / entry.path for entry in entries if not entry.folder]
    return {path.relative_to(folder).as_posix(): str(path) for path in paths}
