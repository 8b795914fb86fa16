"""The state as one object a stack, in a folder of an object store.

The lock is an object of its own, which is never removed: it says who holds it, or
that nobody does, and every change of it is a conditional write.  So nobody can take,
free or break a lock that changed hands since it was looked at.  Nothing tells whether
the process of a holder still runs: where it does not, a person says so (`unlock`).
"""

import re
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from deployer.artefacts.disk import replace_file
from deployer.artefacts.json_text import FormError, NewerError
from deployer.errors import DeployerError, LockedError, StalePlanError, StateError
from deployer.planning.state import State
from deployer.state import KEPT
from deployer.state import holder as holders
from deployer.state.bucket import ATTEMPTS, Bucket, Found, MovedError
from deployer.state.files import refuse_other, unnoticed, utc_now
from deployer.state.form import from_json, is_newer, to_json
from deployer.state.holder import Holder
from deployer.state.rescue import quoted, rescue

FREE = b'{\n  "version": 1,\n  "free": true\n}\n'
_NAMED = re.compile(r"(?P<stack>[a-z][a-z0-9-]*)\.state\.json")
_SERIAL = re.compile(r"(?P<serial>[0-9]{8,})\.json")


def stacks_in(bucket: Bucket) -> tuple[str, ...]:
    """The stacks whose state lies in a folder of an object store, by name."""
    found = (_NAMED.fullmatch(name) for name in bucket.names(""))
    return tuple(sorted(match["stack"] for match in found if match))


