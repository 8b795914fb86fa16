"""Git and the files of stacks: read only, nothing is changed."""

import os
import re
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from deployer.errors import UsageError
from deployer.system.children import GIT, find_program, variables

LARGEST_FILE = 1 << 20
"""Bytes of a file that is exported; stacks, patches and lock files are smaller."""
_SECONDS = 60
_SETTINGS_SECONDS = 5
"""Its settings are read first: a FIFO that they include is not waited for longer."""
_QUIET = ("--no-pager", "--no-replace-objects", "--literal-pathspecs")
_VARIABLES = {
    "LC_ALL": "C",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_ALLOW_PROTOCOL": "none",  # nothing is fetched, whatever a remote is called
    "GIT_NO_LAZY_FETCH": "1",
    "GIT_NO_REPLACE_OBJECTS": "1",
}
"""In English, never asking, never writing."""
_SETTINGS = (
    ("core.fsmonitor", "false"),
    ("core.hooksPath", os.devnull),
    ("core.attributesFile", os.devnull),
    ("core.excludesFile", os.devnull),
    ("core.sshCommand", "false"),
    ("core.askPass", ""),
    ("diff.external", ""),
    ("credential.helper", ""),
)
"""Settings by which a repository could start programs; ours win."""
_STARTS = re.compile(
    r"filter\..*\.(clean|smudge|process|required)|diff\..*\.(command|textconv)",
    re.DOTALL | re.IGNORECASE,
)
"""The same, for programs that files choose by an attribute."""


@dataclass(frozen=True, slots=True)
class Base:
    """An earlier revision that a working tree is compared with."""

    root: Path
    """Top folder of the working tree."""
    commit: str
    changed: frozenset[Path]
    """Files that differ from the revision, untracked ones too."""
    note: str = ""
    """The gap of the comparison."""

    def files(self) -> tuple[PurePosixPath, ...]:
        """Every file of the revision, relative to the root."""
        listed = _git(self.root, "ls-tree", "-r", "-z", "--name-only", self.commit)
        return tuple(map(PurePosixPath, _names(listed)))

    def export(self, files: Sequence[PurePosixPath], folder: Path) -> None:
        """Write files of the revision below a folder, as they were then."""
        asked = "".join(f"{self.commit}:{file}\n" for file in files)
        out = _git(self.root, "cat-file", "--batch", typed=asked.encode())
        for file in files:
            header, _, out = out.partition(b"\n")
            size = header.rpartition(b" ")[2]
            if not size.isdigit():  # `… missing`, or a path of a submodule
                continue
            content, out = out[: int(size)], out[int(size) + 1 :]
            if len(content) <= LARGEST_FILE:
                place = folder / file
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(content)


def base_of(folder: Path, revision: str) -> Base:
    """Where the working tree left ``revision``; raises UsageError if git cannot say."""
    said = os.fsdecode(_git(folder, "rev-parse", "--show-toplevel"))
    root = Path(said.removesuffix("\n"))
    if not folder.resolve().is_relative_to(root.resolve()):  # `core.worktree`
        raise UsageError(
            f"the repository of `{folder}` says that its files lie in `{root}`",
            hint="remove `core.worktree` from its settings",
        )
    named = f"{revision}^{{commit}}"
    commit = _git(folder, "rev-parse", "--verify", "--end-of-options", named)
    commit_id = commit.decode().strip()
    common = _run(root, ("merge-base", commit_id, "HEAD"))
    note = ""
    if common.returncode == 0:
        commit_id = common.stdout.decode().strip()
    else:  # a shallow clone, or histories without a common commit
        note = (
            f"where the work left {revision} is not in this clone: stacks that changed"
            f" in {revision} since then count as well (`fetch-depth: 0`)"
        )
    plain = ("--no-renames", "--no-ext-diff", "--no-textconv")
    asked = ("diff", "--name-only", *plain, "--ignore-submodules=dirty", "-z")
    tracked = _git(root, *asked, commit_id, "--")
    new = _git(root, "ls-files", "--others", "--exclude-standard", "-z")
    changed = {root / name for name in (*_names(tracked), *_names(new))}
    return Base(root, commit_id, frozenset(changed), note)


def merge_base(folder: Path, revision: str) -> str | None:
    """The commit where the work left ``revision``; None where git cannot tell."""
    named = commit_of(folder, revision)
    found = named and _run(folder, ("merge-base", named, "HEAD"))
    return found.stdout.decode().strip() if found and not found.returncode else None


def commit_of(folder: Path, revision: str) -> str | None:
    """The commit that a revision names; None where this clone has none."""
    asked = ("rev-parse", "--verify", "--end-of-options", f"{revision}^{{commit}}")
    found = _run(folder, asked)
    return found.stdout.decode().strip() if found.returncode == 0 else None


