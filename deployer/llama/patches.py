"""A patch as a folder: ``patches/<name>/patch.yaml`` and ``<name>.patch``.

`git apply` wants every context line to be there; `patch` would by default put the
lines of one model's parser into another's.  Whether upstream has the change already
only a marker can tell: upstream's text is rarely ours.
"""

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from itertools import accumulate, islice
from pathlib import Path, PurePosixPath
from typing import Literal, TypeAlias, get_args

from deployer.diagnostics import Diagnostic, Place
from deployer.errors import SourceError, StackError
from deployer.llama.git import run_git
from deployer.runtime.patching import content, find_marker, proven
from deployer.spelling import did_you_mean, one_of
from deployer.stack.fields.values import is_path
from deployer.stack.project_root import may_read, root_of
from deployer.stack.yaml12 import (
    Broken,
    Entry,
    Listing,
    Scalar,
    Table,
    UnreadableError,
    parse,
    text_of,
)
from deployer.system.files import read_regular

_NUMBER = r"([0-9]{1,9})"
_HUNK = re.compile(rf"@@ -{_NUMBER}(?:,{_NUMBER})? \+{_NUMBER}(?:,{_NUMBER})? @@")
_NAMES = re.compile(
    r"(?:--- |\+\+\+ |rename from |rename to |copy from |copy to )(?P<name>[^\t\n]+)"
)
_GIT_NAMES = re.compile(r"diff --git (?P<old>\S+) (?P<new>\S+)$")
_MODE = re.compile(r"(?:new file mode|old mode|new mode|deleted file mode) (\d+)")
_NOTHING = "/dev/null"


@dataclass(frozen=True, slots=True)
class Hunk:
    """One change: lines removed, added, and around them."""

    file: str
    """Path inside the tree, as it was before the patch."""
    start: int
    """First line of the old file that it is about."""
    line: int
    """Line of the diff where it begins."""
    lines: tuple[str, ...] = field(repr=False)
    """With their leading `` ``, ``-`` or ``+``."""

    @property
    def before(self) -> list[str]:
        """The lines that the old file must have."""
        return [line[1:] for line in self.lines if line[0] in " -"]

    @property
    def text(self) -> str:
        """The hunk as the diff has it."""
        return "\n".join(self.lines)


@dataclass(frozen=True, slots=True)
class Diff:
    """A patch as it was read."""

    files: tuple[str, ...]
    """Paths it touches, sorted."""
    hunks: tuple[Hunk, ...]
    faults: tuple[Diagnostic, ...]


