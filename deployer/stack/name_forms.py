"""The forms of names in the files that deployer writes: what has another is no name.

A lock file, a saved plan or a state may come with a stranger's checkout, and what it
names becomes part of a path, of an address or of a command line.
"""

import re
from typing import Final

KEY: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}")
"""The key of a resource; it names folders."""
STACK: Final = re.compile(r"[a-z]([a-z0-9-]{0,46}[a-z0-9])?")
"""The name of a stack."""
ADDRESS: Final = re.compile(rf"{STACK.pattern}/[a-z][a-z0-9_-]{{0,47}}")
"""A stack, and what of it."""
WORD: Final = re.compile(r"[a-z][a-z0-9_-]{0,47}")
"""A word that is chosen from few: the name of an engine."""
DIGEST: Final = re.compile(r"[0-9a-f]{64}")
COMMIT: Final = re.compile(r"[0-9a-f]{40}")
REQUIREMENT: Final = re.compile(
    r"[A-Za-z0-9][A-Za-z0-9._-]*==[A-Za-z0-9][A-Za-z0-9._+!-]*"
)
TAG: Final = re.compile(
    r"b[0-9]{1,9}|v[0-9]{1,9}\.[0-9]{1,9}\.[0-9]{1,9}|[0-9a-f]{7,40}"
)
"""A build of llama.cpp, as stacks name it."""
REPOSITORY: Final = re.compile(r"(?!\.)[A-Za-z0-9_.-]+/(?!\.)[A-Za-z0-9_.-]+")
"""Owner and name on the hub."""
RELEASE_FILE: Final = re.compile(
    r"(?P<build>b[0-9]{1,9})/llama-(?P=build)-bin-[a-z0-9-]+\.tar\.gz"
)
"""An archive of upstream's, below the address of its releases."""

_LONGEST_NAME: Final = 255
"""Bytes of a file name that every file system takes."""


def is_path(text: str) -> bool:
    """Return whether a string can be a path: not empty, no control characters."""
    return bool(text) and min(text) >= " " and "\x7f" not in text


def is_file_name(text: str) -> bool:
    """Return whether a text names a file in a folder, and nothing above or below it."""
    return (
        is_path(text)
        and not any(character in text for character in "/\\")
        and text not in (".", "..")
        and len(text.encode(errors="surrogateescape")) <= _LONGEST_NAME
    )


def is_inner_path(text: str) -> bool:
    """Return whether a string is a path below a folder: relative, POSIX, no `..`."""
    return all(map(is_file_name, text.split("/")))
