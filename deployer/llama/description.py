"""A build described by itself: its source tree, or ``--help`` of its binary.

A description is kept in the store under the identity of the build that it was read
from, so that it is read once; its digest stands in the lock file.
"""

import json
import mmap
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from functools import cache, lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, Final, TypedDict

from deployer.artefacts.sources.files import Stamp, stamp_of, writing
from deployer.llama.catalogue import (
    Catalogue,
    Known,
    Option,
    catalogue,
    entry_of,
    every_name,
    known_builds,
    named,
    option_of,
    unique,
)
from deployer.planning.facts import DESCRIPTION, Pin
from deployer.planning.resources import digest
from deployer.stack.fields.values import JsonValue
from deployer.system.files import guarded, open_regular, replace_file

_READER: Final = 3
"""Raised when more, or something else, is read of the same files."""
ARCHITECTURE, PROJECTOR = "architecture", "projector"
MODELS: Final = Path(__file__).parent / "known/data/models.json"
"""The names of architectures and projectors of many builds."""
_IN_EVERY = b"starcoder2\0"
"""An architecture of every build: where it is, the table of names is."""
_LIBRARIES = {ARCHITECTURE: "libllama.*", PROJECTOR: "libmtmd.*"}
SIGNS: Final[Mapping[str, str]] = {
    "gemma4-thinking-tags": 'thinking_start_tag = "<|channel>thought"',
    "gemma4-outdated-template": "detected an outdated gemma4 chat template",
    "config-file": '"config.ini"',
}
"""Texts of `common/` that a behaviour can be told by, by the name of the behaviour."""
_BACKENDS: Final = "ggml/CMakeLists.txt"
READ: Final = (
    *("common/*.cpp", "common/*.h", "common/parsers/*.cpp", "src/llama-arch.cpp"),
    *("src/llama-chat.cpp", "include/llama.h", "CMakeLists.txt"),
    *(_BACKENDS, "tools/server/CMakeLists.txt"),
    *("tools/server/*.cpp", "tools/server/*.h", "tools/mtmd/clip-impl.h"),
)
"""Files of a tree that a description is read from."""
_ROUTE = re.compile(r'\.\s*(get|post|del|put)\s*\(\s*"(/[^"]*)"', re.IGNORECASE)
_FIELD = re.compile(
    r"(?:json_value\(\s*(?:body|data|json_data)\s*,\s*|new field_\w+\(\s*"
    r"|->add_alias\(\s*|(?:body|data)\.(?:contains|at|find)\(\s*)"
    r'"([\w.]+)"'
)
_ARCHITECTURE = re.compile(r'\{\s*LLM_ARCH_(?!UNKNOWN\b)\w+\s*,\s*"([^"]+)"')
_PROJECTOR = re.compile(r'\{\s*PROJECTOR_TYPE_\w+\s*,\s*"([^"]+)"')
_TEMPLATE = re.compile(r'\{\s*"([^"]+)"\s*,\s*LLM_CHAT_TEMPLATE_\w+')
_MARKER = re.compile(r'\b(?:src|tmpl|template_src)\.find\(\s*"((?:[^"\\]|\\.)*)"')
_FORMAT = re.compile(r"#define LLAMA_(SESSION|STATE_SEQ)_VERSION (\d+)")
_DEFINITION = re.compile(
    r"^\s*(?:option\s*\(\s*(\w+)|set\s*\(\s*(\w+)[^)]*\sCACHE\b)", re.MULTILINE
)
_OPEN = re.compile(r"\b(?:public_endpoints|endpoints)\s*(?:=\s*)?\{([^}]*)\}")
_ROUTE_NAME = re.compile(r'"(/[^"]*)"')
_VERSION = re.compile(r"set\(LLAMA_VERSION_(MAJOR|MINOR|PATCH) (\d+)\)")


class Origin(StrEnum):
    """The thing that a description was read from."""

    TREE = "source tree"
    HELP = "--help of the binary"