@dataclass(slots=True)
class _Reader:
    name: str
    """File that the diff was read from."""
    files: set[str] = field(default_factory=set)
    hunks: list[Hunk] = field(default_factory=list)
    faults: list[Diagnostic] = field(default_factory=list)
    file: str = ""
    content: list[str] = field(default_factory=list)
    """Lines of the hunk that is read."""
    old: int = 0
    """Lines of the old file that the hunk still has to show."""
    new: int = 0

    def take(self, number: int, line: str) -> None:
        """Read one line of the diff."""
        if self.old or self.new:
            self._take_content(number, line)
        elif found := _HUNK.match(line):
            self._open(number, found)
        elif line.startswith("@@"):
            self.fault(number, "not the head of a hunk", "`@@ -1,4 +1,6 @@`")
        else:
            self._take_head(number, line)

    def fault(self, number: int, what: str, hint: str = "") -> None:
        """Remember something that is wrong."""
        self.faults.append(Diagnostic("", what, hint, place=Place(self.name, number)))

    def _open(self, number: int, found: re.Match[str]) -> None:
        if not self.file:
            self.fault(number, "a hunk before any `--- a/…` and `+++ b/…`")
        self.close()
        self.old = int(found[2] or 1)
        self.new = int(found[4] or 1)
        self.hunks.append(Hunk(self.file, int(found[1]), number, ()))

    def close(self) -> None:
        """Give the hunk that was read its lines."""
        if self.content:
            self.hunks[-1] = replace(self.hunks[-1], lines=tuple(self.content))
            self.content = []

    def _take_content(self, number: int, line: str) -> None:
        if line.startswith("\\"):
            return
        mark = line[:1] or " "  # editors strip the blank of an empty line
        if mark not in " -+":
            self.fault(number, "a hunk ends before all its lines are there", _COUNT)
            self.old = self.new = 0
            self.close()
            self.take(number, line)
            return
        self.old -= mark in " -"
        self.new -= mark in " +"
        if self.old < 0 or self.new < 0:
            self.fault(number, "a hunk has more lines than its head says", _COUNT)
            self.old = self.new = 0
            return
        self.content.append(line or " ")
        if not (self.old or self.new):
            self.close()

    def _take_head(self, number: int, line: str) -> None:
        if found := _MODE.match(line):
            if found[1].startswith("12"):
                self.fault(number, "a patch must not make symbolic links")
        elif line.startswith(("GIT binary patch", "Binary files ")):
            self.fault(number, "a patch must be text", "leave binary files out")
        elif found := _GIT_NAMES.match(line):
            for name in (found["old"], found["new"]):
                self._touch(number, name)
        elif found := _NAMES.match(line):
            bare = not line.startswith(("--- ", "+++ "))
            self._touch(number, f"a/{found['name']}" if bare else found["name"])

    def _touch(self, number: int, name: str) -> None:
        name = name.strip()
        if name == _NOTHING:
            return
        path = PurePosixPath(name)
        outside = path.is_absolute() or ".." in path.parts or "\\" in name
        if outside or name.startswith('"') or ":" in path.parts[0]:
            self.fault(number, f"`{name}` is not a path inside the source tree")
        elif path.parts[0] not in ("a", "b") or len(path.parts) < 2:
            self.fault(
                number,
                f"`{name}` has no leading `a/` or `b/`",
                "make the patch with `git diff`",
            )
        elif ".git" in path.parts:
            self.fault(number, f"`{name}` is a file of git, not of the source")
        else:
            self.file = str(PurePosixPath(*path.parts[1:]))
            self.files.add(self.file)


_GIT_DIFF = "put the output of `git diff` there"
_COUNT = "it may have been edited by hand, or cut; make it again with `git diff`"


def read_diff(text: str, name: str) -> Diff:
    """Read a unified diff; everything that is wrong with it is in `faults`."""
    reader = _Reader(name)
    number = 0
    for number, line in enumerate(text.splitlines(), start=1):
        reader.take(number, line)
    reader.close()
    if reader.old or reader.new:
        reader.fault(number, "the last hunk is cut off", _COUNT)
    if not text.strip():
        reader.fault(1, "the patch is empty", _GIT_DIFF)
    elif not reader.hunks and not reader.faults:
        reader.fault(1, "not a patch: it has no `@@ … @@` hunk", _GIT_DIFF)
    return Diff(tuple(sorted(reader.files)), tuple(reader.hunks), tuple(reader.faults))


Status: TypeAlias = Literal["merged", "proposed", "refused", "ours"]
"""The state of the change upstream."""

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
    problems: list[Diagnostic] = []
    name = folder.name
    diff_file = folder / f"{name}.patch"
    description = _described(folder / DESCRIPTION, name, problems)
    text = _text(diff_file, problems)
    diff = read_diff(text or "", str(diff_file))
    if text is not None:
        problems.extend(diff.faults)
    if problems or text is None:
        raise StackError(problems)
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
    problems: list[Diagnostic] = []
    loaded: list[Patch] = []
    root = root_of(folder.parent / DESCRIPTION)
    for name in names:
        if not may_read(folder / name, root, ()):
            what = f"the patch `{name}` lies outside the project of the stack"
            hint = "it is a link, or in one: put the folder there"
            problems.append(Diagnostic("", what, hint, place=Place(str(folder / name))))
            continue
        if not (folder / name).is_dir():
            known = names_in(folder)
            what = f"there is no patch `{name}`"
            hint = did_you_mean(name, known) or (
                f"there is {one_of(known)}" if known else "make the folder"
            )
            problems.append(Diagnostic("", what, hint, place=Place(str(folder / name))))
            continue
        try:
            loaded.append(load_patch(folder / name))
        except StackError as error:
            problems.extend(error.problems)
    if problems:
        raise StackError(problems)
    return tuple(loaded)


