"""A stack file to a `Stack`, with the place of every key; every problem at once."""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import ValidationError

from deployer.diagnostics import Diagnostic, Place, placed
from deployer.engines.registry import ENGINES
from deployer.engines.registry import load as load_part
from deployer.errors import StackError
from deployer.spelling import shown
from deployer.stack.addresses import places_of, trouble_of
from deployer.stack.checks import checks
from deployer.stack.fields.marks import leaves
from deployer.stack.fields.model import Project, Stack, problems_of
from deployer.stack.fields.values import HERE, File, Folder, JsonValue
from deployer.stack.files import FLAGS, Named, named_by
from deployer.stack.project_root import how_to_allow, may_read, root_of
from deployer.stack.yaml12 import (
    Broken,
    Entry,
    Scalar,
    Steps,
    Table,
    UnreadableError,
    dotted,
    missing,
    parse,
    plain,
    read_layers,
    text_of,
    walk,
)
from deployer.system.files import read_regular


@dataclass(frozen=True, slots=True)
class Written:
    """The merged content of the files, with places."""

    tree: Table
    places: Mapping[str, Place]
    broken: Sequence[Steps]
    """Paths whose problem is reported already."""
    path: Path
    """The stack; paths in it are relative to its folder."""
    allowed: tuple[Path, ...] = ()
    """Folders outside of its project that it may read."""


def validated(
    written: Written, values: JsonValue
) -> tuple[Stack | None, list[Diagnostic]]:
    """The stack that the values make, and every problem.

    What the model refuses is taken out, so that the rules between the other fields
    are checked in the same run; no stack is left when a needed key is missing.
    """
    problems: list[Diagnostic] = []
    wrong = list(written.broken)
    stack: Stack | None
    try:
        stack = Stack.model_validate_json(json.dumps(values))
    except ValidationError as error:
        refused = _refused_values(error, written, problems)
        stack = _stack_without(refused, values)
        wrong += refused
    if stack is not None:
        problems += _broken_rules(stack, written, wrong)
    found = placed(problems, written.places, Place(str(written.path)))
    return stack, [replace(it, path=shown(it.path)) for it in found]


def _refused_values(
    error: ValidationError, written: Written, problems: list[Diagnostic]
) -> list[Steps]:
    """Report what the model refuses; return the paths, of a missing key its section."""
    from deployer.stack.explain_problems import explained, wrong_paths  # noqa: PLC0415 - paid for only on trouble

    wrong = wrong_paths(Stack, error)
    problems += explained(Stack, wrong, written.tree)
    return [path[:-1] if how == "missing" else path for path, how in wrong.items()]


def _stack_without(refused: list[Steps], values: JsonValue) -> Stack | None:
    copy = json.loads(json.dumps(values))
    for path in refused:
        _take_out(copy, path)
    copy.setdefault("name", "stack")  # so that a wrong name hides nothing else
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
) -> Iterator[Diagnostic]:
    """Every broken rule, except those that may break only because of what is wrong."""
    apart = [dotted(path) for path in wrong]
    rules = tuple(checks(stack))
    refused = {it.path for it in rules}
    files = (it for it in _unusable(stack, written) if it.path not in refused)
    for it in (*rules, *files):
        if not any(_related(p, it.path) or _related(p, it.needs) for p in apart):
            yield it


def _related(one: str, other: str) -> bool:
    """Return whether one path is the other, or lies in it."""
    return f"{one}.".startswith(f"{other}.") or f"{other}.".startswith(f"{one}.")


def _unusable(stack: Stack, written: Written) -> Iterator[Diagnostic]:
    """The files that a stack names and may not read, or that are not there."""
    folder, root = written.path.parent, root_of(written.path)
    repo = stack.llama_cpp.repo
    if repo is not None and (trouble := trouble_of(repo)):
        yield Diagnostic("llama_cpp.repo", shown(trouble[0], longest=200), trouble[1])
    for it in named_by(stack):
        if it.optional or (it.path == "llama_cpp.repo" and trouble_of(repo or "")):
            continue
        for place in _places(it, folder):
            if not may_read(place, root, written.allowed):
                name = shown(str(place) if it.mark == Folder(scheme=HERE) else it.name)
                what = f"`{name}` is outside the project of the stack"
                yield Diagnostic(it.path, what, how_to_allow(place))
            elif told := (
                _trouble_with(place, it) or _not_carried(stack, it, place, folder)
            ):
                yield Diagnostic(it.path, *told)


def _not_carried(
    stack: Stack, it: Named, place: Path, folder: Path
) -> tuple[str, str] | None:
    """Why a file or folder of an option cannot be had where the server runs."""
    if not it.of_option:
        return None
    name = it.path.removeprefix(FLAGS)
    if place.is_dir() and _real(folder).is_relative_to(_real(place)):
        what = f"`{name}` names a folder that contains the stack, and what is beside it"
        return what, "name a folder that contains nothing else"
    if not ENGINES[stack.engine].abilities.remote:
        return None
    where = f"write it for the local engine alone, or leave `{name}` out"
    if isinstance(it.mark, File) and it.mark.written:
        return f"what `{name}` writes is lost when a container stops", where
    if place.is_dir():
        what = f"`{shown(it.name)}` is a folder, and only files go into a container"
        return what, where
    if place.suffix.lower() == ".gguf":
        what = f"`{shown(it.name)}` is a file of weights, which is too large to send"
        return f"{what} along with an app", where
    return None


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))


