"""The state as one object a stack, in a folder of an object store.

The lock is an object of its own, which is never removed: it says who holds it, or
that nobody does, and every change of it is a conditional write.  So nobody can take,
free or break a lock that changed hands since it was looked at.  Nothing tells whether
the process of a holder still runs: where it does not, a person says so (`unlock`).

Where it holds none, clients ask the address at which clouds give a machine its own
(169.254.169.254).  On any network but a cloud's somebody else may answer there, and on
a cloud's every process of a job gets the rights of the machine, so it is asked only
where the environment says so.

A request that fails says nothing about whether it was carried out: it may have been,
and only the answer got lost.  So after every failed write the object is read again,
and what lies there decides.
"""

import os
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar
from urllib.parse import urlsplit

import stamina
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    NotFoundError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
    UnknownConfigurationKeyError,
)
from obstore.store import AzureStore, GCSStore, S3Store

from deployer.artefacts.json_files import FormError, NewerError
from deployer.errors import (
    AuthError,
    DeployerError,
    LockedError,
    StalePlanError,
    StateError,
    UsageError,
)
from deployer.planning.state import State
from deployer.stack.addresses import is_loopback
from deployer.state import KEPT, SEGMENT, SEGMENTS, log_parts, newest_of
from deployer.state.files import (
    from_json,
    is_newer,
    log_lines,
    quoted,
    refuse_other,
    rescue,
    serials_named,
    stacks_named,
    to_json,
    unnoticed,
    utc_now,
)
from deployer.state.lock import Holder, holder_from_json, holder_to_json, this_process
from deployer.system.files import replace_file

if TYPE_CHECKING:
    from obstore import GetResult, ListResult, ObjectMeta, PutMode, PutResult


INSTANCE = "DEPLOYER_INSTANCE_CREDENTIALS"
"""Variable that lets the credentials of the machine be asked for: `1`."""

_ENOUGH: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "s3": (
        ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"),
        ("AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_ROLE_ARN"),
        ("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",),
        (
            "AWS_CONTAINER_CREDENTIALS_FULL_URI",
            "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
        ),
        ("AWS_SKIP_SIGNATURE",),
    ),
    "gs": (
        ("GOOGLE_APPLICATION_CREDENTIALS",),
        ("GOOGLE_SERVICE_ACCOUNT",),
        ("GOOGLE_SERVICE_ACCOUNT_PATH",),
        ("GOOGLE_SERVICE_ACCOUNT_KEY",),
        ("GOOGLE_BEARER_TOKEN",),
        ("GOOGLE_SKIP_SIGNATURE",),
    ),
    "az": (
        ("AZURE_STORAGE_ACCOUNT_KEY",),
        ("AZURE_STORAGE_ACCESS_KEY",),
        ("AZURE_STORAGE_SAS_KEY",),
        ("AZURE_STORAGE_SAS_TOKEN",),
        ("AZURE_STORAGE_TOKEN",),
        ("AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET", "AZURE_TENANT_ID"),
        (
            *("AZURE_STORAGE_CLIENT_ID", "AZURE_STORAGE_CLIENT_SECRET"),
            "AZURE_STORAGE_TENANT_ID",
        ),
        ("AZURE_CLIENT_ID", "AZURE_TENANT_ID", "AZURE_FEDERATED_TOKEN_FILE"),
        ("AZURE_USE_AZURE_CLI",),
        ("AZURE_SKIP_SIGNATURE",),
    ),
}
"""Variables that together are enough, so that the client looks no further."""
_NO = ("", "0", "false", "no", "off")
"""Values of a switch that is not on."""
_GCLOUD = ".config/gcloud/application_default_credentials.json"
"""File of `gcloud auth application-default login`."""


def refuse_none(scheme: str, url: str, environment: Mapping[str, str]) -> None:
    """Raise AuthError where a client would have to ask the machine for credentials."""
    if environment.get(INSTANCE) == "1":
        return
    given = {name for name, value in environment.items() if value.lower() not in _NO}
    if any(given.issuperset(names) for names in _ENOUGH[scheme]):
        return
    if scheme == "gs" and Path(environment.get("HOME", ""), _GCLOUD).is_file():
        return
    first = " and ".join(f"`{name}`" for name in _ENOUGH[scheme][0])
    raise AuthError(
        f"no credentials for `{url}` are in the environment",
        hint=f"set {first}; where the machine has credentials of its own:"
        f" `export {INSTANCE}=1`",
    )


ATTEMPTS = 10
_Result = TypeVar("_Result")
_FINAL = (PermissionDeniedError, UnauthenticatedError)
_TIMEOUTS = {"timeout": "20s", "connect_timeout": "5s"}


class MovedError(Exception):
    """Somebody else wrote the object first; it was left as it is."""


