"""From intent to what llama-server is given: its command line and warm-up requests."""

import json
import math
import re
from collections.abc import (
    Callable,
    Container,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from itertools import pairwise
from typing import Any, Final

from deployer.runtime.warmup import Request
from deployer.stack.fields.marks import Leaf, fields_of
from deployer.stack.fields.server import Drafting
from deployer.stack.fields.values import (
    TEMPLATE_ENDING,
    Flag,
    Flat,
    JsonValue,
    Unit,
    path_of,
    role_of,
    seconds,
)
from deployer.stack.files import FLAGS, is_pair, option_file, sign_between

SPECULATIVE: Final = "server.speculative.type"
_LOAD_MODE = "--load-mode"
_LOAD_MODES = {
    frozenset({"mmap", "mlock"}): "mmap+mlock",
    frozenset({"none", "mlock"}): "mlock",
    frozenset({"none", "dio"}): "dio",
}
"""Values of the option since b10156 (`common/arg.cpp`) that say two things at once."""
TEMPLATE = "--chat-template"
NEWEST = 10**9
"""Stands for the build number where only a commit is known."""


def words_of(
    leaves: Iterable[Leaf], *, build: int | None, known: Container[str] = ()
) -> tuple[str, ...]:
    """The options that the fields become on this build; free flags come last and win.

    What the engine decides is not among them: model paths, host, port and key file.
    ``known`` is every spelling that the build states it takes, where it was read.
    """
    groups = words_by_field(leaves, build=build, known=known)
    return tuple(word for _, words in groups for word in words)


def command_line(  # noqa: PLR0913 - every part that an engine decides, by name
    program: str,
    words: Iterable[str],
    *,
    model: str,
    beside: Mapping[str, str],
    scales: Mapping[str, float],
    files: Callable[[str], str],
    host: str,
    port: int,
    reuse_port: bool = False,
    key_file: str | None,
) -> tuple[str, ...]:
    """Return the whole command line of llama-server; what the engine owns wins.

    ``beside`` has the file of each role of weights beside the model, ``scales`` the
    strength of adapters and vectors; ``files`` says where a file of the stack lies, by
    the name that it has there.  The one builder of what `render` prints, a dry run
    tries, and an engine starts.
    """
    argv = [program, *_with_files([*words], files)]
    argv += ["--model", model]
    argv += _weights_beside(beside, scales)
    argv += ["--host", host, "--port", str(port)]
    argv += ["--reuse-port"] if reuse_port else []
    argv += ["--api-key-file", key_file] if key_file is not None else []
    return tuple(argv)


_OPTION_OF: Final[Mapping[str, str]] = {
    "mmproj": "--mmproj",
    "draft": "--model-draft",
    "vocoder": "--model-vocoder",
    "lora": "--lora-scaled",
    "control-vectors": "--control-vector-scaled",
}
"""The option of each role, as every build of b8646 to b11434 that has it knows it."""
SCALE: Final = ".scale"
"""Ends the path of a field that says how strongly a file is applied."""
SCALES: Final = "scales"
"""Where the spec of a server holds those that are captured in its snapshot."""


def scales_of(fields: Flat, spec: Flat) -> dict[str, float]:
    """The strength of each adapter and vector of a server, by role."""
    captured = spec.get(SCALES)
    stated = {**(captured if isinstance(captured, dict) else {}), **fields}
    found = {p: v for p, v in stated.items() if p.endswith(SCALE)}
    return {role_of(path): float(str(value)) for path, value in found.items()}


def weight_words(roles: Iterable[str]) -> Iterator[tuple[str, tuple[str, str]]]:
    """The fields of weights beside the model, each with its option and some value."""
    for role in roles:
        name = re.sub(r"-[0-9]+$", "", role)
        if option := _OPTION_OF.get(name):
            yield path_of(role), (option, role)


def _weights_beside(
    beside: Mapping[str, str], scales: Mapping[str, float]
) -> Iterator[str]:
    """The options of the weights beside the model; several adapters are one value."""
    for name, option in _OPTION_OF.items():
        if name in beside:
            yield from (option, beside[name])
        if several := _numbered(name, beside):
            files = (f"{beside[it]}:{scales.get(it, 1.0):g}" for it in several)
            yield from (option, ",".join(files))


def adapters_of(roles: Iterable[str]) -> list[str]:
    """The roles of the LoRA adapters, in the order of their ids in llama-server."""
    return _numbered("lora", roles)


def _numbered(name: str, roles: Iterable[str]) -> list[str]:
    found = [it for it in roles if re.fullmatch(rf"{name}-[0-9]+", it)]
    return sorted(found, key=lambda it: int(it.rpartition("-")[2]))


def _with_files(words: list[str], files: Callable[[str], str]) -> list[str]:
    """The words with every file of the stack by where it lies.

    A chat template of the user's own becomes the option that takes a file.
    """
    for at, (name, value) in enumerate(pairwise([*words])):
        if name == TEMPLATE and value.endswith(TEMPLATE_ENDING):
            words[at : at + 2] = [f"{TEMPLATE}-file", files(value)]
        elif mark := option_file(name):
            words[at + 1] = mark.with_names(value, files)
    return words


def words_by_field(
    leaves: Iterable[Leaf], *, build: int | None, known: Container[str] = ()
) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """The same, with the path of the field that each group of words comes from."""
    typed: list[tuple[str, tuple[str, ...]]] = []
    free: list[tuple[str, tuple[str, ...]]] = []
    every = [*leaves]
    drafts = next((str(it.value) for it in every if it.path == SPECULATIVE), "")
    for leaf in every:
        if leaf.path.startswith(FLAGS):
            name = leaf.path.removeprefix(FLAGS)
            free.append((leaf.path, tuple(_free(name, leaf.value))))
        elif flag := flag_on(leaf.marks.flags, build, known, drafts):
            typed.append((leaf.path, tuple(_typed(flag, leaf))))
    return (*_united(typed), *free)


def is_word(leaf: Leaf) -> bool:
    """Return whether a field goes into the argument list."""
    return bool(leaf.marks.flags) or leaf.path.startswith(FLAGS)


def flag_on(
    flags: Sequence[Flag],
    build: int | None,
    known: Container[str] = (),
    drafts: str = "",
) -> Flag | None:
    """The spelling of an option on a build, for a type of speculative decoding.

    The ranges that the fields state decide, unless the build states that it takes
    another of the spellings and not this one.
    """
    number = NEWEST if build is None else build
    fit = [f for f in flags if not f.types or drafts in f.types]
    chosen = next((f for f in fit if f.since <= number <= f.until), None)
    if chosen is not None and chosen.name.split()[0] in known:
        return chosen
    others = (f for f in fit if f.name.split()[0] in known)
    # With one spelling there is no other: the option is left out on such a build.
    return next(others, chosen) if len(fit) > 1 else chosen


def respelled(option: str, build: int, drafts: str) -> tuple[str, ...]:
    """The name on a build of an option whose successor depends on what drafts.

    None where the option has one successor for all, or the type is not known.
    """
    for field in fields_of(Drafting).values():
        mine = [flag for flag in field.flags if drafts in flag.types]
        if any(flag.name == option for flag in mine):
            found = flag_on(mine, build, drafts=drafts)
            return () if found is None else (found.name,)
    return ()


def _united(
    groups: list[tuple[str, tuple[str, ...]]],
) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Several fields that became values of one option, as the one value they mean.

    Before b10105 they were options of their own; repeated, the last would win.
    """
    modes = [words for _, words in groups if words[:1] == (_LOAD_MODE,)]
    if len({*modes}) > 2:  # what reads the file itself maps nothing
        modes.remove((_LOAD_MODE, "none"))
        groups = [it for it in groups if it[1] != (_LOAD_MODE, "none")]
    value = _LOAD_MODES.get(frozenset(mode for _, mode in modes))
    if value is None:
        yield from groups
        return
    waiting = True
    for path, words in groups:
        if words not in modes:
            yield path, words
        elif waiting:
            yield path, (_LOAD_MODE, value)
            waiting = False


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
        case list() if sign := sign_between(name):
            yield from (f"--{name}", sign.join(_text(item, None) for item in value))
        case list() if is_pair(name):
            yield from (f"--{name}", *(_text(item, None) for item in value))
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


def request_of(stated: Mapping[str, JsonValue]) -> Request:
    """Return a request of `snapshot.warmup`; what is unset is as `Request` has it."""
    given: dict[str, Any] = {k: v for k, v in stated.items() if v is not None}
    limit = given.pop("timeout", None)
    if limit is not None:
        given["seconds"] = seconds(limit)
    return Request(**given)
