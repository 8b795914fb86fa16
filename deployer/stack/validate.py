"""Merged values to a `Stack`, or every problem they have."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from deployer.diagnostics import Place, Problem
from deployer.spelling import shown
from deployer.stack.checks import checks
from deployer.stack.fields.model import Stack
from deployer.stack.fields.values import JsonValue
from deployer.stack.findings import Finding
from deployer.stack.gate_files import files_of
from deployer.stack.project_root import how_to_allow, may_read, root_of
from deployer.stack.repository_addresses import folder_of, places_of, trouble_of
from deployer.stack.without_plugins import no_plugins
from deployer.stack.yaml.file_bytes import missing
from deployer.stack.yaml.tree import Steps, Table, dotted, place_of


@dataclass(frozen=True, slots=True)
class Written:
    """What the files say together, and where."""

    tree: Table
    places: Mapping[str, Place]
    broken: Sequence[Steps]
    """Paths whose problem YAML has told already."""
    path: Path
    """The stack; paths in it are relative to its folder."""
    allowed: tuple[Path, ...] = ()
    """Folders outside of its project that it may read."""


def validated(
    written: Written, values: JsonValue
) -> tuple[Stack | None, list[Problem]]:
    """The stack that the values make, and every problem.

    What the model refuses is taken out, so that the rules between the other fields
    are checked in the same run; no stack is left when a needed key is missing.
    """
    problems: list[Problem] = []
    wrong = list(written.broken)
    stack: Stack | None
    try:
        with no_plugins():
            stack = Stack.model_validate_json(json.dumps(values))
    except ValidationError as error:
        refused = _refused(error, written, problems)
        stack = _stack_without(refused, values)
        wrong += refused
    if stack is not None:
        problems += _broken_rules(stack, written, wrong)
    return stack, problems


def _refused(
    error: ValidationError, written: Written, problems: list[Problem]
) -> list[Steps]:
    """Tell what the model refuses; the paths of it, of a missing key its section's."""
    from deployer.stack.explain_problems import explained, wrong_paths  # noqa: PLC0415 - paid for only on trouble

    wrong = wrong_paths(error)
    whole = Place(str(written.path))
    problems += explained(wrong, written.tree, written.places, whole)
    return [path[:-1] if how == "missing" else path for path, how in wrong.items()]


def _stack_without(refused: list[Steps], values: JsonValue) -> Stack | None:
    copy = json.loads(json.dumps(values))
    for path in refused:
        _take_out(copy, path)
    try:
        return Stack.model_validate_json(json.dumps(copy))
    except ValidationError:
        return None


def _take_out(values: dict[str, JsonValue], path: Steps) -> None:
    """Take out what a path leads to; with an item, its whole list."""
    *above, last = list(_until_list(path)) or [""]
    inside: JsonValue = values
    for step in above:
        inside = inside.get(step) if isinstance(inside, dict) else None
    if isinstance(inside, dict):
        inside.pop(last, None)


def _until_list(path: Steps) -> Iterator[str]:
    for step in path:
        if isinstance(step, int):
            return
        yield step


def _broken_rules(
    stack: Stack, written: Written, wrong: list[Steps]
) -> Iterator[Problem]:
    """Every broken rule, except those that may break only because of what is wrong."""
    apart = [dotted(path) for path in wrong]
    for finding in (*checks(stack), *_unusable(stack, written)):
        if any(_related(p, finding.path) or _related(p, finding.lacks) for p in apart):
            continue
        whole = Place(str(written.path))
        place = place_of(written.places, finding.path) or whole
        yield Problem(place, shown(finding.path), finding.what, finding.hint)


def _related(one: str, other: str) -> bool:
    """Return whether one path is the other, or lies in it."""
    return f"{one}.".startswith(f"{other}.") or f"{other}.".startswith(f"{one}.")


def _unusable(stack: Stack, written: Written) -> Iterator[Finding]:
    """The files that a stack names and may not read, or that are not there."""
    folder = written.path.parent
    root = root_of(written.path)
    files = dict(_files_of(stack))
    repo = stack.llama_cpp.repo
    if repo is not None and (told := trouble_of(repo)):
        yield Finding("llama_cpp.repo", shown(told[0], longest=200), told[1])
    for path, name in (*files.items(), *_folders_of(stack)):
        if name is None:
            continue
        if not may_read(folder / name, root, written.allowed):
            what = f"`{shown(name)}` is outside the project of the stack"
            yield Finding(path, what, how_to_allow(folder / name))
        elif path in files and (told := _trouble_with(folder / name, name)):
            yield Finding(path, *told)


def _folders_of(stack: Stack) -> Iterator[tuple[str, str | None]]:
    """The folders of this machine that a stack takes its source from."""
    yield "llama_cpp.source_path", stack.llama_cpp.source_path
    repo = stack.llama_cpp.repo or ""
    if (folder := folder_of(repo)) is not None and trouble_of(repo) is None:
        # git takes `x.git` for `x` only where it is: an absent one decides nothing.
        first, *others = places_of(folder)
        for place in (first, *(it for it in others if os.path.lexists(it))):
            yield "llama_cpp.repo", str(place)


def _files_of(stack: Stack) -> Iterator[tuple[str, str | None]]:
    """The files of this machine that a stack names, by field."""
    named = {"llama_cpp.binary": stack.llama_cpp.binary, "model.path": stack.model.path}
    if stack.model.path is not None:
        named["model.mmproj"] = stack.model.mmproj
    if stack.snapshot:
        for index, warmup in enumerate(stack.snapshot.warmup or ()):
            named[f"snapshot.warmup.{index}.image"] = warmup.image
    if stack.server is not None and str(stack.server.chat_template).endswith(".jinja"):
        named["server.chat_template"] = stack.server.chat_template
    named |= {it.path: it.name for it in files_of(stack.gates) if it.certain}
    yield from named.items()


def _trouble_with(path: Path, name: str) -> tuple[str, str] | None:
    try:
        if path.is_file():
            return None
        if path.is_dir():
            return f"`{shown(name)}` is a directory", "name the file in it"
    except OSError:
        return f"`{shown(name)}` cannot be read", ""
    what, hint = missing(path, name)
    return what, hint or "paths are relative to the stack"
