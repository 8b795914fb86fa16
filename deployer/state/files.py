"""The state as one file a stack, beside the stacks."""

import os
import re
import shlex
import stat
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, Protocol

from deployer.artefacts.json_files import (
    FormError,
    NewerError,
    Upgrade,
    decoded,
    parse,
    text_of,
    versioned,
)
from deployer.errors import StalePlanError, StateError
from deployer.planning.resources import Kind
from deployer.planning.state import VERSION, Record, Release, State
from deployer.stack.project_root import leads_out
from deployer.state import KEPT, SEGMENT, SEGMENTS, log_parts, newest_of
from deployer.system.files import guarded, read_regular, replace_file

if TYPE_CHECKING:
    from deployer.state.lock import Holder


_UPGRADES: Sequence[Upgrade] = (
    # 2 knows which stack file a state belongs to; the next apply writes it down.
    lambda members: {**members, "file": ""},
    # 3 knows the machine that servers run on; the next apply writes it down.
    lambda members: {**members, "host": "", "machine": ""},
    # 4 knows whether the stack is on hold.
    lambda members: {**members, "hold": None},
)


def to_json(state: State) -> str:
    """The one text of a state; equal states have equal texts.

    Raises ValueError for NaN and infinity, which JSON does not know.
    """
    return text_of(VERSION, state)


def from_json(text: bytes | str, place: str) -> State:
    """The state that a text holds; ``place`` names it in messages.

    Raises StateError.  For a newer version it has a hint; for a damaged text it has
    none, as only who keeps the text knows where another copy lies.
    """
    try:
        found = versioned(parse(text), VERSION, _UPGRADES)
        state = _in_order(decoded(State, found))
        _verify(state)
    except NewerError as error:
        raise StateError(
            f"`{place}` was written by a newer deployer "
            f"(state version {error.version}, this one reads {VERSION})",
            hint="upgrade deployer",
        ) from error
    except FormError as error:
        raise StateError(f"`{place}` is damaged: {error}") from error
    return state


def is_newer(text: bytes) -> bool:
    """Return whether only a newer deployer reads a text."""
    try:
        versioned(parse(text), VERSION, _UPGRADES)
    except NewerError:
        return True
    except FormError:
        return False
    return False


def _in_order(state: State) -> State:
    """Return the state with its records in the order of making, not of their names."""
    promoting = state.promoting
    return replace(
        state,
        live=_records("live", state.live),
        made=_records("made", state.made),
        promoting=promoting and _release("promoting", promoting),
        releases=tuple(
            _release(f"releases[{n}]", it) for n, it in enumerate(state.releases)
        ),
    )


def _release(path: str, release: Release) -> Release:
    return replace(release, records=_records(f"{path}.records", release.records))


def _records(path: str, records: Mapping[str, Record]) -> Mapping[str, Record]:
    for address, record in records.items():
        if record.address != address:
            raise FormError(f"`{path}` contains `{record.address}` under `{address}`")
    return {a: r for kind in Kind for a, r in records.items() if r.kind is kind}


def _verify(state: State) -> None:
    """Refuse to work on a state that no sequence of steps leads to."""
    numbers = [release.number for release in state.releases]
    if any(later <= earlier for earlier, later in pairwise(numbers)):
        raise FormError("the numbers of `releases` do not grow")
    if numbers and state.released < numbers[-1]:
        raise FormError(f"`released` is {state.released}, below the newest release")


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


_SERIAL = re.compile(r"(?P<serial>[0-9]{8,})\.json")
_NAMED = re.compile(r"(?P<stack>[a-z][a-z0-9-]*)\.state\.json")


def list_stacks(folder: Path) -> tuple[str, ...]:
    """The stacks whose state lies in ``folder``, by name."""
    if not folder.is_dir():
        return ()
    return stacks_named(path.name for path in folder.iterdir())


def stacks_named(files: Iterable[str]) -> tuple[str, ...]:
    """Return the stacks whose state has one of these names."""
    found = map(_NAMED.fullmatch, files)
    return tuple(sorted(match["stack"] for match in found if match))


