"""Which models a build of llama.cpp knows: architectures, and projectors of pictures.

From the names in 26 source trees from b6666 to b11434 (``data/models.json``); where
two neighbours differ, the builds between them are told as uncertain.  A source tree or
a binary at hand knows better, and is asked first.
"""

import json
import mmap
import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import cache, lru_cache
from importlib.resources import files
from pathlib import Path
from typing import TypedDict

from deployer.artefacts.sources.files import Stamp, stamp_of
from deployer.system.files import open_regular, read_regular

ARCHITECTURE, PROJECTOR = "architectures", "projectors"

_NAMES = {
    ARCHITECTURE: (
        "src/llama-arch.cpp",
        re.compile(r'\{\s*LLM_ARCH_\w+\s*,\s*"([^"]+)"'),
    ),
    PROJECTOR: (
        "tools/mtmd/clip-impl.h",
        re.compile(r'\{\s*PROJECTOR_TYPE_\w+\s*,\s*"([^"]+)"'),
    ),
}
_IN_EVERY = b"starcoder2\0"
"""An architecture of every build: where it is, the table of names is."""
_LIBRARIES = {ARCHITECTURE: "libllama.*", PROJECTOR: "libmtmd.*"}


class Known(StrEnum):
    """Knowledge of a name on a build."""

    YES = "yes"
    NO = "no"
    UNCERTAIN = "uncertain"


@dataclass(frozen=True, slots=True)
class Answer:
    """Knowledge of a name on a build, and the builds that have it."""

    known: Known
    since: int | None = None
    """First build of the table that knows it; None for none."""
    gone: int | None = None
    """First build of the table that knows it no more."""


class _Table(TypedDict):
    builds: list[int]
    names: dict[str, list[int]]


def known_by(kind: str, name: str, build: int | None) -> Answer:
    """Look up an architecture or a type of projector in the table."""
    table = _tables()[kind]
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


def known_in_tree(kind: str, name: str, tree: Path) -> Known:
    """Look a name up in a source tree; uncertain where its layout is unknown."""
    file, pattern = _NAMES[kind]
    try:
        text = read_regular(tree / file).decode("utf-8", errors="replace")
    except OSError:
        return Known.UNCERTAIN
    found = set(pattern.findall(text))
    if not found:
        return Known.UNCERTAIN
    return Known.YES if name in found else Known.NO


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


@cache
def _tables() -> dict[str, _Table]:
    path = files("deployer.llama.known") / "data" / "models.json"
    content: dict[str, _Table] = json.loads(path.read_text("utf-8"))
    return content