def names_in(folder: Path) -> list[str]:
    """The patches below ``folder``, sorted."""
    return sorted(path.parent.name for path in folder.glob(f"*/{DESCRIPTION}"))


def _text(path: Path, problems: list[Diagnostic]) -> str | None:
    place = Place(str(path))
    if path.is_symlink():
        problems.append(Diagnostic("", "the patch is a symbolic link", place=place))
        return None
    try:
        # Bytes as they are: a line end of the tree is part of the patch.
        return read_regular(path).decode("utf-8")
    except UnicodeDecodeError:
        problems.append(Diagnostic("", "the patch is not UTF-8", place=place))
    except OSError as error:
        what = f"the patch cannot be read: {error.strerror}"
        hint = f"`{path.name}` belongs beside `{DESCRIPTION}`"
        problems.append(Diagnostic("", what, hint, place=place))
    return None


def _described(path: Path, name: str, problems: list[Diagnostic]) -> Table:
    """Return what the YAML file says, checked; every problem goes to ``problems``."""
    place = Place(str(path))
    if path.is_symlink():
        problems.append(
            Diagnostic("", f"`{path.name}` is a symbolic link", place=place)
        )
        return Table({})
    try:
        table, found = parse(text_of(path, file=str(path), asked=place), str(path))
    except UnreadableError as error:
        problems.append(error.problem)
        return Table({})
    problems.extend(found)
    problems.extend(_wrong(table, place, name))
    return table


def _wrong(table: Table, place: Place, name: str) -> Iterator[Diagnostic]:
    known = (*_REQUIRED, *_OPTIONAL)
    for key, entry in table.entries.items():
        if key not in known:
            hint = did_you_mean(key, known) or f"known are {', '.join(known)}"
            yield Diagnostic(key, f"unknown key `{key}`", hint, place=entry.place)
        elif key in _MARKERS:
            yield from _wrong_marker(key, entry)
        elif not _is_text(entry):
            yield Diagnostic(key, f"`{key}` is not a string", place=entry.place)
        else:
            yield from _wrong_text(key, entry, name)
    for key in _REQUIRED:
        if key not in table.entries:
            yield Diagnostic(key, f"`{key}` is missing", f"add `{key}: …`", place=place)


def _wrong_text(key: str, entry: Entry, name: str) -> Iterator[Diagnostic]:
    text = entry.node.text if isinstance(entry.node, Scalar) else ""
    check = _CHECKS.get(key)
    for wrong, hint in check(text, name) if check is not None else ():
        yield Diagnostic(key, f"`{key}` {wrong}", hint, place=entry.place)


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


def _wrong_marker(key: str, entry: Entry) -> Iterator[Diagnostic]:
    match entry.node:
        case Broken():
            return
        case Table(entries=entries):
            pass
        case _:
            yield Diagnostic(
                key, f"`{key}` needs `files:` and `contains:`", place=entry.place
            )
            return
    for name in ("files", "contains"):
        if name not in entries:
            hint = _INSTEAD if name == "contains" and "matches" in entries else ""
            yield Diagnostic(key, f"`{key}.{name}` is missing", hint, place=entry.place)
    for name, inner in entries.items():
        path = f"{key}.{name}"
        if name not in ("files", "contains") or not _is_text(inner):
            yield Diagnostic(
                path, f"`{path}` is not `files` or `contains`", place=inner.place
            )
        elif why := _refused(name, _text_of(inner)):
            yield Diagnostic(path, f"`{path}` {why}", place=inner.place)


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


