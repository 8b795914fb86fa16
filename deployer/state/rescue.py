"""A state that a run knows and cannot store is put somewhere else, and never lost."""

import os
import shlex
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn, Protocol

from deployer.errors import StateError


class Refused(Protocol):
    """A store that could not write."""

    @property
    def stack(self) -> str:
        """The name of the stack."""
        ...

    @property
    def place(self) -> str:
        """Where the state should lie."""
        ...

    @property
    def replace(self) -> Callable[[Path, bytes], None]:
        """Replaces a file durably or raises OSError."""
        ...

    @property
    def refuges(self) -> tuple[Path, ...] | None:
        """Folders to try; unset: here, then temporary files."""
        ...

    def put_back(self, rescued: Path) -> str:
        """Return what to type to store what was put aside."""
        ...


def rescue(content: bytes, error: OSError | StateError, store: Refused) -> NoReturn:
    """Put a state somewhere else, and raise StateError that says where."""
    why = error.strerror if isinstance(error, OSError) else error.message
    what = f"the state could not be written to `{store.place}` ({why})"
    for folder in store.refuges or _refuges():
        place = folder / f"errored.{store.stack}.state.json"
        if _put(place, content, store.replace):
            raise StateError(
                f"{what}; it lies in `{place.absolute()}`",
                hint=f"before anything else: `{store.put_back(place.absolute())}`",
            ) from error
    sys.stderr.write(content.decode())
    raise StateError(
        f"{what}, nor anywhere else; it is printed above",
        hint=f"before anything else, save it as `{store.place}`",
    ) from error


def rescued(stack: str, refuges: tuple[Path, ...] | None) -> tuple[Path, ...]:
    """The states of a stack that this user put aside, and that lie there still."""
    folders = refuges or _refuges()
    places = (folder / f"errored.{stack}.state.json" for folder in folders)
    return tuple(place for place in places if _is_mine(place))


def quoted(path: Path) -> str:
    """A path as a word of a shell."""
    return shlex.quote(os.fspath(path))


def _put(place: Path, content: bytes, replace: Callable[[Path, bytes], None]) -> bool:
    try:
        replace(place, content)
    except OSError:
        return False
    return True


def _is_mine(place: Path) -> bool:
    try:
        status = place.lstat()
    except OSError:
        return False
    return stat.S_ISREG(status.st_mode) and status.st_uid == os.getuid()


def _refuges() -> tuple[Path, ...]:
    """Here, then temporary files; without `tempfile`, as an import may fail now."""
    return Path(), Path(os.environ.get("TMPDIR") or "/tmp")  # noqa: S108 -- O_EXCL
