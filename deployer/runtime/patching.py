"""Patches of a source tree: git that reads no settings, and proof that one applied."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

PLAIN_GIT: Mapping[str, str] = {
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_TERMINAL_PROMPT": "0",
}
"""Environment of git without settings of user and machine, and without prompts."""


@contextmanager
def proven(
    patch: str, files: Sequence[str], marker: tuple[str, str] | None, tree: Path
) -> Iterator[None]:
    """Raise RuntimeError where a block does not apply a patch.

    A patch may skip a file and still end well: each of the `files` must change,
    and the `marker` (files, and a regular expression) must match afterwards.
    """
    before = [content(tree, name) for name in files]
    yield
    for name, old in zip(files, before, strict=True):
        if content(tree, name) == old:
            raise RuntimeError(f"patch `{patch}` left `{name}` unchanged")
    if marker is not None and not find_marker(marker, tree):
        raise RuntimeError(
            f"patch `{patch}` was applied, and its `upstream` marker is not there"
        )


def find_marker(marker: tuple[str, str], tree: Path) -> str:
    """Return ``file:line`` of the first match of a marker; empty for none."""
    files, wanted = marker
    for path in sorted(tree.glob(files)):
        if not _is_plain(path):
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        if found := re.search(wanted, text):
            line = text.count("\n", 0, found.start()) + 1
            return f"{path.relative_to(tree).as_posix()}:{line}"
    return ""


def content(tree: Path, name: str) -> bytes | None:
    """Return the bytes of a file inside the tree; None for a link, or where none is."""
    path = tree / name
    inside = path.resolve().is_relative_to(tree.resolve())
    return path.read_bytes() if inside and _is_plain(path) else None


def _is_plain(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()
