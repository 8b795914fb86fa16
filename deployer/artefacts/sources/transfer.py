"""A download on its way: over any number of connections, hashed while it arrives.

What arrives early waits in memory, at most `CONNECTIONS` parts of it; so a file is
written, and hashed, from its first byte to its last, and what an interrupted run leaves
is the beginning of it, without a gap.

The first answer says how large the file is; a server that cannot serve parts is told
by it, and nothing else of the file is read.
"""

import hashlib
import ipaddress
import os
import re
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from queue import SimpleQueue
from socket import EAI_NONAME, gaierror
from threading import Event, Thread
from typing import TYPE_CHECKING, BinaryIO, TypeAlias
from urllib.parse import unquote, urljoin, urlsplit

from deployer.artefacts.sources.files import (
    DigestCache,
    ensure_room,
    sync_folder,
    writing,
)
from deployer.errors import AuthError, SourceError, UnreachableError
from deployer.planning.facts import Pin
from deployer.planning.progress import Progress, Watch
from deployer.stack.addresses import is_metadata
from deployer.stack.fields.values import JsonValue
from deployer.system.files import contained

if TYPE_CHECKING:
    import httpx2
if TYPE_CHECKING:
    import httpx2


_SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf$")
_NUMBER = re.compile("(0x[0-9a-f]*|[0-9]+)")
_WEB_PAGE = re.compile(rb"\s*<(!doctype html|html|\?xml)", re.IGNORECASE)


