"""Parts of a file over HTTP: a few requests on one connection, and no more than asked.

The first answer says how large the file is; a server that cannot serve parts is told
by it, and nothing else of the file is read.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from deployer.errors import AuthError, SourceError
from deployer.sources.client import new_client, refuse_address, shown, translated

if TYPE_CHECKING:
    import httpx2

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
    received: int = 0

    def fetch(self, at: int, count: int) -> bytes:
        """The bytes from ``at`` on, fewer at the end; raises SourceError, AuthError."""
        if self.size is not None and at >= self.size:
            return b""
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
                return b""  # an empty file has no parts
            self._check(answer, at)
            found = answer.read()[:count]
        self._stay(str(answer.url))
        self.received += len(found)
        return found

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


@contextmanager
def opened(url: str, *, token: str = "") -> Iterator[Ranges]:
    """A file to read parts of; raises SourceError for an unsafe address."""
    refuse_address(url)
    with new_client() as client:
        yield Ranges(client, url, token)
