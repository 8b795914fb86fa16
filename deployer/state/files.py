"""The state as one file a stack, beside the stacks."""

import os
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

from deployer.core.state import State
from deployer.errors import StalePlanError, StateError
from deployer.state.disk import guarded, replace_file
from deployer.state.form import from_json, to_json
from deployer.state.lock import Holder, holder_of, locked, this_process, unlock

_NAMED = re.compile(r"(?P<stack>[a-z][a-z0-9-]*)\.state\.json")


def list_stacks(folder: Path) -> tuple[str, ...]:
    """The stacks whose state lies in ``folder``, by name."""
    if not folder.is_dir():
        return ()
    found = (_NAMED.fullmatch(path.name) for path in folder.iterdir())
    return tuple(sorted(match["stack"] for match in found if match))


def _utc_now() -> datetime:
    return datetime.now(UTC)


def _unnoticed(_line: str) -> None:
    """Nobody listens."""


@dataclass(frozen=True, slots=True)
class FileStateStore:
    """Keeps ``<stack>.state.json`` in a folder; a `StateStore`.

    The version before it stays in ``<stack>.state.backup.json``.
    """

    folder: Path
    stack: str
    now: Callable[[], datetime] = _utc_now
    notify: Callable[[str], None] = _unnoticed
    """Told when a lock is taken over from a process that is gone."""
    replace: Callable[[Path, bytes], None] = replace_file
    """Replaces a file durably or raises OSError."""
    refuges: tuple[Path, ...] | None = None
    """Folders for a state that cannot be written; unset: here, then temporary files."""

    @property
    def path(self) -> Path:
        """The file of the state."""
        return self.folder / f"{self.stack}.state.json"

    @property
    def backup(self) -> Path:
        """The state before the last write."""
        return self.folder / f"{self.stack}.state.backup.json"

    def read(self) -> State | None:
        """The stored state, read anew each time; None before the first.

        Raises StateError where it is damaged, from a newer deployer, or another
        stack's, and where only the version before it is there.
        """
        content = self._content()
        if content is not None:
            return self._state_in(content)
        if self.backup.exists():
            raise StateError(
                f"`{self.path}` is gone, though there was one",
                hint=self._way_back(),
            )
        return None

    def write(self, state: State, *, expect: int) -> None:
        """Replace the stored state, if its serial is still ``expect``.

        Raises StalePlanError where it is not.  Raises StateError where the file
        cannot be written, after the state was put somewhere else.
        """
        content = to_json(state).encode()
        try:
            self._write(state, content, expect)
        except (OSError, StateError) as error:
            self._rescue(content, error)

    @contextmanager
    def lock(self, *, operation: str) -> Iterator[None]:
        """Hold the lock of the stack; LockedError where somebody else does."""
        try:
            self._make_folder()
        except OSError as error:
            raise StateError(
                f"cannot make the folder `{self.folder}`: {error.strerror}"
            ) from error
        holder = this_process(operation, now=self.now)
        with locked(self._lock, holder, notify=self.notify):
            yield

    def holder(self) -> Holder | None:
        """Who holds the lock; None where it is free."""
        return holder_of(self._lock)

    def unlock(self, holder_id: str) -> Holder:
        """Break the lock of the holder with this ID, and return who that was."""
        return unlock(self._lock, holder_id)

    @property
    def _lock(self) -> Path:
        return self.folder / f"{self.stack}.lock"

    def _make_folder(self) -> None:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def _content(self) -> bytes | None:
        try:
            return self.path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StateError(f"cannot read `{self.path}`: {error.strerror}") from error

    def _state_in(self, content: bytes) -> State:
        try:
            state = from_json(content, str(self.path))
        except StateError as error:
            raise StateError(error.message, error.hint or self._way_back()) from error
        if state.stack != self.stack:
            raise StateError(
                f"`{self.path}` holds the state of the stack `{state.stack}`",
                hint=self._way_back(),
            )
        return state

    def _way_back(self) -> str:
        """What to type to get a state again that can be read."""
        try:
            kept = from_json(self.backup.read_bytes(), str(self.backup))
        except (OSError, StateError):
            return f"bring `{self.path}` back from a copy; none is kept beside it"
        return (
            f"go on from the version before it (serial {kept.serial}) with "
            f"`cp {_quoted(self.backup)} {_quoted(self.path)}`; the next `apply` "
            "makes up what it does not know"
        )

    def _write(self, state: State, content: bytes, expect: int) -> None:
        try:
            self._replace(state, content, expect)
        except FileNotFoundError:  # somebody removed the folder between two lines
            self._replace(state, content, expect)

    def _replace(self, state: State, content: bytes, expect: int) -> None:
        self._make_folder()
        with guarded(self.folder):
            before = self._content()
            if before == content:
                return
            if before is not None:
                _refuse_other(self._state_in(before), state, expect)
                self.replace(self.backup, before)
            self.replace(self.path, content)

    def _rescue(self, content: bytes, error: OSError | StateError) -> NoReturn:
        """Put the state somewhere else, and raise StateError that says where."""
        why = error.strerror if isinstance(error, OSError) else error.message
        what = f"the state could not be written to `{self.path}` ({why})"
        for folder in self.refuges or _refuges():
            place = self._put_into(folder, content)
            if place is not None:
                raise StateError(
                    f"{what}; it lies in `{place}`",
                    hint=f"before anything else: `{self._put_back(place)}`",
                ) from error
        sys.stderr.write(content.decode())
        raise StateError(
            f"{what}, nor anywhere else; it is printed above",
            hint=f"before anything else, save it as `{self.path}`",
        ) from error

    def _put_into(self, folder: Path, content: bytes) -> Path | None:
        """The place it lies in now, or None where that cannot be written either."""
        place = folder / f"errored.{self.stack}.state.json"
        try:
            self.replace(place, content)
            return place.absolute()
        except OSError:
            return None

    def _put_back(self, place: Path) -> str:
        folder, path = _quoted(self.folder), _quoted(self.path)
        return f"mkdir -p {folder} && mv {_quoted(place)} {path}"


def _refuse_other(stored: State, state: State, expect: int) -> None:
    """Raise StalePlanError unless ``state`` comes right after ``stored``."""
    if stored.lineage != state.lineage:
        raise StalePlanError(
            f"the state of `{stored.stack}` is another one now, begun anew",
            hint="run `deployer plan` again",
        )
    if stored.serial != expect:
        raise StalePlanError(
            f"the state of `{stored.stack}` moved on: it was at serial {expect}, "
            f"and is at {stored.serial}",
            hint="run `deployer plan` again",
        )
    if state.serial <= stored.serial:
        raise ValueError("a state that changed has a higher serial")


def _refuges() -> tuple[Path, ...]:
    """Here, then temporary files; without `tempfile`, as an import may fail now."""
    return Path(), Path(os.environ.get("TMPDIR") or "/tmp")  # noqa: S108 -- O_EXCL


def _quoted(path: Path) -> str:
    return shlex.quote(os.fspath(path))
