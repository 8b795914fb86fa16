"""One file over HTTP: resumed, verified while it streams, published in one rename."""

import hashlib
import ipaddress
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, BinaryIO
from urllib.parse import unquote, urlsplit

from deployer.core.facts import Pin
from deployer.core.progress import Progress, Watch
from deployer.errors import AuthError, SourceError
from deployer.sources.digests import sha256_of
from deployer.sources.space import ensure_room, sync_folder, writing

if TYPE_CHECKING:
    import httpx2

_BLOCK = 1024 * 1024
_ATTEMPTS = 5
_WEB_PAGE = re.compile(rb"\s*<(!doctype html|html|\?xml)", re.IGNORECASE)


def pin(url: str, *, sha256: str | None, downloads: Path, progress: Watch) -> Pin:
    """Pin the file behind ``url``.

    Without ``sha256`` the file is downloaded to learn it, and stays in
    ``downloads`` under its digest, where `fetch` finds it.  Raises SourceError.
    """
    refuse_address(url)
    name = file_name(url)
    if sha256 is None:
        arriving = downloads / f"{hashlib.sha256(url.encode()).hexdigest()}.new"
        sha256 = download(url, arriving, sha256=None, size=None, progress=progress)
        size: int | None = arriving.stat().st_size
        arriving.replace(downloads / sha256)
    else:
        size = size_of(url)
    return Pin(
        source="url",
        identity={"model": [sha256]},
        where={"url": url},
        about={"model": [name], "size": size},
    )


def fetch(pin: Pin, into: Path, *, downloads: Path, progress: Watch) -> None:
    """Put the pinned file into the folder ``into``, under its own name.

    What is on its way stays in ``downloads``: an interrupted run resumes there.
    """
    url, digest = pin.where["url"], pin.identity["model"]
    if not (isinstance(url, str) and isinstance(digest, list)):
        raise SourceError("the lock file has a `url` pin that is not one of ours")
    sha256 = str(digest[0])
    arrived = downloads / sha256
    size = pin.about.get("size")
    if not (arrived.is_file() and sha256_of(arrived, progress) == sha256):
        download(
            url,
            arrived,
            sha256=sha256,
            size=size if isinstance(size, int) else None,
            progress=progress,
        )
    with writing(into, purpose=file_name(url)):
        arrived.replace(into / file_name(url))


def download(
    url: str, into: Path, *, sha256: str | None, size: int | None, progress: Watch
) -> str:
    """Download ``url`` to the file ``into`` and return its SHA-256.

    Resumes from ``<into>.part`` where the server can and the digest is known (an
    unknown file could have changed in between).  Raises SourceError, AuthError,
    and StoreError where the disk is full.
    """
    refuse_address(url)
    into.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    part = into.with_name(f"{into.name}.part")
    if sha256 is None:
        part.unlink(missing_ok=True)
    start = partial(
        _Transfer,
        url=url,
        part=part,
        pinned=sha256 is not None,
        pinned_size=size,
        progress=progress,
    )
    with writing(into.parent, purpose=file_name(url), needed=size):
        found = _transferred(start, sha256)
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
            _refuse_status(answer, url)
        stated = answer.headers.get("content-length", "")
        return int(stated) if answer.is_success and stated.isdigit() else None


def refuse_address(url: str) -> None:
    """Raise SourceError where ``url`` is not safe to fetch or to write down."""
    parts = urlsplit(url)
    if parts.username or parts.password:
        raise SourceError(
            f"`{shown(url)}` carries a user name or password",
            hint="lock files are shared: use an address without credentials",
        )
    if parts.scheme == "https" and parts.hostname:
        return
    if parts.scheme == "http" and _is_loopback(parts.hostname or ""):
        return
    raise SourceError(
        f"`{shown(url)}` is not an https address",
        hint="use https; plain http is for this machine only",
    )