_FAILED = re.compile(r"^error: patch failed: (?P<file>.+):(?P<line>\d+)$", re.MULTILINE)
_SKIPPED = re.compile(r"^Skipped patch", re.MULTILINE)
_AROUND = 2  # lines shown before and after
_MOST = 200  # lines shown at all


class Outcome(StrEnum):
    """The verdict of a patch over a tree."""

    APPLY = "apply"
    """The tree needs it, and it fits."""
    APPLIED = "applied"
    """This very patch is in the tree."""
    UPSTREAM = "upstream"
    """The tree has the change, in upstream's words."""
    NOT_APPLICABLE = "not-applicable"
    """The tree has nothing to patch yet."""
    CONFLICT = "conflict"
    """The tree needs it, and it does not fit."""


@dataclass(frozen=True, slots=True)
class Conflict:
    """The first hunk that does not fit, and what the tree has in its place."""

    hunk: Hunk
    found: tuple[str, ...]
    """Lines of the tree, numbered; empty where the file is gone."""

    @property
    def text(self) -> str:
        """Both, for people."""
        there = "\n".join(self.found) or "(the file is gone)"
        return f"rejected, from {self.hunk.file}:\n{self.hunk.text}\nthere:\n{there}"


@dataclass(frozen=True, slots=True)
class PatchVerdict:
    """The verdict on a patch for one tree."""

    patch: str
    outcome: Outcome
    evidence: str
    """Place of the marker, or why the verdict is what it is."""
    conflict: Conflict | None = field(default=None, repr=False)

    @property
    def advice(self) -> str:
        """Advice for a patch that is not applied; empty for one that is."""
        match self.outcome:
            case Outcome.UPSTREAM | Outcome.APPLIED:
                return f"`{self.patch}` can be deleted from `llama_cpp.patches`"
            case Outcome.NOT_APPLICABLE:
                return f"`{self.patch}` does nothing for this build"
            case Outcome.CONFLICT:
                return f"adapt `{self.patch}.patch`, or pin another build"
            case Outcome.APPLY:
                return ""


def verdict(patch: Patch, tree: Path, environment: Mapping[str, str]) -> PatchVerdict:
    """Return what ``patch`` means for the source in ``tree``; changes nothing.

    Raises SourceError where there is no git.
    """
    if place := _find(patch.upstream, tree):
        return PatchVerdict(patch.name, Outcome.UPSTREAM, f"the tree has it in {place}")
    if _fits(patch, tree, environment, "--reverse") is None:
        return PatchVerdict(patch.name, Outcome.APPLIED, "it is in the tree already")
    said = _fits(patch, tree, environment)
    if said is None:
        count = len(patch.diff.hunks)
        hunks = f"{count} hunk{'s' if count != 1 else ''}"
        return PatchVerdict(patch.name, Outcome.APPLY, f"{hunks} fit without fuzz")
    if patch.needs is not None and not _find(patch.needs, tree):
        wanted = f"nothing in {patch.needs.files} has `{patch.needs.contains}`"
        return PatchVerdict(patch.name, Outcome.NOT_APPLICABLE, wanted)
    conflict = _conflict(patch, tree, said)
    place = f"{conflict.hunk.file}:{conflict.hunk.start}"
    return PatchVerdict(patch.name, Outcome.CONFLICT, f"no match at {place}", conflict)


def apply_patch(patch: Patch, tree: Path, environment: Mapping[str, str]) -> None:
    """Apply ``patch`` to ``tree``, and prove that it is in.

    Raises SourceError where it does not fit, or git did nothing, or the marker that
    tells a patched tree is not there afterwards.
    """
    try:
        with proven(patch.name, patch.diff.files, _marker_of(patch.upstream), tree):
            said = _git_apply(patch, tree, environment)
            if said is not None:
                conflict = _conflict(patch, tree, said)
                raise SourceError(
                    f"patch `{patch.name}` does not fit: {conflict.text}",
                    hint=f"adapt `{patch.name}.patch`, or pin another build",
                )
    except RuntimeError as error:
        upstream = patch.upstream
        hint = upstream and (
            "the marker must match the tree once it is patched: "
            f"`{upstream.contains}` in {upstream.files}"
        )
        raise SourceError(str(error), hint=hint or "") from error


