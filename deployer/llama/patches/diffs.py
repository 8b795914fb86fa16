"""Unified diffs, read strictly: which files and hunks, and what must not be in them."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath

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
class Fault:
    """What is wrong with a diff, and in which line of it."""

    line: int
    what: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Diff:
    """A patch as it was read."""

    files: tuple[str, ...]
    """Paths it touches, sorted."""
    hunks: tuple[Hunk, ...]
    faults: tuple[Fault, ...]


@dataclass(slots=True)
class _Reader:
    files: set[str] = field(default_factory=set)
    hunks: list[Hunk] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
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
        self.faults.append(Fault(number, what, hint))

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


_COUNT = "it may have been edited by hand, or cut; make it again with `git diff`"


def read_diff(text: str) -> Diff:
    """Read a unified diff; everything that is wrong with it is in `faults`."""
    reader = _Reader()
    number = 0
    for number, line in enumerate(text.splitlines(), start=1):
        reader.take(number, line)
    reader.close()
    if reader.old or reader.new:
        reader.fault(number, "the last hunk is cut off", _COUNT)
    reader.faults.extend(_emptiness(text, reader))
    return Diff(tuple(sorted(reader.files)), tuple(reader.hunks), tuple(reader.faults))


def _emptiness(text: str, reader: _Reader) -> Iterator[Fault]:
    if not text.strip():
        yield Fault(1, "the patch is empty", "put the output of `git diff` there")
    elif not reader.hunks and not reader.faults:
        yield Fault(
            1,
            "not a patch: it has no `@@ … @@` hunk",
            "put the output of `git diff` there",
        )