def shown(url: str) -> str:
    """The address without credentials and query, which may hold secrets."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{host}{port}{parts.path}"


def file_name(url: str) -> str:
    """The last part of the path; raises SourceError where there is none."""
    name = PurePosixPath(unquote(urlsplit(url).path)).name
    if not name or name.startswith(".") or "\0" in name:
        raise SourceError(f"`{shown(url)}` does not end in a file name")
    return name


@dataclass(slots=True)
class _Transfer:
    """A download on its way, over any number of connections."""

    url: str
    part: Path
    pinned: bool
    pinned_size: int | None
    progress: Watch
    size: int | None = field(init=False)
    """Pinned, or learned from the server."""
    done: int = 0
    validator: str = ""
    digest: "hashlib._Hash" = field(default_factory=hashlib.sha256)

    def __post_init__(self) -> None:
        self.size = self.pinned_size

    @property
    def name(self) -> str:
        return file_name(self.url)

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


class _InterruptedError(Exception):
    """The connection ended early, or the server asked to come back later."""


def _transferred(start: "partial[_Transfer]", sha256: str | None) -> str:
    """The digest of the part file once everything is in it."""
    transfer = start()
    resumed = _resume(transfer)
    _run(transfer)
    if resumed and transfer.digest.hexdigest() != sha256:
        transfer.part.unlink()  # what was there before belonged to another file
        transfer = start()
        _run(transfer)
    return transfer.digest.hexdigest()


def _resume(transfer: _Transfer) -> bool:
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


def _run(transfer: _Transfer) -> None:
    """Connect until everything is there; patience starts anew with each megabyte."""
    import stamina  # noqa: PLC0415 - only a download pays for it

    stamina.instrumentation.set_on_retry_hooks([])  # else it logs over the progress

    if transfer.size is not None and transfer.done == transfer.size:
        return
    with new_client() as client, translated(transfer.url):
        attempts = stamina.retry_context(
            on=_InterruptedError, attempts=_ATTEMPTS, timeout=None, wait_initial=0.5
        )
        for attempt in attempts:
            with attempt:
                _connect_while_it_moves(client, transfer)


def _connect_while_it_moves(client: "httpx2.Client", transfer: _Transfer) -> None:
    while True:
        before = transfer.done
        try:
            return _receive(client, transfer)
        except _InterruptedError:
            if transfer.done - before < _BLOCK:
                raise


def _receive(client: "httpx2.Client", transfer: _Transfer) -> None:
    """One connection: ask for the rest, and append it."""
    import httpx2  # noqa: PLC0415 - only a download pays for it

    headers = {"Accept-Encoding": "identity"}
    if transfer.done and (transfer.pinned or transfer.validator):
        headers["Range"] = f"bytes={transfer.done}-"
        if transfer.validator:
            headers["If-Range"] = transfer.validator
    try:
        with (
            client.stream("GET", transfer.url, headers=headers) as answer,
            transfer.part.open("ab") as stream,
        ):
            _append(answer, transfer, stream)
    except (httpx2.NetworkError, httpx2.TimeoutException) as error:
        raise _InterruptedError(_reason(error)) from error
    except httpx2.RemoteProtocolError as error:
        raise _InterruptedError("the server closed the connection") from error


def _append(answer: "httpx2.Response", transfer: _Transfer, stream: BinaryIO) -> None:
    if answer.status_code == 416:
        if answer.headers.get("content-range") == f"bytes */{transfer.done}":
            return  # all of it was here already; the digest has the last word
        transfer.restart(stream)
        raise _InterruptedError("the server has no more than what is already here")
    _refuse_status(answer, transfer.url)
    whole = answer.status_code == 200
    if not whole and not _continues(answer, transfer):
        transfer.restart(stream)
        raise _InterruptedError("the server sent another part than asked for")
    if whole:
        transfer.restart(stream)
        _learn(answer, transfer)
    for block in answer.iter_raw():
        if transfer.done == 0:
            _refuse_content(answer, transfer.url, block)
        transfer.write(stream, block)
    stream.flush()
    os.fsync(stream.fileno())
    if transfer.size is not None and transfer.done < transfer.size:
        raise _InterruptedError(
            f"the connection ended after {transfer.done} of {transfer.size} bytes"
        )


def _learn(answer: "httpx2.Response", transfer: _Transfer) -> None:
    """Take size and validator from the first answer; check that there is room."""
    etag = answer.headers.get("etag", "")
    transfer.validator = "" if etag.startswith("W/") else etag
    stated = answer.headers.get("content-length", "")
    if not stated.isdigit():
        return
    size = int(stated)
    if transfer.size is not None and size != transfer.size:
        raise SourceError(
            f"`{shown(transfer.url)}` has {size} bytes, pinned were {transfer.size}",
            hint="the file changed on the server: lock again to take the new one",
        )
    ensure_room(transfer.part.parent, size, purpose=transfer.name)
    transfer.size = size


def _continues(answer: "httpx2.Response", transfer: _Transfer) -> bool:
    stated = answer.headers.get("content-range", "")
    found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", stated)
    if found is None or int(found[1]) != transfer.done:
        return False
    if transfer.size is None and found[2] != "*":
        transfer.size = int(found[2])
    return True


def _refuse_status(answer: "httpx2.Response", url: str) -> None:
    status = answer.status_code
    if status in (200, 206):
        return
    if status in (408, 429) or status >= 500:
        raise _InterruptedError(f"the server answered {status}")
    if status in (401, 403):
        raise AuthError(
            f"`{shown(url)}` is not open to everybody (HTTP {status})",
            hint="use an address that needs no login, or download it and use `path:`",
        )
    raise SourceError(
        f"`{shown(url)}` cannot be downloaded (HTTP {status})",
        hint="check the address" if status in (404, 410) else "",
    )


def _refuse_content(answer: "httpx2.Response", url: str, block: bytes) -> None:
    """Refuse a web page, and what calls itself GGUF and is not."""
    if answer.headers.get("content-encoding", "identity") != "identity":
        raise SourceError(f"`{shown(url)}` is sent compressed, asked was the file")
    kind = answer.headers.get("content-type", "").lower()
    if kind.startswith("text/html") or _WEB_PAGE.match(block):
        raise SourceError(
            f"`{shown(url)}` is a web page, not a model file",
            hint="use the download link: on hubs `/resolve/` instead of `/blob/`",
        )
    if file_name(url).endswith(".gguf") and not b"GGUF".startswith(block[:4]):
        raise SourceError(
            f"`{shown(url)}` is not a GGUF file: it begins with {block[:4]!r}",
        )


@contextmanager
def translated(url: str) -> Iterator[None]:
    """Turn what the client library raises into a SourceError."""
    import httpx2  # noqa: PLC0415 - only a download pays for it

    try:
        yield
    except _InterruptedError as error:
        raise SourceError(
            f"`{shown(url)}` could not be downloaded: {error}",
            hint="run the same command again: it carries on where it stopped",
        ) from error
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        raise SourceError(
            f"`{shown(url)}` could not be reached: {_reason(error)}",
            hint="check the address and the network",
        ) from error


def new_client() -> "httpx2.Client":
    """A client that goes to safe addresses only, redirects included."""
    import httpx2  # noqa: PLC0415 - only a download pays for it

    def refuse_hop(request: httpx2.Request) -> None:
        refuse_address(str(request.url))

    return httpx2.Client(
        follow_redirects=True,
        timeout=httpx2.Timeout(60.0, connect=15.0),
        event_hooks={"request": [refuse_hop]},
        headers={"User-Agent": "deployer"},
    )


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
