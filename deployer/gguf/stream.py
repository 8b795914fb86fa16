"""Bytes of a header from anywhere, read forwards in few and growing pieces.

A reader never holds more than one piece and what it is asked for, never asks beyond
its budget, and refuses a length that the file cannot hold before allocating for it.
"""

import os
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from deployer.errors import SourceError
from deployer.system.files import open_regular

Fetch = Callable[[int, int], bytes]
"""The bytes from an offset on: as many as asked for, fewer at the end of the file."""

FIRST = 4096
"""The keys that size a model lie in the first 4 KiB of every file seen so far."""
LOCAL_BUDGET = 256 * 1024 * 1024
REMOTE_BUDGET = 16_000_000
"""Most that is read over the network of a file of any size."""


class HeaderError(SourceError):
    """The file is not GGUF, or its header is broken: what, and at which byte."""


class BeyondBudgetError(HeaderError):
    """The header goes on where nothing is read any more; what came before is right."""


@dataclass(slots=True)
class Stream:
    """A place in a file, and the piece around it that was read."""

    fetch: Fetch
    size: int | None
    """Of the whole file; None where nobody says."""
    piece: int = FIRST
    """Size of the next piece; it grows fourfold up to ``largest``."""
    largest: int = 1024 * 1024
    budget: int = LOCAL_BUDGET
    at: int = 0
    read: int = 0
    """Bytes asked for so far."""
    _start: int = 0
    _held: bytes = field(default=b"", repr=False)

    def take(self, count: int, what: str) -> bytes:
        """The next ``count`` bytes."""
        begin = self.need(count, what)
        self.at += count
        return self._held[begin : begin + count]

    def number(self, form: struct.Struct, what: str) -> int:
        """The next whole number."""
        begin = self.need(form.size, what)
        self.at += form.size
        found: int = form.unpack_from(self._held, begin)[0]
        return found

    def skip(self, count: int, what: str) -> None:
        """Go past bytes that nobody looks at; what lies ahead of them is not read."""
        self.refuse_beyond(count, what)
        self.at += count

    def need(self, count: int, what: str) -> int:
        """Hold the next ``count`` bytes; where in the piece they begin."""
        begin = self.at - self._start
        if begin >= 0 and begin + count <= len(self._held):
            return begin
        self.refuse_beyond(count, what)
        kept = self._held[begin:] if 0 <= begin <= len(self._held) else b""
        missing = count - len(kept)
        wanted = min(max(missing, self.piece), self._left(missing, what))
        self._held = kept + self.fetch(self.at + len(kept), wanted)
        self._start = self.at
        self.read += wanted
        self.piece = min(self.piece * 4, self.largest)
        if len(self._held) < count:
            self._refuse_more(what)
            raise self.broken(f"the file ends inside {what}")
        return 0

    def refuse_beyond(self, count: int, what: str) -> None:
        """Raise HeaderError where the file cannot hold ``count`` bytes more."""
        left = (1 << 62 if self.size is None else self.size) - self.at
        if count > left:
            raise self.broken(
                f"{what} takes {count} bytes, and the file has {left} left"
            )

    def begin_with(self, first: bytes) -> None:
        """Take the first piece from somebody who read it already."""
        self._held, self.read = first, len(first)

    def held(self) -> tuple[bytes, int]:
        """The piece in hand and where in it the next byte is; for tight loops."""
        return self._held, self.at - self._start

    def broken(self, what: str) -> HeaderError:
        """The error for what is wrong here."""
        return HeaderError(f"broken GGUF header at byte {self.at}: {what}")

    def _refuse_more(self, what: str) -> None:
        """Raise where the file goes on, and whoever reads it does not."""
        if self.size is not None and self._start + len(self._held) < self.size:
            raise BeyondBudgetError(f"{what} lies beyond what is read of a header")

    def _left(self, missing: int, what: str) -> int:
        left = self.budget - self.read
        if missing > left:
            raise BeyondBudgetError(
                f"{what} lies beyond the {self.budget} bytes that are read of a header"
            )
        return left


@contextmanager
def local(path: Path) -> Iterator[Stream]:
    """A file of this machine; raises SourceError where it cannot be read."""
    try:
        with open_regular(path) as opened:
            descriptor = opened.fileno()
            size = os.fstat(descriptor).st_size
            yield Stream(lambda at, count: os.pread(descriptor, count, at), size)
    except OSError as error:
        raise SourceError(f"`{path}` cannot be read: {error.strerror}") from error


def of_bytes(content: bytes) -> Stream:
    """Bytes in memory."""
    return Stream(lambda at, count: content[at : at + count], len(content))
