"""What a patch means for a source tree, and applying it, never with fuzz.

`git apply` wants every context line to be there; `patch` would by default put the
lines of one model's parser into another's.  Whether upstream has the change already
only a marker can tell: upstream's text is rarely ours.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import accumulate, islice
from pathlib import Path

from deployer.errors import SourceError
from deployer.llama.git import run_git
from deployer.llama.patches.diffs import Hunk
from deployer.llama.patches.patch_file import Marker, Patch
from deployer.system.contained import contained
from deployer.system.regular_files import read_regular

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
    """What a patch means for one tree."""

    patch: str
    outcome: Outcome
    evidence: str
    """Place of the marker, or why the verdict is what it is."""
    conflict: Conflict | None = field(default=None, repr=False)

    @property
    def advice(self) -> str:
        """What to do with a patch that is not applied; empty for one that is."""
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
    before = [_content(tree, name) for name in patch.diff.files]
    said = _git_apply(patch, tree, environment)
    if said is not None:
        conflict = _conflict(patch, tree, said)
        raise SourceError(
            f"patch `{patch.name}` does not fit: {conflict.text}",
            hint=f"adapt `{patch.name}.patch`, or pin another build",
        )
    after = [_content(tree, name) for name in patch.diff.files]
    for name, old, new in zip(patch.diff.files, before, after, strict=True):
        if old == new:
            raise SourceError(f"git left `{name}` unchanged by patch `{patch.name}`")
    if patch.upstream is not None and not _find(patch.upstream, tree):
        raise SourceError(
            f"patch `{patch.name}` was applied, and its `upstream` marker is not there",
            hint="the marker must match the tree once it is patched: "
            f"`{patch.upstream.contains}` in {patch.upstream.files}",
        )


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
    """``file:line`` of the first place that has the marker; empty for none."""
    if marker is None:
        return ""
    pattern = marker.pattern
    for path in sorted(tree.glob(marker.files)):
        if path.is_symlink() or not path.is_file():
            continue
        text = read_regular(path).decode("utf-8", errors="replace")
        if found := pattern.search(text):
            line = text.count("\n", 0, found.start()) + 1
            return f"{path.relative_to(tree).as_posix()}:{line}"
    return ""


def _content(tree: Path, name: str) -> bytes | None:
    path = tree / name
    if path.is_symlink() or not path.is_file():
        return None
    return contained(tree, path).read_bytes()


def _conflict(patch: Patch, tree: Path, said: str) -> Conflict:
    hunk = next(_rejected(patch, said), patch.diff.hunks[0])
    content = _content(tree, hunk.file)
    if content is None:
        return Conflict(hunk, ())
    lines = content.decode("utf-8", errors="replace").splitlines()
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