def serials_named(files: Iterable[str]) -> tuple[int, ...]:
    """Return the serials of the versions with these names, oldest first."""
    found = map(_SERIAL.fullmatch, files)
    return tuple(sorted(int(match["serial"]) for match in found if match))


def utc_now() -> datetime:
    """The time as locks tell it."""
    return datetime.now(UTC)


def unnoticed(_line: str) -> None:
    """Nobody listens."""


@dataclass(frozen=True, slots=True)
class FileStateStore:
    """Keeps ``<stack>.state.json`` in a folder; a `StateStore`.

    The versions before it stay in ``history/<stack>/``.
    """

    folder: Path
    stack: str
    now: Callable[[], datetime] = utc_now
    notify: Callable[[str], None] = unnoticed
    """Told when a lock is taken over from a process that is gone."""
    replace: Callable[[Path, bytes], None] = replace_file
    """Replaces a file durably or raises OSError."""
    refuges: tuple[Path, ...] | None = None
    """Folders for a state that cannot be written; unset: here, then temporary files."""
    keep: int = KEPT
    """Versions before the stored one that stay."""

    @property
    def place(self) -> str:
        """Where the state lies, for people."""
        return str(self.path)

    @property
    def path(self) -> Path:
        """The file of the state."""
        return self.folder / f"{self.stack}.state.json"

    @property
    def backup(self) -> Path | None:
        """The state before the last write; None where there was none."""
        serials = self.serials()
        return self._kept(serials[-1]) if serials else None

    def serials(self) -> tuple[int, ...]:
        """The serials of the kept versions before the stored one, oldest first."""
        return serials_named(path.name for path in self._history.glob("*.json"))

    def kept(self, serial: int) -> State:
        """The version with this serial; StateError where it is not kept whole."""
        path = self._kept(serial)
        try:
            return from_json(read_regular(path), str(path))
        except OSError as error:
            raise StateError(f"cannot read `{path}`: {error.strerror}") from error

    def mend(self, state: State) -> None:
        """Put a state in the place of one that cannot be read, or is gone.

        What was there stays beside it, as ``<stack>.state.damaged.json``.
        """
        try:
            self._make_folder()
            with guarded(self.folder):
                self._mend(to_json(state).encode())
        except OSError as error:
            raise StateError(f"cannot mend `{self.path}`: {error.strerror}") from error

    def read(self) -> State | None:
        """The stored state, read anew each time; None before the first.

        Raises StateError where it is damaged, from a newer deployer, or another
        stack's, and where only the version before it is there.
        """
        content = self._content()
        if content is not None:
            return self._state_in(content)
        if self.backup is not None:
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
            rescue(content, error, self)

    @contextmanager
    def lock(self, *, operation: str) -> Iterator[None]:
        """Hold the lock of the stack; LockedError where somebody else does."""
        try:
            self._make_folder()
        except OSError as error:
            raise StateError(
                f"cannot make the folder `{self.folder}`: {error.strerror}"
            ) from error
        from deployer.state.lock import locked, this_process  # noqa: PLC0415 - not to read

        holder = this_process(operation, now=self.now)
        with locked(self._lock, holder, notify=self.notify):
            yield

    def holder(self) -> "Holder | None":
        """Who holds the lock; None where it is free."""
        from deployer.state.lock import holder_of  # noqa: PLC0415 - as above

        return holder_of(self._lock)

    def unlock(self, holder_id: str) -> "Holder":
        """Break the lock of the holder with this ID, and return who that was."""
        from deployer.state.lock import unlock  # noqa: PLC0415 - as above

        return unlock(self._lock, holder_id)

    def log(self, line: str) -> None:
        """Add a line to ``log/<stack>/``, durably."""
        try:
            self._log.mkdir(mode=0o700, parents=True, exist_ok=True)
            with guarded(self._log):
                self._add(line)
        except OSError as error:
            why = error.strerror
            raise StateError(f"cannot write the log in `{self._log}`: {why}") from error

    def logged(self, newest: int | None = None) -> tuple[str, ...]:
        """The lines of the log, oldest first; ``newest``: at least so many, if any."""
        try:
            return newest_of(self, newest)
        except OSError as error:
            why = error.strerror
            raise StateError(f"cannot read the log in `{self._log}`: {why}") from error

    def numbers(self) -> tuple[int, ...]:
        """The parts of the log, oldest first."""
        return log_parts(path.name for path in self._log.glob("*.jsonl"))

    def lines(self, number: int) -> list[str]:
        """The lines of a part of the log."""
        return log_lines(read_regular(self._part(number)))

    def _add(self, line: str) -> None:
        numbers = self.numbers() or (1,)
        last = numbers[-1]
        before = self.lines(last) if self._part(last).exists() else []
        if len(before) >= SEGMENT:
            last, before = last + 1, []
        # What a run that died wrote in half stays a line of its own.
        whole = not before or read_regular(self._part(last)).endswith(b"\n")
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(self._part(last), flags, 0o600)
        try:
            os.write(descriptor, f"{'' if whole else chr(10)}{line}\n".encode())
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        for old in (*numbers, last):
            if old <= last - SEGMENTS:
                self._part(old).unlink(missing_ok=True)

    @property
    def _log(self) -> Path:
        return self.folder / "log" / self.stack

    def _part(self, number: int) -> Path:
        return self._log / f"{number:08}.jsonl"

    def put_back(self, rescued: Path) -> str:
        """Return what to type to store a state that was put aside."""
        folder, path = quoted(self.folder), quoted(self.path)
        return f"mkdir -p {folder} && mv {quoted(rescued)} {path}"

    @property
    def _lock(self) -> Path:
        return self.folder / f"{self.stack}.lock"

    @property
    def _history(self) -> Path:
        return self.folder / "history" / self.stack

    def _kept(self, serial: int) -> Path:
        return self._history / f"{serial:08}.json"

    def _make_folder(self) -> None:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def _content(self) -> bytes | None:
        if leads_out(self.path):
            raise StateError(
                f"`{self.path}` is a link out of the project",
                hint="put the file that it leads to in its place",
            )
        try:
            return read_regular(self.path)
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
        """Return what to type to get a state again that can be read."""
        kept = next(filter(None, map(self._whole, reversed(self.serials()))), None)
        if kept is None:
            return f"bring `{self.path}` back from a copy; none is kept beside it"
        backup = self._kept(kept.serial)
        return (
            f"go on from the version before it (serial {kept.serial}) with "
            f"`cp {quoted(backup)} {quoted(self.path)}`; the next `apply` "
            "fills in what it does not know"
        )

    def _whole(self, serial: int) -> State | None:
        try:
            return self.kept(serial)
        except StateError:
            return None

    def _mend(self, content: bytes) -> None:
        before = self._content()
        if before is not None and (self._is_whole(before) or is_newer(before)):
            raise StateError(f"`{self.path}` is not damaged: it is left as it is")
        if before is not None:
            damaged = self.folder / f"{self.stack}.state.damaged.json"
            self.replace(damaged, before)
        self.replace(self.path, content)

    def _is_whole(self, content: bytes) -> bool:
        try:
            self._state_in(content)
        except StateError:
            return False
        return True

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
                stored = self._state_in(before)
                refuse_other(stored, state, expect)
                self._keep(stored.serial, before)
            self.replace(self.path, content)

    def _keep(self, serial: int, content: bytes) -> None:
        """Keep a version, and forget the oldest of too many."""
        self._history.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.replace(self._kept(serial), content)
        for old in self.serials()[: -self.keep]:
            self._kept(old).unlink(missing_ok=True)


def log_lines(content: bytes) -> list[str]:
    """Return the lines of a part of a log."""
    return [it for it in content.decode("utf-8", "replace").split("\n") if it]


def refuse_other(stored: State, state: State, expect: int) -> None:
    """Raise StalePlanError unless ``state`` comes right after ``stored``."""
    if stored.lineage != state.lineage:
        raise StalePlanError(
            f"the state of `{stored.stack}` is a new one now",
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
