"""One folder of an object store, changed by conditional writes only.

A request that fails says nothing about whether it was carried out: it may have been,
and only the answer got lost.  So after every failed write the object is read again,
and what lies there decides.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
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

from deployer.errors import AuthError, StateError, UsageError
from deployer.stack.listen_addresses import is_loopback
from deployer.state.credentials import refuse_none

if TYPE_CHECKING:
    from obstore import GetResult, ListResult, ObjectMeta, PutMode, PutResult

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
    """What is asked of a store of `obstore`; it raises what that raises."""

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


class Bucket(Protocol):
    """A folder in which objects are replaced whole, by one writer each time."""

    @property
    def url(self) -> str:
        """Where it is, without any credential."""
        ...

    def get(self, name: str) -> Found | None:
        """An object; None where there is none."""
        ...

    def put(self, name: str, content: bytes, before: Found | None) -> Found:
        """Replace what was read as ``before``; raises MovedError.

        None: there must be no such object yet.
        """
        ...

    def names(self, folder: str) -> Iterator[str]:
        """The objects right in a folder, without its name."""
        ...

    def drop(self, name: str) -> None:
        """Forget an object; none there is fine."""
        ...


@dataclass(frozen=True, slots=True)
class ObjectBucket:
    """A `Bucket` in S3, GCS or Azure, or what speaks their protocols.

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
