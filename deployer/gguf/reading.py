"""Facts of the weights of a stack, from files here or files behind an address."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from functools import partial
from pathlib import Path

from deployer.artefacts.sources.client import Flow, Ranges, opened, shown
from deployer.gguf.facts import (
    Facts,
    Model,
    NoModelError,
    Projector,
    model_of,
    projector_of,
)
from deployer.gguf.header import Header, read_header
from deployer.gguf.stream import REMOTE_BUDGET, Fetch, HeaderError, Stream, local

Opens = Callable[[], AbstractContextManager[Stream]]

FIRST_PART = 64 * 1024
"""What the keys that size a model lie in, and more."""
_PIECE = 256 * 1024
"""Taken at a time of an answer that is still arriving."""


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