class _AgainError(Exception):
    """It failed, and may go well the next time."""


@dataclass(frozen=True, slots=True)
class Found:
    """An object as it was read."""

    content: bytes
    tag: str
    """Changes with every write."""


class Client(Protocol):
    """The calls to a store of `obstore`; it raises what that raises."""

    def get(self, path: str, /) -> "GetResult":
        """An object."""
        ...

    def put(
        self, path: str, file: bytes, /, *, mode: "PutMode", use_multipart: bool
    ) -> "PutResult":
        """Write an object, if the condition of ``mode`` holds."""
        ...

    def list_with_delimiter(
        self, prefix: str | None, /
    ) -> "ListResult[Sequence[ObjectMeta]]":
        """Return what lies right in a folder."""
        ...

    def delete(self, paths: str, /) -> None:
        """Remove an object."""
        ...


@dataclass(frozen=True, slots=True)
class ObjectBucket:
    """A folder of S3, GCS or Azure in which objects are replaced whole, by one writer.

    Raises StateError where the store cannot be reached or does not answer in its
    protocol, and AuthError where it refuses the credentials.
    """

    store: Client
    url: str

    def get(self, name: str) -> Found | None:
        """An object; None where there is none."""
        return _repeated(lambda: self._get(name))

    def put(self, name: str, content: bytes, before: Found | None) -> Found:
        """Replace what was read as ``before``; raises MovedError."""
        return _repeated(lambda: self._put(name, content, before))

    def names(self, folder: str) -> Iterator[str]:
        """The objects right in a folder, without its name."""
        yield from _repeated(lambda: self._names(folder))

    def drop(self, name: str) -> None:
        """Forget an object; none there is fine."""
        _repeated(lambda: self._drop(name))

    def _get(self, name: str) -> Found | None:
        try:
            found = self.store.get(name)
            content = found.bytes().to_bytes()
        except (FileNotFoundError, NotFoundError):
            return None
        except BaseError as error:
            raise self._again(error) from error
        if len(content) != found.meta["size"]:
            raise _AgainError(f"`{self.url}/{name}` came in half")
        return Found(content, _tag(found.meta["e_tag"]))

    def _put(self, name: str, content: bytes, before: Found | None) -> Found:
        mode: PutMode = "create" if before is None else {"e_tag": before.tag}
        try:
            done = self.store.put(name, content, mode=mode, use_multipart=False)
        except (BaseError, FileNotFoundError) as error:
            return self._decided(name, content, before, error)
        return Found(content, _tag(done["e_tag"]))

    def _names(self, folder: str) -> list[str]:
        try:
            found = self.store.list_with_delimiter(folder or None)
        except BaseError as error:
            raise self._again(error) from error
        return [it["path"].rpartition("/")[2] for it in found["objects"]]

    def _drop(self, name: str) -> None:
        try:
            self.store.delete(name)
        except (FileNotFoundError, NotFoundError):
            return
        except BaseError as error:
            raise self._again(error) from error

    def _decided(
        self, name: str, content: bytes, before: Found | None, error: Exception
    ) -> Found:
        """Return what a write came to that did not say so itself."""
        if isinstance(error, _FINAL):
            raise self._again(error) from error
        now = self.get(name)
        if now is not None and now.content == content:
            return now
        if now != before and isinstance(error, (AlreadyExistsError, PreconditionError)):
            raise MovedError from error
        raise self._again(error) from error

    def _again(self, error: Exception) -> Exception:
        if isinstance(error, _FINAL):
            return AuthError(
                f"`{self.url}` refuses these credentials",
                hint="docs/state.md says where they are looked for; `deployer plan"
                " --without-state` needs none",
            )
        return _AgainError(f"`{self.url}` cannot be reached: {_why(error)}")


def open_bucket(url: str, options: Mapping[str, str]) -> ObjectBucket:
    """The folder at a URL such as ``s3://bucket/prefix``; asks nothing yet.

    ``options`` are those of the store: ``endpoint``, ``region``, ``account_name``.
    Raises UsageError for what the store does not know or would send in the clear, and
    AuthError where the environment holds no credentials.
    """
    endpoint = urlsplit(options.get("endpoint", ""))
    if endpoint.scheme == "http" and not is_loopback(endpoint.hostname or ""):
        raise UsageError(
            f"`{url}` would be asked over plain http, which shows the credentials to"
            " the network",
            hint="write `https://`; plain http is for this machine only",
        )
    refuse_none(url.partition("://")[0], url, os.environ)
    return _opened(url, tuple(sorted(options.items())))


