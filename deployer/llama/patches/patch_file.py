"""A patch as a folder: ``patches/<name>/patch.yaml`` and ``<name>.patch``."""

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal, TypeAlias, get_args

from deployer.diagnostics import Place, Problem
from deployer.errors import StackError
from deployer.llama.patches.diffs import Diff, read_diff
from deployer.spelling import did_you_mean, one_of
from deployer.stack.name_forms import is_path
from deployer.stack.project_root import may_read, root_of
from deployer.stack.yaml.file_bytes import text_of
from deployer.stack.yaml.tree import Broken, Entry, Listing, Scalar, Table
from deployer.stack.yaml.yaml12 import UnreadableError, parse
from deployer.system.regular_files import read_regular

Status: TypeAlias = Literal["merged", "proposed", "refused", "ours"]
"""What became of the change upstream."""

DESCRIPTION = "patch.yaml"

_REQUIRED = ("name", "why", "reference", "status")
_OPTIONAL = ("needs", "upstream", "gate", "until")
_BUILD = re.compile(r"b\d+")
_LONGEST_MARKER = 1000
_INSTEAD = "a marker is no regular expression: write the text itself as `contains:`"


@dataclass(frozen=True, slots=True)
class Marker:
    """Something to look for in a source tree."""

    files: str
    """Pattern of paths, such as ``common/**/*.cpp``."""
    contains: str
    """Text of one of them, white space of any length where it has some."""

    @property
    def pattern(self) -> re.Pattern[str]:
        """The text as a pattern that is searched in linear time, whatever it says."""
        return re.compile(r"\s+".join(map(re.escape, self.contains.split())))


@dataclass(frozen=True, slots=True)
class Patch:
    """One patch of ours, and what is known about it."""

    name: str
    why: str
    reference: str
    """Address of the change, or of the discussion, upstream."""
    status: Status
    needs: Marker | None
    """Without it in the tree there is nothing to patch."""
    upstream: Marker | None
    """With it in the tree the patch is no longer wanted."""
    gate: str | None
    """Gate that fails without the patch and passes with it."""
    until: str | None
    """Last build that wants the patch."""
    text: str = field(repr=False)
    diff: Diff = field(repr=False)

    @property
    def digest(self) -> str:
        """SHA-256 of the diff: what the patch does, not what is said about it."""
        return hashlib.sha256(self.text.encode()).hexdigest()


def load_patch(folder: Path) -> Patch:
    """The patch in a folder; raises StackError with everything wrong with it."""
    problems: list[Problem] = []
    name = folder.name
    diff_file = folder / f"{name}.patch"
    description = _described(folder / DESCRIPTION, name, problems)
    text = _text(diff_file, problems)
    diff = read_diff(text or "")
    if text is not None:
        problems.extend(
            Problem(Place(str(diff_file), fault.line), "", fault.what, fault.hint)
            for fault in diff.faults
        )
    if problems or text is None:
        raise StackError(sorted(problems))
    return Patch(
        name=name,
        why=_said(description, "why"),
        reference=_said(description, "reference"),
        status=_status(_said(description, "status")),
        needs=_marker(description, "needs"),
        upstream=_marker(description, "upstream"),
        gate=_said(description, "gate") or None,
        until=_said(description, "until") or None,
        text=text,
        diff=diff,
    )


def load_patches(folder: Path, names: tuple[str, ...]) -> tuple[Patch, ...]:
    """The named patches below ``folder``, in order; raises StackError.

    Links are followed as far as the project goes.
    """
    problems: list[Problem] = []
    loaded: list[Patch] = []
    root = root_of(folder.parent / DESCRIPTION)
    for name in names:
        if not may_read(folder / name, root, ()):
            what = f"the patch `{name}` lies outside the project of the stack"
            hint = "it is a link, or in one: put the folder there"
            problems.append(Problem(Place(str(folder / name)), "", what, hint))
            continue
        if not (folder / name).is_dir():
            known = names_in(folder)
            what = f"there is no patch `{name}`"
            hint = did_you_mean(name, known) or (
                f"there is {one_of(known)}" if known else "make the folder"
            )
            problems.append(Problem(Place(str(folder / name)), "", what, hint))
            continue
        try:
            loaded.append(load_patch(folder / name))
        except StackError as error:
            problems.extend(error.problems)
    if problems:
        raise StackError(sorted(problems))
    return tuple(loaded)


def names_in(folder: Path) -> list[str]:
    """The patches below ``folder``, sorted."""
    return sorted(path.parent.name for path in folder.glob(f"*/{DESCRIPTION}"))


def _text(path: Path, problems: list[Problem]) -> str | None:
    if path.is_symlink():
        problems.append(Problem(Place(str(path)), "", "the patch is a symbolic link"))
        return None
    try:
        # Bytes as they are: a line end of the tree is part of the patch.
        return read_regular(path).decode("utf-8")
    except UnicodeDecodeError:
        problems.append(Problem(Place(str(path)), "", "the patch is not UTF-8"))
    except OSError as error:
        what = f"the patch cannot be read: {error.strerror}"
        hint = f"`{path.name}` belongs beside `{DESCRIPTION}`"
        problems.append(Problem(Place(str(path)), "", what, hint))
    return None


