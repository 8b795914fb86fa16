"""Files of a project, with the place of every key: stacks, settings, policies."""

import hashlib
import json
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import Field, ValidationError

from deployer.diagnostics import Diagnostic, Place, Severity, place_of, placed
from deployer.engines.registry import ENGINES
from deployer.engines.registry import load as load_part
from deployer.errors import StackError
from deployer.spelling import shown
from deployer.stack.addresses import places_of, trouble_of
from deployer.stack.checks import checks
from deployer.stack.fields.marks import Section, leaves
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
    project, places = section_in(Project, text, file)
    wrong = () if project.state is None else problems_of(project.state)
    if wrong:
        raise StackError(placed(wrong, places, Place(file)))
    return project


_Form = TypeVar("_Form", bound=Section)


def section_in(
    form: type[_Form], text: str, file: str
) -> tuple[_Form, Mapping[str, Place]]:
    """Return what a file beside the stacks holds, and where each value is written.

    Raises StackError with every problem, by place.
    """
    try:
        table, problems = parse(text, file)
    except UnreadableError as error:
        raise StackError([error.problem]) from error
    places = {dotted(steps): entry.place for steps, entry in walk(table)}
    try:
        found = form.model_validate_json(json.dumps(plain(table)))
    except ValidationError as error:
        from deployer.stack.explain_problems import explained, wrong_paths  # noqa: PLC0415 - paid for only on trouble

        wrong = explained(form, wrong_paths(form, error), table)
        problems += placed(wrong, places, Place(file))
        raise StackError(problems) from error
    if problems:
        raise StackError(problems)
    return found, places


# Policies: rules over fields, facts and plans, in `policies/*.yaml` of a project.  A
# rule looks at one path.  What is not known does not count as good: a rule that
# compares a value is broken where there is none, unless it says `or_unset: true`.

_Scalar = str | int | float | bool
_Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]*$")]
_Path = Annotated[str, Field(pattern=r"^[a-z_][\w.*-]*$")]
_Line = Annotated[str, Field(min_length=1)]


class Test(Section):
    """A condition of a value; all that is stated has to hold."""

    equals: _Scalar | None = None
    """The value itself."""

    not_equals: _Scalar | None = None
    """Anything but this."""

    one_of: Annotated[list[_Scalar], Field(min_length=1)] | None = None
    """One of these; of a list each item."""

    none_of: Annotated[list[_Scalar], Field(min_length=1)] | None = None
    """None of these; of a list no item."""

    at_most: int | float | None = None
    """A number up to this."""

    at_least: int | float | None = None
    """A number from this on."""

    matches: _Line | None = None
    """A regular expression for all of the value; of a list for each item."""

    contains: _Scalar | None = None
    """An item of a list."""

    set: bool | None = None
    """True: it has to be there; false: it must not."""


class Excused(Section):
    """A stack for which a rule does not count, for a while."""

    stack: _Name
    """Its name."""

    reason: _Line
    """Why."""

    until: Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}$")]
    """The last day, UTC."""


class Rule(Section):
    """One rule."""

    name: _Name
    """Tells it apart in messages."""

    path: _Path
    """`server.ctx_size`, `lock.*`, `plan.dollars_per_hour`; `*` stands for any part."""

    test: Test
    """The condition there."""

    message: _Line
    """The fault where it is not met."""

    severity: Literal["error", "warn"] = "error"
    """An error is refused."""

    when: dict[_Path, Test] = Field(default_factory=dict)
    """The rule counts only where all of these hold."""

    or_unset: bool = False
    """A value that is not there is fine."""

    exceptions: list[Excused] = Field(default_factory=list)
    """Stacks for which it does not count yet."""


class Policies(Section):
    """A file of rules."""

    version: Literal[1]
    """Version of this form."""

    rules: Annotated[list[Rule], Field(min_length=1)]
    """In any order."""


@dataclass(frozen=True, slots=True)
class WrittenRule:
    """A rule, and where it is written."""

    rule: Rule
    place: Place


def rules_in(text: str, file: str) -> tuple[WrittenRule, ...]:
    """Return the rules of a file; raises StackError with every problem, by place."""
    found, places = section_in(Policies, text, file)
    written = []
    for number, rule in enumerate(found.rules):
        place = place_of(places, f"rules.{number}") or Place(file)
        written.append(WrittenRule(rule, place))
        for test in (rule.test, *rule.when.values()):
            _refuse_pattern(test, place)
    return tuple(written)