def _places(it: Named, folder: Path) -> Iterator[Path]:
    """Yield where a named file or folder lies; for a repository, where git finds it."""
    if it.mark == Folder(scheme=HERE):
        # git takes `x.git` for `x` only where it is: an absent one decides nothing.
        first, *others = places_of(it.name)
        yield from (first, *(place for place in others if os.path.lexists(place)))
    else:
        yield folder / it.name


def _trouble_with(path: Path, it: Named) -> tuple[str, str] | None:
    name, mark = it.name, it.mark
    if isinstance(mark, Folder):
        return None
    try:
        if path.is_file() or (mark.folder and path.is_dir()):
            return _wrong_content(path, it, mark)
        if path.is_dir():
            return f"`{shown(name)}` is a directory", "name the file in it"
    except OSError:
        return f"`{shown(name)}` cannot be read", ""
    if mark.written and path.parent.is_dir():
        return None
    what, hint = missing(path, name)
    return what, hint or "paths are relative to the stack"


def _wrong_content(path: Path, it: Named, mark: File) -> tuple[str, str] | None:
    if mark.content:
        try:
            load_part(mark.content)(read_regular(path))
        except ValueError as error:
            return f"`{shown(it.name)}`: {shown(str(error))}", ""
    return None


@dataclass(frozen=True, slots=True)
class Loaded:
    """A stack that is right in itself, and where each part of it was written."""

    stack: Stack
    places: Mapping[str, Place]
    """Dotted path -> where the key of the winning value is written."""
    sources: tuple[Path, ...]
    """Every file that was read, in the order of reading."""
    digest: str
    """SHA-256 of the merged values; equal for stacks that say the same."""
    values: JsonValue
    """The merged values, as they are written."""
    notes: tuple[str, ...]
    """Remarks that are no problem."""


def load(
    path: Path,
    *,
    engine: str | None = None,
    allowed: tuple[Path, ...] = (),
    unsaved: str | None = None,
    further: Callable[[Loaded], Iterable[Diagnostic]] | None = None,
) -> Loaded:
    """Read a stack and all it extends; ``engine`` wins over the one in the file.

    Files that it names lie in its project, or below one of the ``allowed`` folders.
    What is ``unsaved`` in an editor is read in place of the content of the stack.
    Where something is wrong, ``further`` judges the rest of the stack, so that one run
    reports what later stages would refuse, too.

    Raises StackError with every problem of every file, sorted by place.
    """
    layers = read_layers(path, allowed=allowed, unsaved=unsaved)
    if layers.tree is None:
        raise StackError(layers.problems)
    tree = _with_engine(layers.tree, engine, path) if engine else layers.tree
    entries = tuple(walk(tree))
    places = {dotted(steps): entry.place for steps, entry in entries}
    broken = [steps for steps, entry in entries if isinstance(entry.node, Broken)]
    values = plain(tree)
    stack, problems = validated(Written(tree, places, broken, path, allowed), values)
    problems += layers.problems
    if stack is None:
        raise StackError(problems)
    sources, notes = tuple(layers.sources), _notes(stack, places)
    loaded = Loaded(stack, places, sources, _digest(values), values, notes)
    if problems:
        rest = further(loaded) if further is not None else ()
        raise StackError([*problems, *_apart(rest, problems)])
    return loaded


def _apart(
    rest: Iterable[Diagnostic], problems: Sequence[Diagnostic]
) -> Iterator[Diagnostic]:
    """Yield what is not only wrong because of the problems that are known."""
    for it in rest:
        known = (problem.path for problem in problems)
        if not any(_related(p, it.path) or _related(p, it.needs) for p in known):
            yield it


def _with_engine(tree: Table, engine: str, path: Path) -> Table:
    known = tree.entries.get("engine")
    place = known.place if known else Place(str(path))
    return Table({**tree.entries, "engine": Entry(place, Scalar(engine, engine))})


def _digest(values: JsonValue) -> str:
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _notes(stack: Stack, places: Mapping[str, Place]) -> tuple[str, ...]:
    """Settings that the engine does not use; a section of such only is named once.

    And what else an engine has to say.
    """
    written = [leaf for leaf in leaves(stack) if leaf.path in places]
    unused = [leaf for leaf in written if leaf.marks.only not in (None, stack.engine)]
    names: dict[str, None] = {}
    for leaf in unused:
        section = leaf.path.partition(".")[0]
        beside = [other for other in written if other.path.startswith(f"{section}.")]
        whole = len(beside) > 1 and all(other in unused for other in beside)
        names[section if whole else leaf.path] = None
    unread = (f"not used by {stack.engine}: {', '.join(names)}",) if names else ()
    part = ENGINES[stack.engine].notes
    return (*unread, *(load_part(part)(stack) if part else ()))


def load_project(path: Path) -> Project:
    """Read the project file; raises StackError with every problem, by place."""
    file = str(path)
    try:
        text = text_of(path, file=file, asked=Place(file))
    except UnreadableError as error:
        raise StackError([error.problem]) from error
    return project_in(text, file)


def project_in(text: str, file: str) -> Project:
    """Return the project of a text; raises StackError as `load_project` does."""
    try:
        table, problems = parse(text, file)
    except UnreadableError as error:
        raise StackError([error.problem]) from error
    places = {dotted(steps): entry.place for steps, entry in walk(table)}
    try:
        project = Project.model_validate_json(json.dumps(plain(table)))
    except ValidationError as error:
        from deployer.stack.explain_problems import explained, wrong_paths  # noqa: PLC0415 - paid for only on trouble

        found = explained(Project, wrong_paths(Project, error), table)
        problems += placed(found, places, Place(file))
        raise StackError(problems) from error
    if project.state is not None:
        problems += placed(problems_of(project.state), places, Place(file))
    if problems:
        raise StackError(problems)
    return project
