"""Facts of the weights of a stack, from files here or files behind an address."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path

from deployer.gguf.facts import (
    Facts,
    Model,
    NoModelError,
    Projector,
    model_of,
    projector_of,
)
from deployer.gguf.header import Header, read_header
from deployer.gguf.stream import REMOTE_BUDGET, HeaderError, Stream, local
from deployer.sources.client import shown
from deployer.sources.ranges import opened

Opens = Callable[[], AbstractContextManager[Stream]]

FIRST_PART = 64 * 1024
"""Read with the first request: the keys that size a model, and more."""
_LARGEST_PART = 2 * 1024 * 1024


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
    """A file behind an address: its first part is there, later ones grow."""
    with opened(url, token=token) as ranges:
        first = ranges.fetch(0, FIRST_PART)
        stream = Stream(
            ranges.fetch,
            ranges.size,
            piece=FIRST_PART * 4,
            largest=_LARGEST_PART,
            budget=REMOTE_BUDGET,
        )
        stream.begin_with(first)
        yield stream


@contextmanager
def _named(name: str) -> Iterator[None]:
    try:
        yield
    except (HeaderError, NoModelError) as error:
        raise type(error)(f"`{name}`: {error.message}", hint=error.hint) from error