def apply_wanted(
    patches: Sequence[Patch], tree: Path, environment: Mapping[str, str]
) -> tuple[PatchVerdict, ...]:
    """Apply each patch that the tree wants, in order; what each one meant.

    Raises SourceError at the first conflict.
    """
    verdicts = []
    for patch in patches:
        found = verdict(patch, tree, environment)
        verdicts.append(found)
        if found.conflict is not None:
            raise SourceError(
                f"patch `{patch.name}` conflicts with this source: "
                f"{found.conflict.text}",
                hint=found.advice,
            )
        if found.outcome is Outcome.APPLY:
            apply_patch(patch, tree, environment)
    return tuple(verdicts)


def _fits(
    patch: Patch, tree: Path, environment: Mapping[str, str], *options: str
) -> str | None:
    """None where the patch fits, else what git says."""
    return _git_apply(patch, tree, environment, "--check", *options)


def _git_apply(
    patch: Patch, tree: Path, environment: Mapping[str, str], *options: str
) -> str | None:
    done = run_git(
        [
            *("-c", "core.autocrlf=false", "apply", "--verbose", "--whitespace=nowarn"),
            *(*options, "-p1", "-"),
        ],
        folder=tree,
        environment=environment,
        given=patch.text,
    )
    if _SKIPPED.search(done.stderr):
        raise SourceError(
            f"git skips patch `{patch.name}`: it takes `{tree}` for a part of another "
            "repository",
            hint="unpack the source outside of any git work tree",
        )
    if done.returncode not in (0, 1):  # 1 is a patch that does not fit
        lines = done.stderr.strip().splitlines()
        raise SourceError(
            f"git cannot try patch `{patch.name}`: {(lines or ['no reason'])[-1]}",
            hint=f"`{tree}` may hold a `.git` that leads nowhere",
        )
    return None if done.returncode == 0 else done.stderr


def _find(marker: Marker | None, tree: Path) -> str:
    """Return ``file:line`` of the first match of a marker; empty for none."""
    pair = _marker_of(marker)
    return "" if pair is None else find_marker(pair, tree)


def _marker_of(marker: Marker | None) -> tuple[str, str] | None:
    return None if marker is None else (marker.files, marker.pattern.pattern)


def _conflict(patch: Patch, tree: Path, said: str) -> Conflict:
    hunk = next(_rejected(patch, said), patch.diff.hunks[0])
    found = content(tree, hunk.file)
    if found is None:
        return Conflict(hunk, ())
    lines = found.decode("utf-8", errors="replace").splitlines()
    return Conflict(hunk, tuple(_most_like(lines, hunk)))


def _rejected(patch: Patch, said: str) -> Iterator[Hunk]:
    for found in _FAILED.finditer(said):
        for hunk in patch.diff.hunks:
            if hunk.file == found["file"] and hunk.start == int(found["line"]):
                yield hunk


def _most_like(lines: Sequence[str], hunk: Hunk) -> Iterator[str]:
    """The part of a file that has most of the lines that the hunk expects."""
    wanted = {line.strip() for line in hunk.before if line.strip()}
    length = len(hunk.before)
    until = [0, *accumulate(line.strip() in wanted for line in lines)]
    last = len(lines)

    def hits(at: int) -> int:
        return until[min(at + length, last)] - until[at]

    # Among equals the one nearest to where the patch expects it.
    starts = range(max(1, last - length + 1))
    best = max(starts, key=lambda at: (hits(at), -abs(at + 1 - hunk.start)))
    first = max(0, best - _AROUND)
    shown = islice(lines[first : best + length + _AROUND], _MOST)
    for number, line in enumerate(shown, first + 1):
        yield f"{number:6d}  {line}"
