"""Addresses that are safe to ask, the client that asks them, and its errors as ours.

The first answer says how large the file is; a server that cannot serve parts is told
by it, and nothing else of the file is read.
"""

import ipaddress
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import unquote, urljoin, urlsplit

from deployer.errors import AuthError, SourceError
from deployer.stack.addresses import is_metadata

if TYPE_CHECKING:
    import httpx2
if TYPE_CHECKING:
    import httpx2


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
            f"`{shown(url)}` is not open to everybody (HTTP {status})",
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


WINDOW = 8 * 1024 * 1024
"""Asked for at a time of a file whose end is not known to be near."""
_LARGE = 64 * 1024
_STATED = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")


@dataclass(slots=True)
class Ranges:
    """A file that is read in parts."""

    client: "httpx2.Client"
    url: str
    token: str = field(default="", repr=False)
    """Sent to the host of ``url`` alone."""
    size: int | None = None
    """Of the file, once the first part was read."""

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
                f"`{place}` is not open to everybody (HTTP {status})",
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


@dataclass(slots=True)
class Flow:
    """A file that is read forwards out of few answers, as far as somebody wants."""

    ranges: Ranges
    limit: int
    """Bytes that are taken at most; large pieces that nobody looks at do not count."""
    _answer: ExitStack = field(default_factory=ExitStack)
    _blocks: Iterator[bytes] = field(default_factory=lambda: iter(()))
    _held: bytearray = field(default_factory=bytearray)
    _at: int = 0
    """Of the next byte that is held, or arrives."""
    _end: int = 0
    """Of what was asked for."""

    def fetch(self, at: int, count: int) -> bytes:
        """The bytes from ``at`` on, fewer at the end; raises SourceError, AuthError."""
        found = b""
        while len(found) < count and self._reach(at + len(found)):
            taken = self._take(count - len(found))
            found += taken
            if not taken:
                break
        return found

    def close(self) -> None:
        """Hang up: what nobody waits for any more is not received."""
        self._answer.close()

    def _reach(self, at: int) -> bool:
        """Go to a place, by another request if need be; false past the limit."""
        if not self._at <= at < self._end:
            window = min(WINDOW, self.limit)
            if window <= 0:
                return False
            self._answer.close()
            asked = self.ranges.asked(at, window)
            self._blocks = self._answer.enter_context(asked)
            self._held.clear()
            self._at, self._end = at, at + window
            self.limit -= window
        if (skipped := at - self._at) >= _LARGE:
            self.limit += skipped
        self._take(skipped)
        return True

    def _take(self, count: int) -> bytes:
        while len(self._held) < count and (block := next(self._blocks, b"")):
            self._held += block
        found = bytes(self._held[:count])
        del self._held[:count]
        self._at += len(found)
        return found


@contextmanager
def opened(url: str, *, token: str = "") -> Iterator[Ranges]:
    """A file to read parts of; raises SourceError for an unsafe address."""
    refuse_address(url)
    with new_client() as client:
        yield Ranges(client, url, token)
