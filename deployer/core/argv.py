"""From intent to the command line of llama-server."""

import json
import math
from collections.abc import Iterable, Iterator

from deployer.core.effects import Flag
from deployer.core.marks import Leaf
from deployer.core.units import Unit, seconds
from deployer.core.values import JsonValue

FLAGS_PREFIX = "server.flags."
NEWEST = 10**9
"""Stands for the build number where only a commit is known."""


def words_of(leaves: Iterable[Leaf], *, build: int | None) -> tuple[str, ...]:
    """The options that the fields become on this build; free flags come last and win.

    What the engine decides is not among them: model paths, host, port and key file.
    """
    typed: list[str] = []
    free: list[str] = []
    for leaf in leaves:
        if leaf.path.startswith(FLAGS_PREFIX):
            free += _free(leaf.path.removeprefix(FLAGS_PREFIX), leaf.value)
        elif flag := flag_on(leaf.marks.flags, build):
            typed += _typed(flag, leaf)
    return (*typed, *free)


def is_word(leaf: Leaf) -> bool:
    """Whether a field goes into the argument list."""
    return bool(leaf.marks.flags) or leaf.path.startswith(FLAGS_PREFIX)


def flag_on(flags: Iterable[Flag], build: int | None) -> Flag | None:
    """The spelling of an option on a build of llama.cpp."""
    number = NEWEST if build is None else build
    return next((f for f in flags if f.since <= number <= f.until), None)


def _typed(flag: Flag, leaf: Leaf) -> Iterator[str]:
    match leaf.value:
        case True:
            yield from flag.name.split()
        case False:
            yield from flag.off.split()
        case value:
            yield flag.name
            yield _text(value, leaf.marks.unit)


def _free(name: str, value: JsonValue) -> Iterator[str]:
    match value:
        case True:
            yield f"--{name}"
        case False:
            yield f"--no-{name}"
        case list():
            for item in value:
                yield from (f"--{name}", _text(item, None))
        case _:
            yield from (f"--{name}", _text(value, None))


def _text(value: JsonValue, unit: Unit | None) -> str:
    match value:
        case _ if unit is Unit.DURATION:
            return str(math.ceil(seconds(value)))
        case list():
            return ",".join(_text(item, None) for item in value)
        case dict():
            return json.dumps(value, sort_keys=True, separators=(",", ":"))
        case float():
            return f"{value:.9g}"
        case _:
            return str(value)