def refuse_address(url: str) -> None:
    """Raise SourceError where ``url`` is not safe to fetch or to write down."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise SourceError(
            f"`{shown(url)}` is not an address", hint="write `https://host/file.gguf`"
        ) from None
    if parts.username or parts.password:
        raise SourceError(
            f"`{shown(url)}` carries a user name or password",
            hint="lock files are shared: use an address without credentials",
        )
    if is_metadata(parts.hostname or ""):
        raise SourceError(
            f"`{shown(url)}` is where clouds give machines their credentials",
            hint="no file of a model is there",
        )
    if parts.scheme == "https" and parts.hostname:
        return
    if parts.scheme == "http" and _is_loopback(parts.hostname or ""):
        return
    raise SourceError(
        f"`{shown(url)}` is not an https address",
        hint="use https; plain http is for this machine only",
    )


def refuse_way(asked: str, led_to: str) -> None:
    """Raise SourceError where a server may not lead from one address to the other.

    From https on to plain http, or from far away to what only this machine or its
    network reaches: nobody who writes a stack can see that coming.
    """
    refuse_address(led_to)
    here, there = urlsplit(asked), urlsplit(led_to)
    down = here.scheme == "https" and there.scheme != "https"
    if down or _nearness(there.hostname or "") > _nearness(here.hostname or ""):
        raise SourceError(
            f"`{shown(asked)}` leads on to `{shown(led_to)}`, which is refused",
            hint="from https to https only, and never to this machine or network:"
            " name the address itself if you trust it",
        )


def shown(url: str) -> str:
    """The address without credentials and query, which may hold secrets."""
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:  # brackets without an address, a port beyond all ports
        return "an address that cannot be read"
    host = parts.hostname or ""
    return f"{parts.scheme}://{host}{port}{parts.path}"


def file_name(url: str) -> str:
    """The last part of the path; raises SourceError where there is none."""
    name = PurePosixPath(unquote(urlsplit(url).path)).name
    if not name or name.startswith(".") or "\0" in name:
        raise SourceError(f"`{shown(url)}` does not end in a file name")
    return name


def refuse_status(answer: "httpx2.Response", url: str) -> None:
    """Raise for an answer that holds nothing of the file."""
    status = answer.status_code
    if status in (200, 206):
        return
    if status in (408, 429) or status >= 500:
        raise CutOffError(f"the server answered {status}")
    if status in (401, 403):
        raise AuthError(
            f"`{shown(url)}` needs a login (HTTP {status})",
            hint="use an address that needs no login, or download it and use `path:`",
        )
    raise SourceError(
        f"`{shown(url)}` cannot be downloaded (HTTP {status})",
        hint="check the address" if status in (404, 410) else "",
    )


def refuse_content(answer: "httpx2.Response", url: str, block: bytes) -> None:
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


def other_size(url: str, size: int, pinned: int) -> SourceError:
    """The error for a file that changed on its server."""
    return SourceError(
        f"`{shown(url)}` has {size} bytes, pinned were {pinned}",
        hint="the file changed on the server: lock again to take the new one",
    )


class CutOffError(Exception):
    """The connection ended early, or the server asked to come back later."""


@contextmanager
def translated(url: str) -> Iterator[None]:
    """Turn what the client library raises into a SourceError."""
    import httpx2  # noqa: PLC0415 - only a download pays for it

    try:
        yield
    except CutOffError as error:
        raise SourceError(
            f"`{shown(url)}` could not be downloaded: {error}",
            hint="run the same command again: it carries on where it stopped",
        ) from error
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        raise SourceError(
            f"`{shown(url)}` could not be reached: {reason_of(error)}",
            hint="check the address and the network",
        ) from error


def new_client() -> "httpx2.Client":
    """A client that goes to safe addresses only, redirects included."""
    import httpx2  # noqa: PLC0415 - only a download pays for it

    def refuse_hop(request: httpx2.Request) -> None:
        refuse_address(str(request.url))

    def refuse_redirect(answer: httpx2.Response) -> None:
        if answer.has_redirect_location:
            asked = str(answer.request.url)
            refuse_way(asked, urljoin(asked, answer.headers["location"]))

    return httpx2.Client(
        follow_redirects=True,
        timeout=httpx2.Timeout(60.0, connect=15.0),
        event_hooks={"request": [refuse_hop], "response": [refuse_redirect]},
        headers={"User-Agent": "deployer"},
    )


def reason_of(error: Exception) -> str:
    """Return what a library says of its error, or the name of it."""
    return str(error) or type(error).__name__


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _nearness(host: str) -> int:
    """How near a name says that it is: 0 the world, 1 this network, 2 this machine."""
    host = host.lower().rstrip(".").partition("%")[0]
    if host == "localhost" or host.endswith(".localhost"):
        return 2
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        # `127.1`, `0x7f000001`, `2130706433`: the resolver takes them for addresses.
        return 2 if _NUMBER.fullmatch(host.rpartition(".")[2]) else 0
    mapped = getattr(address, "ipv4_mapped", None) or address
    if mapped.is_loopback or mapped.is_unspecified:
        return 2
    return 0 if mapped.is_global else 1


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
        """The name of the file in progress and errors."""
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
            raise CutOffError("the redirected address has expired")
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
    """Return whether enough is left for parts, and a digest is pinned to check them."""
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
        if transfer.done == 0 and _has_no_address(error):
            raise UnreachableError(
                f"`{shown(place)}` could not be reached: {reason_of(error)}",
                hint="check the address and the network",
            ) from error
        raise CutOffError(reason_of(error)) from error
    except httpx2.RemoteProtocolError as error:
        raise CutOffError("the server closed the connection") from error


def _has_no_address(error: BaseException | None) -> bool:
    """Return whether a name is known to no server: asking again will not help."""
    while error is not None:
        if isinstance(error, gaierror) and error.errno == EAI_NONAME:
            return True
        error = error.__cause__ or error.__context__
    return False


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
    """Pin the file behind ``url``, of a split model all of its parts.

    Without ``sha256`` the file is downloaded to learn it, and stays in
    ``downloads`` under its digest, where `fetch` finds it; the ``cache`` remembers
    that it was hashed.  ``sha256`` is that of the first part: the others are learned.
    Raises SourceError.
    """
    refuse_address(url)
    digests: list[JsonValue] = []
    sizes: list[int | None] = []
    places = split_urls(url)
    for place in places:
        known = sha256 if place == places[0] else None
        if known is None:
            arriving = downloads / f"{hashlib.sha256(place.encode()).hexdigest()}.new"
            known = download(place, arriving, sha256=None, size=None, progress=progress)
            sizes.append(arriving.stat().st_size)
            arriving.replace(downloads / known)
            cache.remember(downloads / known, known)
        else:
            sizes.append(size_of(place))
        digests.append(known)
    return Pin(
        source="url",
        identity={"model": digests},
        where={"url": url},
        about={
            "model": [file_name(place) for place in places],
            "size": None if None in sizes else sum(filter(None, sizes)),
        },
    )


def split_urls(url: str) -> list[str]:
    """The addresses of all parts of a split model, in order; else the one.

    Raises SourceError for a part that is not the first: llama.cpp loads from it.
    """
    parts = urlsplit(url)
    found = _SHARD.search(parts.path)
    if found is None:
        return [url]
    if int(found["number"]) != 1:
        first = f"{found['stem']}-00001-of-{found['count']}.gguf"
        raise SourceError(
            f"`{file_name(url)}` is a part of a split model, not its first",
            hint=f"name the part that ends in `{PurePosixPath(first).name}`",
        )
    count = int(found["count"])
    paths = (
        f"{found['stem']}-{index:05}-of-{count:05}.gguf"
        for index in range(1, count + 1)
    )
    return [parts._replace(path=path).geturl() for path in paths]


def parts_of_url(pin: Pin) -> list[tuple[str, str]]:
    """Address and digest of each file of a pin; raises SourceError for none of ours."""
    url, digests = pin.where.get("url"), pin.identity.get("model")
    if not (isinstance(url, str) and isinstance(digests, list)):
        raise SourceError("the lock file has a `url` pin that is not one of ours")
    places = split_urls(url)
    if len(places) != len(digests):
        raise SourceError(f"the lock file pins {len(digests)} of {len(places)} parts")
    return list(zip(places, map(str, digests), strict=True))


def fetch(
    pin: Pin, into: Path, *, downloads: Path, cache: DigestCache, progress: Watch
) -> None:
    """Put the pinned file, or all parts of it, into the folder ``into``.

    What is on its way stays in ``downloads``: an interrupted run resumes there.
    """
    places, whole = parts_of_url(pin), pin.about.get("size")
    size = whole if isinstance(whole, int) and len(places) == 1 else None
    for url, sha256 in places:
        arrived = contained(downloads, downloads / sha256)
        if not (arrived.is_file() and cache.sha256_of(arrived, progress) == sha256):
            download(url, arrived, sha256=sha256, size=size, progress=progress)
    for url, sha256 in places:
        with writing(into, purpose=file_name(url)):
            arrived = contained(downloads, downloads / sha256)
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


@dataclass(slots=True)
class Ranges:
    """A file that is read in parts."""

    client: "httpx2.Client"
    url: str
    token: str = field(default="", repr=False)
    """Sent to the host of ``url`` alone."""
    size: int | None = None
    """Bytes of the file, once the first part was read."""

    def fetch(self, at: int, count: int) -> bytes:
        """The bytes from ``at`` on, fewer at the end; raises SourceError, AuthError."""
        with self.asked(at, count) as blocks:
            return b"".join(blocks)[:count]

    @contextmanager
    def asked(self, at: int, count: int) -> Iterator[Iterator[bytes]]:
        """The same, block by block as they arrive; who has enough may leave."""
        if self.size is not None and at >= self.size:
            yield iter(())
            return
        headers = {
            "Accept-Encoding": "identity",
            "Range": f"bytes={at}-{at + count - 1}",
        }
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        with (
            translated(self.url),
            self.client.stream("GET", self.url, headers=headers) as answer,
        ):
            if answer.status_code == 416 and at == 0:
                yield iter(())  # an empty file has no parts
                return
            self._check(answer, at)
            self._stay(str(answer.url))
            yield answer.iter_raw()

    def _check(self, answer: "httpx2.Response", at: int) -> None:
        """Raise for everything but the part that was asked for."""
        status, place = answer.status_code, shown(self.url)
        if status in (401, 403):
            raise AuthError(
                f"`{place}` needs a login (HTTP {status})",
                hint="for a hub set `HF_TOKEN`; else download it and name the file",
            )
        if status == 200:
            raise SourceError(
                f"the server of `{place}` does not serve parts of files",
                hint="download the file and name it instead",
            )
        stated = _STATED.fullmatch(answer.headers.get("content-range", ""))
        if status != 206 or stated is None or int(stated[1]) != at:
            raise SourceError(
                f"`{place}` cannot be read (HTTP {status})",
                hint="check the address" if status in (404, 410) else "",
            )
        if stated[3] != "*":
            self.size = int(stated[3])

    def _stay(self, url: str) -> None:
        """Ask where the first answer came from: redirects are followed once."""
        if urlsplit(url).netloc != urlsplit(self.url).netloc:
            self.token = ""
        self.url = url


@contextmanager
def opened(url: str, *, token: str = "") -> Iterator[Ranges]:
    """A file to read parts of; raises SourceError for an unsafe address."""
    refuse_address(url)
    with new_client() as client:
        yield Ranges(client, url, token)
