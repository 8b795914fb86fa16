"""A download on its way: what has arrived, and where the rest is asked for."""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO
from urllib.parse import urlsplit

from deployer.artefacts.sources.client import (
    CutOffError,
    file_name,
    refuse_status,
)
from deployer.planning.progress import Progress, Watch

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
