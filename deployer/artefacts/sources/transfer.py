"""A download on its way: over any number of connections, hashed while it arrives.

What arrives early waits in memory, at most `CONNECTIONS` parts of it; so a file is
written, and hashed, from its first byte to its last, and what an interrupted run leaves
is the beginning of it, without a gap.
"""

import hashlib
import os
import re
from collections import deque
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from threading import Event, Thread
from typing import TYPE_CHECKING, BinaryIO, TypeAlias
from urllib.parse import urlsplit

from deployer.artefacts.sources.client import (
    CutOffError,
    file_name,
    new_client,
    other_size,
    reason_of,
    refuse_address,
    refuse_content,
    refuse_status,
    shown,
    translated,
)
from deployer.artefacts.sources.files import (
    DigestCache,
    ensure_room,
    sync_folder,
    writing,
)
from deployer.errors import SourceError
from deployer.planning.events import Progress, Watch
from deployer.planning.facts import Pin
from deployer.system.files import contained

if TYPE_CHECKING:
    import httpx2
if TYPE_CHECKING:
    import httpx2
if TYPE_CHECKING:
    import httpx2


@dataclass(slots=True)
class Transfer:
    """A download on its way, over any number of connections."""

    url: str
    part: Path
    pinned: bool
    pinned_size: int | None
    progress: Watch
    token: str = field(default="", repr=False)
    """Sent to the host of ``url`` alone."""
    size: int | None = field(init=False)
    """Pinned, or learned from the server."""
    done: int = 0
    validator: str = ""
    digest: "hashlib._Hash" = field(default_factory=hashlib.sha256)
    alone: bool = False
    """Over one connection at a time: the server does not serve parts."""
    place: str = field(init=False)
    """Where redirects led to: they are followed once."""

    def __post_init__(self) -> None:
        self.size = self.pinned_size
        self.place = self.url

    @property
    def name(self) -> str:
        """What people know it by."""
        return file_name(self.url)

    def headers(self, place: str) -> dict[str, str]:
        """Return what is sent with every request."""
        headers = {"Accept-Encoding": "identity"}
        if self.token and urlsplit(place).netloc == urlsplit(self.url).netloc:
            headers["Authorization"] = f"Bearer {self.token}"
        return headers

    def settle(self, answer: "httpx2.Response", asked: str) -> None:
        """Ask there from now on; raises for an answer that holds nothing.

        Hubs redirect to addresses that expire: one that did is asked for anew.
        """
        if asked != self.url and answer.status_code in (401, 403, 404, 410):
            self.place = self.url
            raise CutOffError("the address that it was redirected to holds no longer")
        refuse_status(answer, self.url)
        self.place = str(answer.url)

    def restart(self, stream: BinaryIO) -> None:
        """Begin again from the first byte."""
        if self.done:
            stream.seek(0)
            stream.truncate()
        self.done, self.digest, self.size = 0, hashlib.sha256(), self.pinned_size

    def write(self, stream: BinaryIO, block: bytes) -> None:
        """Append, hash and report."""
        stream.write(block)
        self.digest.update(block)
        self.done += len(block)
        self.progress(Progress(self.name, self.done, self.size))


PART = 8 * 1024 * 1024
CONNECTIONS = 6
_STATED = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")

_Arriving: TypeAlias = "SimpleQueue[bytes | Exception | None]"
"""The blocks of a part; None behind the last one, an error where it broke off."""


def are_worth_it(transfer: "Transfer") -> bool:
    """Whether there is enough left to ask for, and a digest to judge the whole by."""
    left = 0 if transfer.size is None else transfer.size - transfer.done
    return transfer.pinned and not transfer.alone and left >= 2 * PART


def receive(client: "httpx2.Client", transfer: "Transfer", stream: BinaryIO) -> None:
    """Ask for the rest in parts, and append them; raises CutOffError where one ends.

    What came before the break is appended.
    """
    stop = Event()
    waiting: deque[_Arriving] = deque()
    try:
        for at in range(transfer.done, transfer.size or 0, PART):
            waiting.append(_begun(client, transfer, at, stop))
            if len(waiting) == CONNECTIONS:
                _append_arriving(waiting.popleft(), transfer, stream)
        while waiting:
            _append_arriving(waiting.popleft(), transfer, stream)
    finally:
        stop.set()


def _begun(
    client: "httpx2.Client", transfer: "Transfer", at: int, stop: Event
) -> _Arriving:
    arriving: _Arriving = SimpleQueue()

    def work() -> None:
        try:
            _fetch(client, transfer, at, stop, arriving)
        except Exception as error:  # noqa: BLE001 - raised where the part is awaited
            arriving.put(error)

    # Whoever stops waiting need not wait for a server that has gone silent.
    Thread(target=work, daemon=True).start()
    return arriving


def _append_arriving(
    arriving: _Arriving, transfer: "Transfer", stream: BinaryIO
) -> None:
    while (block := arriving.get()) is not None:
        if isinstance(block, Exception):
            raise block
        transfer.write(stream, block)


