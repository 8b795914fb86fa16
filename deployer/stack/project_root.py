"""The folders that a stack may read: its project, and those that the user allows.

A stack may come from a stranger's pull request.  So every file that it names has to
lie in its project, links followed, or below a folder that this machine's user named
in DEPLOYER_ALLOW_OUTSIDE, or trusted for this project in the file of `TRUSTED` below
DEPLOYER_HOME; no file of the project can widen that.
"""

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

ALLOW_OUTSIDE = "DEPLOYER_ALLOW_OUTSIDE"
PROJECT_FILE = "deployer.yaml"
TRUSTED = "trusted.json"
"""Folders that the user trusts, by project; in the home, out of every repository."""


def root_of(path: Path) -> Path:
    """The folder that holds all files of a stack.

    Its repository; without one the folder of `deployer.yaml` at or above it; without
    that its own.
    """
    return _root_above(_real(path).parent)


def project_file(path: Path) -> Path | None:
    """The nearest `deployer.yaml` at or above a stack, within its project."""
    folder = _real(path).parent
    root = _root_above(folder)
    for above in (folder, *folder.parents):
        if (above / PROJECT_FILE).is_file():
            return above / PROJECT_FILE
        if above == root:
            break
    return None


def allowed_in(environment: Mapping[str, str]) -> tuple[Path, ...]:
    """The folders outside of a project that the user lets stacks read."""
    named = environment.get(ALLOW_OUTSIDE, "").split(os.pathsep)
    return tuple(Path(name).expanduser().resolve() for name in named if name)


def trusted_in(home: Path, project: Path) -> tuple[Path, ...]:
    """The folders that the user once allowed the stacks of one project to read."""
    found = _trusted(home).get(str(project), ())
    return tuple(Path(it) for it in found if os.path.isabs(it))  # noqa: PTH117 - a text


def trust(home: Path, project: Path, folders: tuple[Path, ...]) -> None:
    """Let the stacks of one project read these folders from now on."""
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    known = _trusted(home)
    added = {*known.get(str(project), ()), *map(str, folders)}
    new = (home / TRUSTED).with_suffix(".new")
    new.unlink(missing_ok=True)
    new.touch(mode=0o600)
    new.write_text(json.dumps({**known, str(project): sorted(added)}, indent=2))
    new.replace(home / TRUSTED)


def _trusted(home: Path) -> dict[str, list[str]]:
    """The folders by project; none where another user may have written the file."""
    with suppress(OSError, ValueError), (home / TRUSTED).open("rb") as stream:
        status = os.fstat(stream.fileno())
        if status.st_uid == os.geteuid() and not status.st_mode & 0o022:
            found = json.load(stream)
            texts = found.items() if isinstance(found, dict) else ()
            return {
                k: v for k, v in texts if isinstance(v, list) and all(map(_is_text, v))
            }
    return {}


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def may_read(path: Path, root: Path, allowed: tuple[Path, ...]) -> bool:
    """Return whether a file, links followed, lies where a stack may read."""
    real = _real(path)
    return any(real.is_relative_to(folder) for folder in (root, *allowed))


def leads_out(path: Path, allowed: tuple[Path, ...] = ()) -> bool:
    """Return whether a file is a link out of the project of its folder."""
    if not path.is_symlink():
        return False
    return not may_read(path, root_of(path.parent / PROJECT_FILE), allowed)


def how_to_allow(path: Path) -> str:
    """Return what to type to let the stacks of this machine read beside a file."""
    folder = _real(path).parent
    return f"if you trust this stack: `export {ALLOW_OUTSIDE}={folder}`"


def _real(path: Path) -> Path:
    """The path with links followed; unlike `resolve` it takes a loop of them."""
    return Path(os.path.realpath(path))


def _root_above(folder: Path) -> Path:
    # Asked several times a stack: texts, since a `Path` for each name costs more.
    above = (str(folder), *map(str, folder.parents))
    for it in above:
        if os.path.exists(os.path.join(it, ".git")):  # noqa: PTH110, PTH118
            return Path(it)
    for it in above:
        if os.path.isfile(os.path.join(it, PROJECT_FILE)):  # noqa: PTH113, PTH118
            return Path(it)
    return folder
