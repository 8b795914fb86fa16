"""Answers to an editor in which a stack is written: problems, hover, completion.

Nothing is fetched and nothing is run.  Lines and columns count from 0 here, as in the
Language Server Protocol; columns are characters of Python.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from deployer.artefacts import lock_file
from deployer.diagnostics import Diagnostic, Place, Severity, span
from deployer.errors import DeployerError, StackError
from deployer.llama.catalogue import Catalogue, Option, Standing, catalogue
from deployer.stack.explain_problems import choices
from deployer.stack.fields.marks import fields_of
from deployer.stack.fields.reference import Entry, entries, entry_at, flow, markdown
from deployer.stack.fields.values import File, Folder
from deployer.stack.load import load
from deployer.stack.yaml12 import (
    Entry as Written,
)
from deployer.stack.yaml12 import (
    Scalar,
    Steps,
    Table,
    UnreadableError,
    node_at,
    open_brackets,
    parse,
    walk,
)
from deployer.usecases.context.settings import Settings
from deployer.usecases.context.stack_files import name_in, stack_files
from deployer.usecases.reading.findings import number_of
from deployer.usecases.validate import validate

_HERE: Final = "here-is-the-cursor"
"""Stands for the word below the cursor while the text around it is read."""
_WORD: Final = re.compile(r"[\w./~-]*$")
_EDIT: Final = re.compile(r"(?:.*: )?(?:write|did you mean) `([^`]+)`\??(?:, .*)?")
_FLAGS: Final = ("server", "flags")


@dataclass(frozen=True, slots=True)
class Word:
    """A word that may be written at the cursor."""

    text: str
    """As it is shown."""
    insert: str
    """In place of what is written of it so far."""
    told: str = ""
    """Markdown."""


@dataclass(frozen=True, slots=True)
class Edit:
    """A text to write in place of a part of a line."""

    line: int
    start: int
    end: int
    text: str


@dataclass(frozen=True, slots=True)
class Shown:
    """The key below the cursor, and its meaning."""

    line: int
    start: int
    end: int
    told: str
    """Markdown."""


def is_stack(file: Path, text: str) -> bool:
    """Return whether a YAML file is a stack, by its place, its name or its schema."""
    named = file.name.endswith((".deployer.yaml", ".deployer.yml"))
    if not named and file.parent.name != "stacks" and "stack.schema.json" not in text:
        return False
    return name_in(text) is not None or file in stack_files((file.parent,))


def problems(file: Path, text: str, settings: Settings) -> tuple[Diagnostic, ...]:
    """Return everything that `deployer validate` says of a text, by place."""
    start = Place(str(file))
    try:
        found = validate(file, settings, None, unsaved=text)
    except StackError as error:
        return tuple(error.problems)
    except DeployerError as error:
        return (Diagnostic("", error.message, error.hint, place=start),)
    notes = (Diagnostic("", n, "", Severity.NOTE, place=start) for n in found.notes)
    return (*notes, *found.notices)


def edit_of(problem: Diagnostic, text: str) -> Edit | None:
    """Return the edit that the hint of a problem asks for; None where it needs thought.

    Such a hint is one text in backticks behind `write` or `did you mean`: a whole line
    where it has a key, else a key or a value, whichever is wrong.
    """
    found = _EDIT.fullmatch(problem.hint)
    lines, place = text.splitlines(), problem.place
    if found is None or place.line > len(lines):
        return None
    line = lines[place.line - 1]
    if place.column > len(line):
        return None
    start, end = span(problem, line)
    key, colon, _ = found[1].partition(":")
    if colon and not problem.about_key:
        if line[place.column - 1 :].startswith(f"{key}:"):
            start = place.column - 1
        else:
            return None
    return Edit(place.line - 1, start, end, found[1])


def hover(file: Path, text: str, line: int, column: int) -> Shown | None:
    """Return the meaning of the key below the cursor; None where there is none."""
    try:
        table, _ = parse(text, str(file))
    except UnreadableError:
        return None
    found = [
        (steps, entry.place.column - 1)
        for steps, entry in walk(table)
        if entry.place.line == line + 1 and isinstance(steps[-1], str)
    ]
    for steps, start in found:
        end = start + len(str(steps[-1]))
        if start <= column <= end and (told := _told(file, text, steps)):
            return Shown(line, start, end, told)
    return None


def words(file: Path, text: str, line: int, column: int) -> tuple[Word, ...]:
    """Return what may be written at the cursor, in the order of the vocabulary."""
    lines = f"{text}\n".splitlines(keepends=True)
    before, last = "".join(lines[:line]), "".join(lines[line : line + 1])[:column]
    begun = _WORD.search(last)
    word = begun[0] if begun else ""
    last = last[: len(last) - len(word)]
    cut = before + last
    within = open_brackets(cut)
    closed = "".join({"[": "]", "{": "}"}[mark] for mark in reversed(within))
    is_key = within[-1:] == "{" or (not within and last.strip(" -") == "")
    if within[-1:] == "{" and re.search(r":\s*$", last):
        is_key = False
    found: list[Word] = []
    if is_key:
        tree, steps = _at(f"{cut}{_HERE}: {closed}", file)
        if steps:
            found += _keys(file, text, tree, steps[:-1])
    if not found:
        _, steps = _at(f"{cut}{_HERE}{closed}", file)
        found += _values(file, text, steps, word) if steps else []
    return tuple(found)


def _at(text: str, file: Path) -> tuple[Table, Steps]:
    """Return the tree of a text, and the path of the cursor; empty if unreadable."""
    try:
        table, _ = parse(text, str(file))
    except UnreadableError:
        return Table({}), ()
    for steps, entry in walk(table):
        if steps[-1] == _HERE or entry.node == Scalar(_HERE, _HERE):
            return table, steps
    return table, ()


def _generic(steps: Steps) -> str:
    """Return a path as the vocabulary has it, indexes as `[]` and names as `NAME`."""
    path = ""
    for step in steps:
        if isinstance(step, int):
            path += "[]"
            continue
        above = entry_at(path)
        named = above is not None and above.listed == ".NAME"
        path = f"{path}.NAME" if named else f"{path}.{step}".lstrip(".")
    return path


def _build(file: Path, text: str) -> int | None:
    """Return the build that the text pins, as far as that is known here."""
    try:
        stack = load(file, unsaved=text).stack
        return number_of(stack, lock_file.read(lock_file.lock_path(file)))
    except DeployerError:
        table = parse(text, str(file))[0] if _readable(text, file) else Table({})
        node = node_at(table, ("llama_cpp", "tag"))
        tag = node.value if isinstance(node, Scalar) else None
        found = re.fullmatch(r"b([0-9]{1,9})", str(tag))
        return int(found[1]) if found else None


def _readable(text: str, file: Path) -> bool:
    try:
        parse(text, str(file))
    except UnreadableError:
        return False
    return True


def _told(file: Path, text: str, steps: Steps) -> str:
    """Return what is said of a key, in Markdown; empty for one that is not known."""
    if steps[:2] == _FLAGS and len(steps) == 3:
        known = catalogue(_build(file, text))
        option = known.find(f"--{steps[2]}")
        return _of_option(option, known) if option else ""
    entry = entry_at(_generic(steps))
    return markdown(entry) if entry else ""


def _of_option(option: Option, known: Catalogue) -> str:
    """Return what an option of llama-server is, in Markdown."""
    lines = [f"`{', '.join(option.spellings)}` {option.hint}".rstrip(), ""]
    if option.values:
        lines.append(f"- Values: {', '.join(f'`{it}`' for it in option.values)}")
    if option.env:
        lines.append(f"- Environment variable: `{option.env}`")
    if option.standing is not Standing.CURRENT:
        lines.append(f"- {option.standing.value.capitalize()}")
    if known.build is not None:
        unsure = ", read from the nearest build that is known" if known.beyond else ""
        lines.append(f"- Build: b{known.build}{unsure}")
    return "\n".join(lines)


def _keys(file: Path, text: str, tree: Table, above: Steps) -> Iterator[Word]:
    """Yield the keys that a section takes and does not have yet."""
    node = node_at(tree, above) if above else tree
    written = node.entries if isinstance(node, Table) else {}
    if above == _FLAGS:
        yield from _flags(file, text, written)
        return
    prefix = f"{_generic(above)}." if above else ""
    holder = entry_at(_generic(above)) if above else None
    if holder is not None and holder.listed == ".NAME":
        return
    for entry in _below(prefix):
        if entry.name not in written:
            yield Word(entry.name, _inserted(entry), markdown(entry))


def _below(prefix: str) -> Iterator[Entry]:
    """Yield the fields right below a path."""
    for entry in entries():
        if entry.path.startswith(prefix) and "." not in entry.path[len(prefix) :]:
            yield entry


def _inserted(entry: Entry) -> str:
    if entry.path.startswith("gates.") and entry.below and not entry.listed:
        return f"{entry.name}: {{}}"
    return f"{entry.name}:" if entry.below else f"{entry.name}: "


def _flags(file: Path, text: str, written: dict[str, Written]) -> Iterator[Word]:
    """Yield the options of the build that no field of the stack stands for."""
    known = catalogue(_build(file, text))
    typed = {
        word
        for entry in entries()
        for flag in entry.marks.flags
        for word in (flag.name, flag.off)
    }
    for option in known.options:
        name = option.name.removeprefix("--")
        if option.standing is Standing.REMOVED or typed.intersection(option.spellings):
            continue
        if option.name.startswith("--") and name not in written:
            told = _of_option(option, known)
            yield Word(name, f"{name}: ", told)


def _values(file: Path, text: str, steps: Steps, word: str) -> Iterator[Word]:
    """Yield the values that a field may have: words, files, examples."""
    if steps[:2] == _FLAGS and len(steps) >= 3:
        option = catalogue(_build(file, text)).find(f"--{steps[2]}")
        yield from (Word(it, it) for it in (option.values if option else ()))
        return
    entry = entry_at(_generic(steps)) or entry_at(_generic(steps).removesuffix("[]"))
    if entry is None:
        return
    named = choices(entry.schema) or choices(entry.schema.get("items", {}))
    yield from (Word(it, it) for it in named)
    mark = fields_of(entry.owner)[entry.name].file
    if mark is not None or entry.path == "extends":
        ending = mark.ending if isinstance(mark, File) else ""
        yield from _files(file.parent, word, ending, folders=isinstance(mark, Folder))
    elif not named:
        given = (entry.default, *entry.examples)
        found = dict.fromkeys(flow(it) for it in given if it is not None)
        yield from (Word(it, it) for it in found if not it.startswith(("{", "[")))


def _files(folder: Path, word: str, ending: str, *, folders: bool) -> Iterator[Word]:
    """Yield the files that a path that was begun may lead to."""
    begun = word.rpartition("/")[0]
    place = folder / begun
    try:
        found = sorted(os.scandir(place), key=lambda it: it.name)
    except OSError:
        return
    lead = f"{begun}/" if begun else ""
    for it in found:
        if it.name.startswith("."):
            continue
        if it.is_dir():
            yield Word(f"{lead}{it.name}/", f"{lead}{it.name}/")
        elif not folders and it.name.endswith(ending):
            yield Word(f"{lead}{it.name}", f"{lead}{it.name}")
    if not begun:
        yield Word("../", "../")