def _refuse_pattern(test: Test, place: Place) -> None:
    try:
        re.compile(test.matches or "")
    except re.error as error:
        what = f"`matches` is no regular expression: {error}"
        raise StackError([Diagnostic("matches", what, place=place)]) from error


def broken(
    rules: Sequence[WrittenRule],
    stack: str,
    values: Mapping[str, JsonValue],
    places: Mapping[str, Place],
    file: str,
    today: str,
    *,
    knows: Callable[[str], bool] = lambda _path: True,
) -> Iterator[Diagnostic]:
    """Yield what a stack breaks, each at the line of the value.

    ``values`` are flat; ``today`` is a date, ISO 8601; a rule about a path that is not
    known yet (``knows``) is left for who knows it.
    """
    for written in rules:
        rule = written.rule
        paths = [rule.path, *rule.when]
        if not all(knows(path) for path in paths):
            continue
        if not all(
            _holds(test, _found(path, values)) for path, test in rule.when.items()
        ):
            continue
        excused = next((it for it in rule.exceptions if it.stack == stack), None)
        if excused is not None and today <= excused.until:
            continue
        late = ""
        if excused is not None:
            late = f"; its exception ended {excused.until} ({excused.reason})"
        for path, what in _trouble(rule, values):
            place = place_of(places, path) or Place(file)
            yield _told(written, path, f"{what}{late}", place)


def _told(written: WrittenRule, path: str, what: str, place: Place) -> Diagnostic:
    rule = written.rule
    severity = Severity.ERROR if rule.severity == "error" else Severity.WARNING
    said = f"{rule.message}: {what}"
    hint = f"rule `{rule.name}` at {written.place}"
    return Diagnostic(path, said, hint, severity, f"policy-{rule.name}", place)


def _found(path: str, values: Mapping[str, JsonValue]) -> Mapping[str, JsonValue]:
    """Return the values at a path, or at all that a pattern names."""
    below = f"{path}."
    return {
        known: value
        for known, value in values.items()
        if known == path or fnmatchcase(known, path) or known.startswith(below)
    }


def _trouble(rule: Rule, values: Mapping[str, JsonValue]) -> Iterator[tuple[str, str]]:
    """Yield each path that breaks a rule, and how."""
    found = _found(rule.path, values)
    test = rule.test
    if not found:
        compares = test.model_dump(exclude={"set"}, exclude_none=True)
        if test.set is True or (compares and test.set is None and not rule.or_unset):
            yield rule.path, f"`{rule.path}` is not set"
        return
    if test.set is False:
        yield from ((path, f"`{path}` is set") for path in found)
        return
    for path, value in found.items():
        if why := _why(test, value):
            yield path, f"`{path}` is {_shown(value)}, {why}"


def _holds(test: Test, found: Mapping[str, JsonValue]) -> bool:
    if test.set is not None and test.set is not bool(found):
        return False
    if test.set is None and not found:
        return False
    return not any(_why(test, value) for value in found.values())


def _why(test: Test, value: JsonValue) -> str:
    """Return what a value should be; empty where it is that."""
    items = value if isinstance(value, list) else [value]
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    number = value if is_number and isinstance(value, int | float) else math.nan
    top, low = test.at_most, test.at_least
    one_of, none_of = test.one_of or (), test.none_of or ()
    pattern = test.matches or ""
    checks: tuple[tuple[object, bool, str], ...] = (
        (test.equals, value == test.equals, "expected"),
        (test.not_equals, value != test.not_equals, "expected anything but"),
        (test.one_of, all(it in one_of for it in items), "expected one of"),
        (test.none_of, not any(it in none_of for it in items), "expected none of"),
        (top, top is not None and number <= top, "expected at most"),
        (low, low is not None and number >= low, "expected at least"),
        (
            test.matches,
            all(re.fullmatch(pattern, str(it)) for it in items),
            "expected a match of",
        ),
        (test.contains, test.contains in items, "expected to contain"),
    )
    for stated, fine, words in checks:
        if stated is not None and not fine:
            return f"{words} {_shown(stated)}"
    return ""


def _shown(value: object) -> str:
    text = ", ".join(f"`{it}`" for it in value) if isinstance(value, list) else value
    return f"{text}" if isinstance(value, list) else f"`{value}`"