@cache  # each has its own connections and looks for credentials anew
def _opened(url: str, options: tuple[tuple[str, str], ...]) -> ObjectBucket:
    kinds = {"s3": S3Store, "gs": GCSStore, "az": AzureStore}
    scheme, _, where = url.partition("://")
    config = dict(options)
    if scheme == "az":  # to obstore the first part is the container
        config["account_name"], _, where = where.partition("/")
    plain = config.get("endpoint", "").startswith("http://")
    client = {**_TIMEOUTS, "allow_http": plain}
    try:
        store = kinds[scheme].from_url(  # type: ignore[attr-defined] # all have it
            f"{scheme}://{where}",
            config=config,
            client_options=client,
            retry_config={"max_retries": 0},
        )
    except (UnknownConfigurationKeyError, BaseError, ValueError) as error:
        raise UsageError(f"`{url}` is no place for a state: {_why(error)}") from error
    return ObjectBucket(store, url)


def _repeated(do: Callable[[], _Result]) -> _Result:
    """Return what ``do`` comes to, where it may fail a few times before."""
    stamina.instrumentation.set_on_retry_hooks([])  # else it logs over the progress
    attempts = stamina.retry_context(
        on=_AgainError, attempts=ATTEMPTS, timeout=None, wait_max=2.0
    )
    try:
        for attempt in attempts:
            with attempt:
                return do()
    except _AgainError as error:
        raise StateError(
            str(error),
            hint="try again later; without it nothing goes on but"
            " `deployer plan --without-state`",
        ) from error
    raise AssertionError("an attempt returns or raises")


def _tag(found: str | None) -> str:
    if found is None:
        raise StateError(
            "the store gives its objects no tag (`ETag`)",
            hint="without one, two writers cannot be told apart: take another store",
        )
    return found


def _why(error: Exception) -> str:
    """The first line of an error, without the query of a URL: it may be signed."""
    line = str(error).partition("\n")[0]
    return " ".join(word.partition("?")[0] for word in line.split())[:200]


FREE = b'{\n  "version": 1,\n  "free": true\n}\n'


def stacks_in(bucket: ObjectBucket) -> tuple[str, ...]:
    """The stacks whose state lies in a folder of an object store, by name."""
    return stacks_named(bucket.names(""))


@dataclass(frozen=True, slots=True)
class ObjectStateStore:
    """Keeps ``<stack>.state.json`` in an object store; a `StateStore`."""

    bucket: ObjectBucket
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
        taken = self._take(this_process(operation, now=self.now))
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
        return serials_named(self.bucket.names(f"history/{self.stack}"))

    def kept(self, serial: int) -> State:
        """The version with this serial; StateError where it is not kept whole."""
        name = self._kept(serial)
        if (found := self.bucket.get(name)) is None:
            raise StateError(f"`{self.bucket.url}/{name}` is not there")
        return from_json(found.content, f"{self.bucket.url}/{name}")

    def log(self, line: str) -> None:
        """Add a line to ``log/<stack>/``, whoever else adds one at the same time."""
        for _ in range(ATTEMPTS):
            numbers = self.numbers() or (1,)
            last = numbers[-1]
            found = self.bucket.get(self._part(last))
            before = b"" if found is None else found.content
            if len(log_lines(before)) >= SEGMENT:
                last, found, before = last + 1, None, b""
            with suppress(MovedError):  # somebody was faster: the next look has it
                added = f"{line}\n".encode()
                self.bucket.put(self._part(last), before + added, found)
                for old in (it for it in numbers if it <= last - SEGMENTS):
                    self.bucket.drop(self._part(old))
                return
        raise StateError(f"the log of `{self.place}` is written by others all the time")

    def logged(self, newest: int | None = None) -> tuple[str, ...]:
        """The lines of the log, oldest first; ``newest``: at least so many, if any."""
        return newest_of(self, newest)

    def numbers(self) -> tuple[int, ...]:
        """The parts of the log, oldest first."""
        return log_parts(self.bucket.names(f"log/{self.stack}"))

    def lines(self, number: int) -> list[str]:
        """The lines of a part of the log."""
        found = self.bucket.get(self._part(number))
        return [] if found is None else log_lines(found.content)

    def _part(self, number: int) -> str:
        return f"log/{self.stack}/{number:08}.jsonl"

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
        content = holder_to_json(mine).encode()
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
            holder = holder_from_json(taken.content)
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
            f"`{self.stack}` was just locked or freed by another process",
            hint="run it again to see by whom",
        )


def _is_old_answer(stored: State, state: State, expect: int) -> bool:
    """Serials only grow: what is below was read from a copy that is behind."""
    return stored.lineage == state.lineage and stored.serial < expect


def _holder_in(found: Found | None, place: str) -> Holder | None:
    if found is None or found.content == FREE:
        return None
    try:
        return holder_from_json(found.content)
    except (FormError, NewerError) as error:
        raise LockedError(
            f"the lock beside `{place}` does not say who holds it: {error}",
            hint="if nothing works on the stack, remove that object",
        ) from error