def _fetch(
    client: "httpx2.Client",
    transfer: "Transfer",
    at: int,
    stop: Event,
    arriving: _Arriving,
) -> None:
    """Put the blocks of one part where they are waited for."""
    import httpx2  # noqa: PLC0415 - only a download pays for it

    size = transfer.size or 0
    end = min(at + PART, size)
    place = transfer.place
    headers = {**transfer.headers(place), "Range": f"bytes={at}-{end - 1}"}
    done = at
    try:
        with client.stream("GET", place, headers=headers) as answer:
            transfer.settle(answer, place)
            _refuse_other_part(answer, transfer, at)
            for block in answer.iter_raw():
                if stop.is_set():
                    return
                if done == 0:
                    refuse_content(answer, transfer.url, block)
                done += len(block)
                arriving.put(block)
    except httpx2.RemoteProtocolError as error:
        raise CutOffError("the server closed the connection") from error
    except (httpx2.NetworkError, httpx2.TimeoutException) as error:
        raise CutOffError(reason_of(error)) from error
    if done != end:
        raise CutOffError(f"the connection ended after {done} of {end} bytes")
    arriving.put(None)


def _refuse_other_part(
    answer: "httpx2.Response", transfer: "Transfer", at: int
) -> None:
    """Raise where the server sends no part, another one, or one of another file."""
    stated = _STATED.fullmatch(answer.headers.get("content-range", ""))
    if answer.status_code != 206 or stated is None or int(stated[1]) != at:
        raise CutOffError("the server sent another part than asked for")
    if stated[3] != "*" and transfer.size and int(stated[3]) != transfer.size:
        raise other_size(transfer.url, int(stated[3]), transfer.size)


_BLOCK = 1024 * 1024
_ATTEMPTS = 5


def transferred(start: "partial[Transfer]", sha256: str | None) -> str:
    """The digest of the part file once everything is in it."""
    transfer = start()
    resumed = _resume(transfer)
    _run(transfer)
    if resumed and transfer.digest.hexdigest() != sha256:
        transfer.part.unlink()  # what was there before belonged to another file
        transfer = start()
        _run(transfer)
    return transfer.digest.hexdigest()


def _resume(transfer: Transfer) -> bool:
    """Take what an earlier run left; whether there was anything."""
    if not transfer.part.is_file():
        return False
    with transfer.part.open("rb") as stream:
        while block := stream.read(_BLOCK):
            transfer.digest.update(block)
            transfer.done += len(block)
    if transfer.size is not None and transfer.done > transfer.size:
        transfer.part.unlink()
        transfer.done, transfer.digest = 0, hashlib.sha256()
    return transfer.done > 0


def _run(transfer: Transfer) -> None:
    """Connect until everything is there; patience starts anew with each megabyte."""
    import stamina  # noqa: PLC0415 - only a download pays for it

    stamina.instrumentation.set_on_retry_hooks([])  # else it logs over the progress

    if transfer.size is not None and transfer.done == transfer.size:
        return
    with new_client() as client, translated(transfer.url):
        attempts = stamina.retry_context(
            on=CutOffError, attempts=_ATTEMPTS, timeout=None, wait_initial=0.5
        )
        for attempt in attempts:
            with attempt:
                _connect_while_it_moves(client, transfer)


def _connect_while_it_moves(client: "httpx2.Client", transfer: Transfer) -> None:
    while True:
        before, alone = transfer.done, transfer.alone
        try:
            if are_worth_it(transfer):
                return _receive_parts(client, transfer)
            return _receive(client, transfer)
        except CutOffError:
            moved = transfer.done - before >= _BLOCK
            if not moved and transfer.alone is alone:
                raise


def _receive_parts(client: "httpx2.Client", transfer: Transfer) -> None:
    """The rest over several connections; one at a time where that does not move."""
    before = transfer.done
    ensure_room(
        transfer.part.parent, (transfer.size or 0) - before, purpose=transfer.name
    )
    with transfer.part.open("ab") as stream:
        try:
            receive(client, transfer, stream)
        except CutOffError:
            transfer.alone = transfer.done == before
            raise
        finally:
            stream.flush()
        os.fsync(stream.fileno())


def _receive(client: "httpx2.Client", transfer: Transfer) -> None:
    """One connection: ask for the rest, and append it."""
    import httpx2  # noqa: PLC0415 - only a download pays for it

    place = transfer.place
    headers = transfer.headers(place)
    if transfer.done and (transfer.pinned or transfer.validator):
        headers["Range"] = f"bytes={transfer.done}-"
        if transfer.validator:
            headers["If-Range"] = transfer.validator
    try:
        with (
            client.stream("GET", place, headers=headers) as answer,
            transfer.part.open("ab") as stream,
        ):
            _append(answer, transfer, stream, place)
    except (httpx2.NetworkError, httpx2.TimeoutException) as error:
        raise CutOffError(reason_of(error)) from error
    except httpx2.RemoteProtocolError as error:
        raise CutOffError("the server closed the connection") from error