def head_of(folder: Path) -> tuple[str, str]:
    """The commit of a working tree and its branch; empty where there is none.

    The commit ends in `-dirty` where tracked files differ from it.
    """
    try:
        if (commit := commit_of(folder, "HEAD")) is None:
            return "", ""
        differs = _run(folder, ("diff", "--quiet", "--no-ext-diff", "HEAD", "--"))
        branch = _run(folder, ("symbolic-ref", "--quiet", "--short", "HEAD"))
    except UsageError:  # no git, or one that hangs
        return "", ""
    dirty = "-dirty" * bool(differs.returncode)
    return f"{commit}{dirty}", os.fsdecode(branch.stdout).strip()


def content_at(commit: str, file: Path) -> bytes | None:
    """A file as it was in a commit; None where it was not there, or is no small one."""
    named = f"{commit}:./{file.name}"
    size = _run(file.parent, ("cat-file", "-s", named))
    if size.returncode or int(size.stdout) > LARGEST_FILE:
        return None
    found = _run(file.parent, ("cat-file", "blob", named))
    return found.stdout if found.returncode == 0 else None


def files_at(root: Path, revision: str, folder: str) -> dict[str, bytes]:
    """The files right in a folder where the work left a revision, by their names.

    Raises UsageError where git cannot tell.
    """
    commit = merge_base(root, revision)
    if commit is None:
        named = f"{revision}^{{commit}}"
        asked = _git(root, "rev-parse", "--verify", "--end-of-options", named)
        commit = asked.decode().strip()
    listed = _git(root, "ls-tree", "-z", "--name-only", commit, "--", f"{folder}/")
    content = ((name, f"{commit}:./{name}") for name in _names(listed))
    return {
        name.rpartition("/")[2]: found.stdout
        for name, blob in content
        if not (found := _run(root, ("cat-file", "blob", blob))).returncode
    }


def _names(listed: bytes) -> tuple[str, ...]:
    return tuple(os.fsdecode(name) for name in listed.split(b"\0") if name)


def _git(folder: Path, *words: str, typed: bytes = b"") -> bytes:
    done = _run(folder, words, typed)
    if done.returncode == 0:
        return done.stdout
    # Other lines than `fatal:` quote files that the settings include.
    said = os.fsdecode(done.stderr).splitlines()
    why = next((it for it in said if it.startswith("fatal: ")), "it failed")
    shallow = _run(folder, ("rev-parse", "--is-shallow-repository")).stdout
    more = ", and this clone is shallow" if shallow.strip() == b"true" else ""
    raise UsageError(
        f"git says: {why.removeprefix('fatal: ')}{more}",
        hint="`--changed-since` needs a revision of this repository that was fetched:"
        " `git fetch origin main`, or `fetch-depth: 0` where CI checks it out",
    )


def _run(
    folder: Path, words: Sequence[str], typed: bytes = b""
) -> "subprocess.CompletedProcess[bytes]":
    """Run git, whose settings in this repository start no program."""
    named = _started(folder)
    return _start(folder, (*_QUIET, *words), typed, (*_SETTINGS, *named))


def _started(folder: Path) -> Iterator[tuple[str, str]]:
    """Settings of this repository that name a program by a word of their own."""
    words = ("config", "--list", "--name-only", "-z")
    listed = _start(folder, words, b"", (), seconds=_SETTINGS_SECONDS)
    for name in _names(listed.stdout):
        if _STARTS.fullmatch(name):
            yield name, "false" if name.endswith(".required") else ""


def _start(
    folder: Path,
    words: Sequence[str],
    typed: bytes,
    settings: Sequence[tuple[str, str]],
    *,
    seconds: int = _SECONDS,
) -> "subprocess.CompletedProcess[bytes]":
    if (program := find_program("git", os.environ)) is None:
        raise UsageError(
            "there is no `git` here", hint="install it, or plan without it"
        )
    pairs = {
        f"GIT_CONFIG_{part}_{number}": word
        for number, setting in enumerate(settings)
        for part, word in zip(("KEY", "VALUE"), setting, strict=True)
    }
    try:
        return subprocess.run(  # noqa: S603 - a fixed program, arguments without a shell
            (program, *words),
            cwd=folder,
            env={
                **variables(os.environ, *GIT),
                **_VARIABLES,
                **pairs,
                "GIT_CONFIG_COUNT": str(len(settings)),
            },
            input=typed,
            capture_output=True,
            check=False,
            timeout=seconds,
        )
    except subprocess.TimeoutExpired:
        raise UsageError(
            f"`git` in `{folder}` did not end within {seconds} s",
            hint="look for a file of git that is a FIFO, or a disk that hangs",
        ) from None