@dataclass(frozen=True, slots=True)
class ObjectStateStore:
    """Keeps ``<stack>.state.json`` in an object store; a `StateStore`."""

    bucket: Bucket
    stack: str
    now: Callable[[], datetime] = utc_now
    notify: Callable[[str], None] = unnoticed
    """Told when a lock could not be freed."""
    replace: Callable[[Path, bytes], None] = replace_file
    """Replaces a file of this machine: for a state that cannot be written."""
    refuges: tuple[Path, ...] | None = None
    keep: int = KEPT
    """Versions before the stored one that stay."""
    stack_file: Path = Path("STACK")
    """For hints that are to be typed."""
    _seen: dict[tuple[str, int], Found] = field(default_factory=dict, compare=False)
    """The object that this store read or wrote last, by its lineage and serial."""

    @property
    def place(self) -> str:
        """Where the state lies, for people."""
        return f"{self.bucket.url}/{self._name}"

    def read(self) -> State | None:
        """The stored state, read anew each time; None before the first."""
        found = self.bucket.get(self._name)
        if found is not None:
            state = self._state_in(found)
            self._see(state, found)
            return state
        if self.serials():
            raise StateError(
                f"`{self.place}` is gone, though there was one", hint=self._way_back()
            )
        return None

    def write(self, state: State, *, expect: int) -> None:
        """Replace the stored state, if its serial is still ``expect``."""
        content = to_json(state).encode()
        try:
            self._replace(state, content, expect)
        except StalePlanError:
            raise
        except DeployerError as error:
            rescue(content, StateError(error.message), self)

    def mend(self, state: State) -> None:
        """Put a state in the place of one that cannot be read, or is gone."""
        found = self.bucket.get(self._name)
        if found is not None and (self._is_whole(found) or is_newer(found.content)):
            raise StateError(f"`{self.place}` is not damaged: it is left as it is")
        try:
            if found is not None:
                damaged = f"{self.stack}.state.damaged.json"
                self.bucket.put(damaged, found.content, self.bucket.get(damaged))
            self.bucket.put(self._name, to_json(state).encode(), found)
        except MovedError as error:
            raise StateError(f"`{self.place}` was written just now") from error

    @contextmanager
    def lock(self, *, operation: str) -> Iterator[None]:
        """Hold the lock of the stack; LockedError where somebody else does."""
        taken = self._take(holders.this_process(operation, now=self.now))
        try:
            yield
        finally:
            self._let_go(taken)

    def holder(self) -> Holder | None:
        """Who holds the lock; None where it is free."""
        return _holder_in(self.bucket.get(self._lock), self.place)

    def unlock(self, holder_id: str) -> Holder:
        """Break the lock of the holder with this ID, and return who that was."""
        found = self.bucket.get(self._lock)
        holder = _holder_in(found, self.place)
        if holder is None:
            raise StateError(f"`{self.stack}` is not locked")
        if holder.id != holder_id:
            raise LockedError(
                f"the lock `{self.stack}` has not the ID `{holder_id}`: it is held by"
                f" {holder}",
                hint=f"its ID is `{holder.id}`",
            )
        try:
            self.bucket.put(self._lock, FREE, found)
        except MovedError as error:
            raise self._just_locked() from error
        return holder

    def serials(self) -> tuple[int, ...]:
        """The serials of the kept versions before the stored one, oldest first."""
        names = self.bucket.names(f"history/{self.stack}")
        found = (_SERIAL.fullmatch(name) for name in names)
        return tuple(sorted(int(match["serial"]) for match in found if match))

    def kept(self, serial: int) -> State:
        """The version with this serial; StateError where it is not kept whole."""
        name = self._kept(serial)
        if (found := self.bucket.get(name)) is None:
            raise StateError(f"`{self.bucket.url}/{name}` is not there")
        return from_json(found.content, f"{self.bucket.url}/{name}")

    def put_back(self, rescued: Path) -> str:
        """Return what to type to store a state that was put aside."""
        stack = shlex.quote(str(self.stack_file))
        return f"deployer state push {stack} {quoted(rescued)}"

    @property
    def _name(self) -> str:
        return f"{self.stack}.state.json"

    @property
    def _lock(self) -> str:
        return f"{self.stack}.lock.json"

    def _kept(self, serial: int) -> str:
        return f"history/{self.stack}/{serial:08}.json"

    def _state_in(self, found: Found) -> State:
        try:
            state = from_json(found.content, self.place)
        except StateError as error:
            raise StateError(error.message, error.hint or self._way_back()) from error
        if state.stack != self.stack:
            raise StateError(
                f"`{self.place}` holds the state of the stack `{state.stack}`",
                hint=self._way_back(),
            )
        return state

    def _is_whole(self, found: Found) -> bool:
        try:
            self._state_in(found)
        except StateError:
            return False
        return True

    def _way_back(self) -> str:
        stack = shlex.quote(str(self.stack_file))
        return f"`deployer state repair {stack}` goes on from the newest whole version"

    def _see(self, state: State, found: Found) -> None:
        self._seen.clear()
        self._seen[state.lineage, state.serial] = found

    def _replace(self, state: State, content: bytes, expect: int) -> None:
        """Try until it is stored, or somebody else is seen to have been faster."""
        seen = self._seen.pop((state.lineage, expect), None)
        if seen is not None and state.serial > expect and seen.content != content:
            # No look before it: what was written meanwhile makes the attempt fail.
            with suppress(MovedError):
                self._put(state, content, seen, expect)
                return
        for _ in range(ATTEMPTS):
            before = self.bucket.get(self._name)
            if before is not None and before.content == content:
                return
            stored = None if before is None else self._state_in(before)
            if stored is not None and _is_old_answer(stored, state, expect):
                continue
            if stored is not None:
                refuse_other(stored, state, expect)
            with suppress(MovedError):  # the next look says by whom, if by anybody
                self._put(state, content, before, expect)
                return
        raise StateError(f"`{self.place}` keeps answering with what it was before")

    def _put(
        self, state: State, content: bytes, before: Found | None, expect: int
    ) -> None:
        """Keep the version before, and replace it; raises MovedError."""
        if before is not None:
            self._remember(expect, before.content)
        self._see(state, self.bucket.put(self._name, content, before))

    def _remember(self, serial: int, content: bytes) -> None:
        """Keep a version, and forget the one that is too many."""
        name = self._kept(serial)
        try:
            self.bucket.put(name, content, None)
        except MovedError:  # a write that died after it, or a mended state
            self.bucket.put(name, content, self.bucket.get(name))
        if serial > self.keep:
            self.bucket.drop(self._kept(serial - self.keep))

    def _take(self, mine: Holder) -> Found:
        """Write the holder into a lock that is free; LockedError says whose it is."""
        content = holders.to_json(mine).encode()
        for _ in range(ATTEMPTS):
            before = self.bucket.get(self._lock)
            if (other := _holder_in(before, self.place)) is not None:
                raise self._locked(other)
            with suppress(MovedError):  # somebody was faster: the next look says who
                return self.bucket.put(self._lock, content, before)
        raise self._just_locked()

    def _let_go(self, taken: Found) -> None:
        """Free the lock if it is still this holder's."""
        try:
            self.bucket.put(self._lock, FREE, taken)
        except MovedError:
            return
        except DeployerError as error:
            stack = shlex.quote(str(self.stack_file))
            holder = holders.from_json(taken.content)
            self.notify(
                f"the lock could not be freed ({error.message}):"
                f" `deployer state unlock {stack} {holder.id}`"
            )

    def _locked(self, other: Holder) -> LockedError:
        stack = shlex.quote(str(self.stack_file))
        return LockedError(
            f"`{self.stack}` is locked by {other}",
            hint=f"if it runs no more: `deployer state unlock {stack} {other.id}`",
        )

    def _just_locked(self) -> LockedError:
        return LockedError(
            f"`{self.stack}` was just locked or freed by somebody else",
            hint="run it again to see by whom",
        )


def _is_old_answer(stored: State, state: State, expect: int) -> bool:
    """Serials only grow: what is below was read from a copy that is behind."""
    return stored.lineage == state.lineage and stored.serial < expect


def _holder_in(found: Found | None, place: str) -> Holder | None:
    if found is None or found.content == FREE:
        return None
    try:
        return holders.from_json(found.content)
    except (FormError, NewerError) as error:
        raise LockedError(
            f"the lock beside `{place}` does not say who holds it: {error}",
            hint="if nothing works on the stack, remove that object",
        ) from error
