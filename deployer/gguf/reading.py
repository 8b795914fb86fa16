"""Facts of the weights of a stack, from files here or files behind an address."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO

from deployer.artefacts.sources.transfer import Ranges, opened, shown
from deployer.gguf.facts import (
    Facts,
    Model,
    NoModelError,
    Part,
    Projector,
    model_of,
    part_of,
    projector_of,
)
from deployer.gguf.header import (
    REMOTE_BUDGET,
    Fetch,
    Header,
    HeaderError,
    Stream,
    local,
    read_header,
)

WINDOW = 8 * 1024 * 1024
"""Asked for at a time of a file whose end is not known to be near."""
_LARGE = 64 * 1024


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
    """Position of the next byte in hand, or arriving."""
    _end: int = 0
    """End of the requested range."""

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


Opens = Callable[[], AbstractContextManager[Stream]]

FIRST_PART = 64 * 1024
"""Bytes that contain the keys that size a model, with room to spare."""
_PIECE = 256 * 1024
"""Taken at a time of an answer that is still arriving."""
_FURTHEST = 64_000_000
"""Where a header may end in an archive, which cannot be read but from its beginning."""


def facts_of_files(model: Sequence[Path], mmproj: Path | None = None) -> Facts:
    """The facts of files of this machine; raises HeaderError, SourceError."""
    return Facts(
        model_in([(partial(local, path), path.name) for path in model]),
        None if mmproj is None else projector_in(partial(local, mmproj), mmproj.name),
    )


def facts_of_addresses(
    model: Sequence[str], mmproj: str | None = None, *, token: str = ""
) -> Facts:
    """The facts of files behind addresses; raises HeaderError, SourceError."""

    def opens(url: str) -> tuple[Opens, str]:
        return partial(remote, url, token=token), shown(url)

    return Facts(
        model_in([opens(url) for url in model]),
        None if mmproj is None else projector_in(*opens(mmproj)),
    )


def facts_of_stream(name: str, stream: IO[bytes], size: int) -> Facts:
    """The facts of a model whose first bytes arrive; raises HeaderError."""
    return Facts(model_in([(partial(_arriving, stream, size), name)]), None)


def part_in_stream(role: str, name: str, stream: IO[bytes], size: int) -> Part:
    """The weights of a role whose first bytes arrive; raises HeaderError."""
    return _part_in(role, [(partial(_arriving, stream, size), name)])


@contextmanager
def _arriving(file: IO[bytes], size: int) -> Iterator[Stream]:
    def fetch(at: int, count: int) -> bytes:
        if at > _FURTHEST:  # all before it would be fetched and unpacked
            return b""
        file.seek(at)
        return file.read(count)

    yield Stream(fetch, size, piece=_PIECE, largest=_PIECE * 4, budget=REMOTE_BUDGET)


def part_in_files(role: str, files: Sequence[Path]) -> Part:
    """The weights of a role in files here; raises HeaderError, NoModelError."""
    return _part_in(role, [(partial(local, path), path.name) for path in files])


def part_in_addresses(role: str, urls: Sequence[str], *, token: str = "") -> Part:
    """The same behind addresses; raises SourceError as well."""
    opens = [(partial(remote, url, token=token), shown(url)) for url in urls]
    return _part_in(role, opens)


def _part_in(role: str, parts: Sequence[tuple[Opens, str]]) -> Part:
    headers = [header_in(opens, name) for opens, name in parts]
    with _named(parts[0][1]):
        return part_of(role, headers)


def model_in(parts: Sequence[tuple[Opens, str]]) -> Model:
    """The model in the parts of a file, each with the name to tell it by."""
    headers = [header_in(opens, name) for opens, name in parts]
    with _named(parts[0][1]):
        return model_of(headers)


def projector_in(opens: Opens, name: str) -> Projector:
    """The projector in a file."""
    header = header_in(opens, name)
    with _named(name):
        return projector_of(header)


def header_in(
    opens: Opens, name: str, read: Callable[[Stream], Header] = read_header
) -> Header:
    """The header of one file, read whole or with ``read``; errors name the file."""
    with _named(name), opens() as stream:
        return read(stream)


@contextmanager
def remote(url: str, *, token: str = "") -> Iterator[Stream]:
    """A file behind an address: a request for 8 MiB, hung up on where the header ends.

    A header that goes on takes another one, up to the budget.
    """
    with opened(url, token=token) as ranges, closing(Flow(ranges, REMOTE_BUDGET)) as it:
        first = it.fetch(0, FIRST_PART)
        yield _stream(it.fetch, ranges, first)


@contextmanager
def beginning(url: str, *, token: str = "") -> Iterator[Stream]:
    """The same where its first part will do: a request for that, and more if not."""
    with opened(url, token=token) as ranges:
        first = ranges.fetch(0, FIRST_PART)
        yield _stream(ranges.fetch, ranges, first)


def _stream(fetch: Fetch, ranges: Ranges, first: bytes) -> Stream:
    stream = Stream(
        fetch, ranges.size, piece=_PIECE, largest=_PIECE * 4, budget=REMOTE_BUDGET
    )
    stream.begin_with(first)
    return stream


@contextmanager
def _named(name: str) -> Iterator[None]:
    try:
        yield
    except (HeaderError, NoModelError) as error:
        raise type(error)(f"`{name}`: {error.message}", hint=error.hint) from error