def _described(path: Path, name: str, problems: list[Problem]) -> Table:
    """Return what the YAML file says, checked; every problem goes to ``problems``."""
    place = Place(str(path))
    if path.is_symlink():
        problems.append(Problem(place, "", f"`{path.name}` is a symbolic link"))
        return Table({})
    try:
        table, found = parse(text_of(path, file=str(path), asked=place), str(path))
    except UnreadableError as error:
        problems.append(error.problem)
        return Table({})
    problems.extend(found)
    problems.extend(_wrong(table, place, name))
    return table


def _wrong(table: Table, place: Place, name: str) -> Iterator[Problem]:
    known = (*_REQUIRED, *_OPTIONAL)
    for key, entry in table.entries.items():
        if key not in known:
            hint = did_you_mean(key, known) or f"known are {', '.join(known)}"
            yield Problem(entry.place, key, f"unknown key `{key}`", hint)
        elif key in _MARKERS:
            yield from _wrong_marker(key, entry)
        elif not _is_text(entry):
            yield Problem(entry.place, key, f"`{key}` is not a text")
        else:
            yield from _wrong_text(key, entry, name)
    for key in _REQUIRED:
        if key not in table.entries:
            yield Problem(place, key, f"`{key}` is missing", f"add `{key}: …`")


def _wrong_text(key: str, entry: Entry, name: str) -> Iterator[Problem]:
    text = entry.node.text if isinstance(entry.node, Scalar) else ""
    check = _CHECKS.get(key)
    for wrong, hint in check(text, name) if check is not None else ():
        yield Problem(entry.place, key, f"`{key}` {wrong}", hint)


_Check: TypeAlias = Callable[[str, str], Iterator[tuple[str, str]]]


def _check_name(text: str, name: str) -> Iterator[tuple[str, str]]:
    if text != name:
        yield f"is `{text}`, and the folder is `{name}`", "name both alike"


def _check_reference(text: str, _name: str) -> Iterator[tuple[str, str]]:
    if not text.startswith("https://"):
        yield "is not an https address", "link the change or the issue upstream"


def _check_status(text: str, _name: str) -> Iterator[tuple[str, str]]:
    if text not in get_args(Status):
        yield f"is `{text}`", f"write {one_of(get_args(Status))}"


def _check_until(text: str, _name: str) -> Iterator[tuple[str, str]]:
    if not _BUILD.fullmatch(text):
        yield f"is `{text}`", "name the last build that wants it, such as `b8743`"


_CHECKS: Mapping[str, _Check] = {
    "name": _check_name,
    "reference": _check_reference,
    "status": _check_status,
    "until": _check_until,
}
_MARKERS = ("needs", "upstream")


def _wrong_marker(key: str, entry: Entry) -> Iterator[Problem]:
    match entry.node:
        case Broken():
            return
        case Table(entries=entries):
            pass
        case _:
            yield Problem(entry.place, key, f"`{key}` needs `files:` and `contains:`")
            return
    for name in ("files", "contains"):
        if name not in entries:
            hint = _INSTEAD if name == "contains" and "matches" in entries else ""
            yield Problem(entry.place, key, f"`{key}.{name}` is missing", hint)
    for name, inner in entries.items():
        path = f"{key}.{name}"
        if name not in ("files", "contains") or not _is_text(inner):
            yield Problem(inner.place, path, f"`{path}` is not `files` or `contains`")
        elif why := _refused(name, _text_of(inner)):
            yield Problem(inner.place, path, f"`{path}` {why}")


def _refused(name: str, text: str) -> str:
    if name == "files":
        path = PurePosixPath(text)
        bad = path.is_absolute() or ".." in path.parts or not path.parts
        if bad or "\\" in text or not is_path(text):
            return "is not a pattern of paths inside the source tree"
        return "has `**` twice" if text.count("**") > 1 else ""
    if len(text) > _LONGEST_MARKER:
        return f"is longer than {_LONGEST_MARKER} characters"
    return "" if text.split() else "is empty: every file contains it"


def _is_text(entry: Entry) -> bool:
    match entry.node:
        case Broken() | Scalar(value=str()):
            return True
        case Scalar() | Table() | Listing():
            return False


def _text_of(entry: Entry) -> str:
    return entry.node.text if isinstance(entry.node, Scalar) else ""


def _said(table: Table, key: str) -> str:
    entry = table.entries.get(key)
    return "" if entry is None else _text_of(entry).strip()


def _marker(table: Table, key: str) -> Marker | None:
    match table.entries.get(key):
        case Entry(node=Table(entries=entries)):
            return Marker(_text_of(entries["files"]), _text_of(entries["contains"]))
        case _:
            return None


def _status(text: str) -> Status:
    return next(status for status in get_args(Status) if status == text)
