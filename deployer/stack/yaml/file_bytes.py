"""The bytes of a stack file, or in words why they cannot be used."""

import re
from pathlib import Path

from deployer.diagnostics import Place, Problem
from deployer.spelling import did_you_mean, shown
from deployer.stack.yaml.yaml12 import UnreadableError
from deployer.system.regular_files import NotRegularError, read_regular

LARGEST_FILE = 1 << 20
"""Bytes; a stack is a few kilobytes."""

_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\ufffe\uffff]")


def text_of(path: Path, *, file: str, asked: Place) -> str:
    """The text of a file that messages call ``file``; a byte order mark is dropped.

    Raises UnreadableError: at ``asked`` when there is no such file, else inside it.
    """
    try:
        data = read_regular(path, LARGEST_FILE + 1)
    except (OSError, ValueError) as error:
        raise UnreadableError(_trouble(path, file, asked, error)) from error
    if len(data) > LARGEST_FILE:
        what = f"`{shown(file)}` is larger than 1 MiB"
        hint = "a stack is a few kilobytes: is this the file you mean?"
        raise UnreadableError(Problem(Place(file), "", what, hint))
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start].decode("utf-8-sig", errors="replace")
        what = f"not UTF-8: byte 0x{data[error.start]:02x} at offset {error.start}"
        problem = Problem(_end_of(before, file), "", what, "save the file as UTF-8")
        raise UnreadableError(problem) from error
    if found := _CONTROL.search(text):
        what = f"control character U+{ord(found[0]):04X}"
        place = _end_of(text[: found.start()], file)
        raise UnreadableError(Problem(place, "", what, "remove it"))
    return text


def missing(path: Path, text: str) -> tuple[str, str]:
    """Return what to say of a file that is not there: the fact, and a name like it."""
    what = f"there is no file `{shown(text)}`"
    if not path.parent.is_dir():
        return what, f"there is no folder `{shown(str(path.parent))}`"
    try:
        names = sorted(found.name for found in path.parent.iterdir())
    except OSError:
        names = []
    return what, shown(did_you_mean(path.name, names))


def _trouble(
    path: Path, file: str, asked: Place, error: OSError | ValueError
) -> Problem:
    hint = ""
    match error:
        case FileNotFoundError():
            what, hint = missing(path, file)
        case NotRegularError():
            what = f"`{shown(file)}` is not a regular file"
        case IsADirectoryError():
            what, hint = f"`{shown(file)}` is a directory", "name the file in it"
        case OSError():
            why = (error.strerror or "unknown trouble").lower()
            what = f"`{shown(file)}` cannot be read: {why}"
        case _:
            what = f"`{shown(file)}` is not a path"
    return Problem(asked, "", what, hint)


def _end_of(text: str, file: str) -> Place:
    """The place right behind a text."""
    lines = re.split("\r\n|\r|\n", text)
    return Place(file, len(lines), len(lines[-1]) + 1)