def _append(
    answer: "httpx2.Response", transfer: Transfer, stream: BinaryIO, asked: str
) -> None:
    if answer.status_code == 416:
        if answer.headers.get("content-range") == f"bytes */{transfer.done}":
            return  # all of it was here already; the digest has the last word
        transfer.restart(stream)
        raise CutOffError("the server has no more than what is already here")
    transfer.settle(answer, asked)
    whole = answer.status_code == 200
    if not whole and not _continues(answer, transfer):
        transfer.restart(stream)
        raise CutOffError("the server sent another part than asked for")
    if whole:
        transfer.restart(stream)
        _learn(answer, transfer)
    for block in answer.iter_raw():
        if transfer.done == 0:
            refuse_content(answer, transfer.url, block)
        transfer.write(stream, block)
    stream.flush()
    os.fsync(stream.fileno())
    if transfer.size is not None and transfer.done < transfer.size:
        raise CutOffError(
            f"the connection ended after {transfer.done} of {transfer.size} bytes"
        )


def _learn(answer: "httpx2.Response", transfer: Transfer) -> None:
    """Take size and validator from the first answer; check that there is room."""
    etag = answer.headers.get("etag", "")
    transfer.validator = "" if etag.startswith("W/") else etag
    stated = answer.headers.get("content-length", "")
    if not stated.isdigit():
        return
    size = int(stated)
    if transfer.size is not None and size != transfer.size:
        raise other_size(transfer.url, size, transfer.size)
    ensure_room(transfer.part.parent, size, purpose=transfer.name)
    transfer.size = size


def _continues(answer: "httpx2.Response", transfer: Transfer) -> bool:
    stated = answer.headers.get("content-range", "")
    found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", stated)
    if found is None or int(found[1]) != transfer.done:
        return False
    if transfer.size is None and found[2] != "*":
        transfer.size = int(found[2])
    return True


def pin(
    url: str,
    *,
    sha256: str | None,
    downloads: Path,
    cache: DigestCache,
    progress: Watch,
) -> Pin:
    """Pin the file behind ``url``.

    Without ``sha256`` the file is downloaded to learn it, and stays in
    ``downloads`` under its digest, where `fetch` finds it; the ``cache`` remembers
    that it was hashed.  Raises SourceError.
    """
    refuse_address(url)
    name = file_name(url)
    if sha256 is None:
        arriving = downloads / f"{hashlib.sha256(url.encode()).hexdigest()}.new"
        sha256 = download(url, arriving, sha256=None, size=None, progress=progress)
        size: int | None = arriving.stat().st_size
        arriving.replace(downloads / sha256)
        cache.remember(downloads / sha256, sha256)
    else:
        size = size_of(url)
    return Pin(
        source="url",
        identity={"model": [sha256]},
        where={"url": url},
        about={"model": [name], "size": size},
    )


def fetch(
    pin: Pin, into: Path, *, downloads: Path, cache: DigestCache, progress: Watch
) -> None:
    """Put the pinned file into the folder ``into``, under its own name.

    What is on its way stays in ``downloads``: an interrupted run resumes there.
    """
    url, digest = pin.where["url"], pin.identity["model"]
    if not (isinstance(url, str) and isinstance(digest, list)):
        raise SourceError("the lock file has a `url` pin that is not one of ours")
    sha256 = str(digest[0])
    arrived = contained(downloads, downloads / sha256)
    size = pin.about.get("size")
    if not (arrived.is_file() and cache.sha256_of(arrived, progress) == sha256):
        download(
            url,
            arrived,
            sha256=sha256,
            size=size if isinstance(size, int) else None,
            progress=progress,
        )
    with writing(into, purpose=file_name(url)):
        arrived.replace(contained(into, into / file_name(url)))


def download(
    url: str,
    into: Path,
    *,
    sha256: str | None,
    size: int | None,
    progress: Watch,
    token: str = "",
) -> str:
    """Download ``url`` to the file ``into`` and return its SHA-256.

    It is hashed while it arrives, over several connections where digest and size are
    known.  Resumes from ``<into>.part`` where the server can and the digest is known
    (an unknown file could have changed in between).  Raises SourceError, AuthError,
    and StoreError where the disk is full.
    """
    refuse_address(url)
    into.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    part = into.with_name(f"{into.name}.part")
    if sha256 is None:
        part.unlink(missing_ok=True)
    start = partial(
        Transfer, url, part, sha256 is not None, size, progress, token=token
    )
    with writing(into.parent, purpose=file_name(url), needed=size):
        found = transferred(start, sha256)
        if sha256 is not None and found != sha256:
            part.unlink()
            raise SourceError(
                f"`{shown(url)}` is not the pinned file: sha256 is {found}, "
                f"expected {sha256}",
                hint="if the new file is wanted, correct `sha256` and lock again",
            )
        part.replace(into)
        sync_folder(into.parent)
    return found


def size_of(url: str) -> int | None:
    """Size in bytes that the server states, or ``None``; raises SourceError."""
    refuse_address(url)
    with new_client() as client, translated(url):
        answer = client.head(url, headers={"Accept-Encoding": "identity"})
        if answer.status_code in (401, 403, 404, 410):
            refuse_status(answer, url)
        stated = answer.headers.get("content-length", "")
        return int(stated) if answer.is_success and stated.isdigit() else None