@dataclass(frozen=True, slots=True)
class Description:
    """Everything that is read of one build; what ``--help`` does not print is empty."""

    origin: Origin
    options: tuple[Option, ...]
    routes: tuple[str, ...] = ()
    """``POST /completion``."""
    fields: tuple[str, ...] = ()
    """Fields of requests that the server looks at."""
    architectures: tuple[str, ...] = ()
    projectors: tuple[str, ...] = ()
    templates: tuple[str, ...] = ()
    """Names that ``--chat-template`` takes."""
    markers: tuple[str, ...] = ()
    """Texts in a chat template that select a parser."""
    formats: Mapping[str, int] = field(default_factory=dict)
    """Versions of the files that ``session`` and ``sequence`` states are saved in."""
    definitions: tuple[str, ...] = ()
    """Definitions of cmake that the build knows."""
    open_routes: tuple[str, ...] = ()
    """Paths that are answered without a key."""
    signs: tuple[str, ...] = ()
    """Those of `SIGNS` that it has."""
    version: str = ""
    """``0.6.0``; empty before builds had one."""
    build: int | None = None
    """As ``--version`` of the binary prints it; None: it does not know."""

    @property
    def digest(self) -> str:
        """The reader, and SHA-256 of the content."""
        return f"{_READER}-{digest(_data(self))}"

    def catalogue(self, build: int | None) -> Catalogue:
        """The options as the catalogue of this build."""
        found = named(self.options)
        return Catalogue(
            build,
            exact=True,
            options=unique(found),
            by_name=found,
            origin=self.origin.value,
            stated=self._stated(),
        )

    def _stated(self) -> Mapping[str, frozenset[str]]:
        """The names by kind; a kind of which nothing was found counts as not read."""
        if self.origin is not Origin.TREE:
            return {}
        found = {
            "route": self.routes,
            "field": self.fields,
            "architecture": self.architectures,
            "projector": self.projectors,
            "template": self.templates,
            "definition": self.definitions,
            "open-route": self.open_routes,
        }
        read = {kind: frozenset(names) for kind, names in found.items() if names}
        return {**read, "sign": frozenset(self.signs)}


def describe_tree(folder: Path) -> Description | None:
    """Read the tree in `folder`; None where it states no options."""
    return describe(
        {
            path.relative_to(folder).as_posix(): path.read_text("utf-8", "replace")
            for pattern in READ
            for path in sorted(folder.glob(pattern))
            if path.is_file() and not path.is_symlink()
        }
    )


def describe(files: Mapping[str, str]) -> Description | None:
    """Read files of a tree, by their path in it; None where they state no options."""
    from deployer.llama.tree import Source, options_of  # noqa: PLC0415 - once per build

    source = Source(files)
    options = options_of(source)
    if not options:
        return None
    server = "\n".join(
        text for path, text in files.items() if path.startswith("tools/server/")
    )
    version = dict(_VERSION.findall(source.text("CMakeLists.txt")))
    formats = _FORMAT.findall(source.text("include/llama.h"))
    return Description(
        Origin.TREE,
        options,
        routes=_sorted(f"{way.upper()} {at}" for way, at in _ROUTE.findall(server)),
        fields=_sorted(_FIELD.findall(server)),
        architectures=_sorted(_ARCHITECTURE.findall(source.text("src/llama-arch.cpp"))),
        projectors=_sorted(_PROJECTOR.findall(source.text("tools/mtmd/clip-impl.h"))),
        templates=_sorted(_TEMPLATE.findall(source.text("src/llama-chat.cpp"))),
        markers=_sorted(_MARKER.findall(source.common)),
        definitions=_sorted(
            option or cached
            for path, text in files.items()
            if path.endswith("CMakeLists.txt") and _BACKENDS in files
            for option, cached in _DEFINITION.findall(text)
        ),
        open_routes=_sorted(
            path for them in _OPEN.findall(server) for path in _ROUTE_NAME.findall(them)
        ),
        signs=_sorted(sign for sign, text in SIGNS.items() if text in source.common),
        formats={
            {"SESSION": "session"}.get(name, "sequence"): int(number)
            for name, number in formats
        },
        version=".".join(version[part] for part in ("MAJOR", "MINOR", "PATCH"))
        if len(version) == 3
        else "",
    )


def describe_help(help_text: str, build: int | None) -> Description:
    """Read what ``llama-server --help`` printed; raises EngineError for no options."""
    from deployer.llama.explain import catalogue_of_binary  # noqa: PLC0415 - as above

    options = catalogue_of_binary(help_text, build).options
    return Description(Origin.HELP, options, build=build)


def other_build(name: str, stated: int, wanted: int) -> tuple[str, str]:
    """Return the fault of a program that states another build, and the way out."""
    return (
        f"`{name}` is b{stated}, and the stack says b{wanted}",
        f"name a llama-server of b{wanted}, or write `llama_cpp.tag: b{stated}`",
    )


@dataclass(frozen=True, slots=True)
class Answer:
    """Knowledge of a name on a build, and the builds that have it."""

    known: Known
    since: int | None = None
    """First build of the table that knows it; None for none."""
    gone: int | None = None
    """First build of the table that knows it no more."""


class Models(TypedDict):
    """The table of one kind: each name with the builds that it came and went in."""

    builds: list[int]
    names: dict[str, list[int]]


def known_by(kind: str, name: str, build: int | None) -> Answer:
    """Look up an architecture or a type of projector in the table.

    Where two builds that were read differ, those between them are uncertain.
    """
    table = _models()[f"{kind}s"]
    builds = table["builds"]
    row = table["names"].get(name)
    if row is None:
        past = build is None or build > builds[-1]
        return Answer(Known.UNCERTAIN if past else Known.NO)
    since, gone = row[0], row[1] if len(row) > 1 else None
    if build is None:
        return Answer(Known.UNCERTAIN, since, gone)
    before = max((other for other in builds if other < since), default=0)
    if gone is not None and build >= gone:
        return Answer(Known.NO, since, gone)
    if build >= since:
        last = max((b for b in builds if gone is not None and b < gone), default=build)
        return Answer(Known.YES if build <= last else Known.UNCERTAIN, since, gone)
    return Answer(Known.NO if build <= before else Known.UNCERTAIN, since, gone)


def newest_read(kind: str) -> int:
    """Return the newest build whose architectures or projectors the table has."""
    return _models()[f"{kind}s"]["builds"][-1]


@cache
def _models() -> dict[str, Models]:
    content: dict[str, Models] = json.loads(MODELS.read_text("utf-8"))
    return content


def known_in_binary(kind: str, name: str, binary: Path) -> Known:
    """Return whether a llama-server or its library holds a text that ends in the name.

    Linkers keep a text inside of a longer one that ends like it, so no more is asked.
    """
    wanted = name.encode() + b"\0"
    looked = False
    for file in _binaries(kind, binary):
        try:
            stamp = stamp_of(file)
            if _holds(file, stamp, wanted):
                return Known.YES
            looked = looked or _holds(file, stamp, _IN_EVERY)
        except (OSError, ValueError):
            continue
    return Known.NO if looked and kind == ARCHITECTURE else Known.UNCERTAIN


@lru_cache(maxsize=1024)
def _holds(file: Path, _stamp: Stamp, wanted: bytes) -> bool:
    """Return whether a file holds some bytes; searched once for all stacks of a run."""
    with (
        open_regular(file) as stream,
        mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content,
    ):
        return content.find(wanted) >= 0


def _binaries(kind: str, binary: Path) -> Iterator[Path]:
    program = binary.resolve()
    yield program
    beside = {path.resolve() for path in program.parent.glob(_LIBRARIES[kind])}
    yield from sorted(beside)


_SHOWN = 3


def contradiction(found: Description, build: int) -> str:
    """Return the proof that a tree is not this build; empty where there is none.

    The tables of many builds say which names it cannot have and which it must.
    """
    spellings = {name for option in found.options for name in option.spellings}
    too_many, missing = set[str](), set[str]()
    if build <= known_builds()[-1]:
        known = catalogue(build)
        too_many = {it for it in spellings & every_name() if known.find(it) is None}
        missing = set() if known.beyond else known.by_name.keys() - spellings
        missing -= known.uncertain
    for kind, names in (
        (ARCHITECTURE, found.architectures),
        (PROJECTOR, found.projectors),
    ):
        if names and build <= newest_read(kind):
            rows = _models()[f"{kind}s"]["names"]
            said = {it: known_by(kind, it, build).known for it in rows}
            too_many |= {it for it in names if said.get(it) is Known.NO}
            missing |= {it for it in rows if said[it] is Known.YES} - {*names}
    parts = (
        f"it has {_some(too_many)}, which b{build} does not have" if too_many else "",
        f"it lacks {_some(missing)}, which b{build} has" if missing else "",
    )
    return "; ".join(filter(None, parts))


def _some(names: set[str]) -> str:
    shown = ", ".join(f"`{it}`" for it in islice(sorted(names), _SHOWN))
    more = len(names) - _SHOWN
    return f"{shown} and {more} more" if more > 0 else shown


def find(home: Path, pin: Pin) -> Description | None:
    """The description of a pinned build in the store; None where it has none.

    One that is damaged, or is not the one whose digest was locked, counts as none; the
    digest of another reader is of other content.
    """
    try:
        text = place(home, pin).read_text("utf-8")
        found = _description(json.loads(text))
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
    wanted = pin.about.get(DESCRIPTION)
    mine = str(wanted).startswith(f"{_READER}-")
    return found if not mine or wanted == found.digest else None


def keep(home: Path, pin: Pin, description: Description) -> None:
    """Put the description of a pinned build into the store; raises StoreError."""
    path = place(home, pin)
    text = json.dumps(_data(description), separators=(",", ":"))
    with writing(home, purpose="what a build states"):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with guarded(path.parent):
            replace_file(path, text.encode())


def place(home: Path, pin: Pin) -> Path:
    """The file that the description of a pinned build is kept in.

    The reader is part of the name: another one may find more.
    """
    key = digest({"reader": _READER, "source": pin.source, **pin.identity})
    return home / "descriptions" / f"{key}.json"


def _sorted(texts: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted({*texts}))


def _data(description: Description) -> dict[str, JsonValue]:
    plain = {it.name: getattr(description, it.name) for it in fields(description)}
    return {
        **{k: [*v] if isinstance(v, tuple) else v for k, v in plain.items()},
        "origin": description.origin.value,
        "options": [entry_of(option) for option in description.options],
        "formats": {**description.formats},
    }


def _description(content: dict[str, Any]) -> Description:
    texts = {k: tuple(v) for k, v in content.items() if isinstance(v, list)}
    return Description(
        **{
            **content,
            **texts,
            "origin": Origin(content["origin"]),
            "options": tuple(map(option_of, content["options"])),
        }
    )
