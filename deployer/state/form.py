"""The state as JSON, there and back."""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from itertools import pairwise
from typing import TypeVar

from deployer.artefacts.json_files import (
    FormError,
    Item,
    NewerError,
    Upgrade,
    members_of,
    parse,
    text_of,
)
from deployer.errors import StateError
from deployer.planning.resources import Kind
from deployer.planning.state import VERSION, Begun, Loose, Record, Release, State
from deployer.stack.name_forms import ADDRESS, KEY, STACK, WORD, is_path

_Word = TypeVar("_Word", bound=StrEnum)

_UPGRADES: Sequence[Upgrade] = (
    # 2 knows which stack file a state belongs to; the next apply writes it down.
    lambda members: {**members, "file": ""},
    # 3 knows the machine that servers run on; the next apply writes it down.
    lambda members: {**members, "host": "", "machine": ""},
)


def to_json(state: State) -> str:
    """The one text of a state; equal states have equal texts.

    Raises ValueError for NaN and infinity, which JSON does not know.
    """
    return text_of(VERSION, members_of(state))


def from_json(text: bytes | str, place: str) -> State:
    """The state that a text holds; ``place`` names it in messages.

    Raises StateError.  For a newer version it has a hint; for a damaged text it has
    none, as only who keeps the text knows where another copy lies.
    """
    try:
        state = _state(parse(text).versioned(VERSION, _UPGRADES))
        _verify(state)
    except NewerError as error:
        raise StateError(
            f"`{place}` was written by a newer deployer "
            f"(state version {error.version}, this one reads {VERSION})",
            hint="upgrade deployer",
        ) from error
    except FormError as error:
        raise StateError(f"`{place}` is damaged: {error}") from error
    return state


def is_newer(text: bytes) -> bool:
    """Return whether only a newer deployer reads a text."""
    try:
        parse(text).versioned(VERSION, _UPGRADES)
    except NewerError:
        return True
    except FormError:
        return False
    return False


def _state(item: Item) -> State:
    found = item.of_class(State)
    promoting = found["promoting"]
    return State(
        stack=found["stack"].named(STACK, "the name of a stack"),
        engine=found["engine"].named(WORD, "the name of an engine"),
        lineage=found["lineage"].named(KEY, "letters and digits"),
        serial=found["serial"].count(),
        live=_records(found["live"]),
        made=_records(found["made"]),
        loose=tuple(loose_in(entry) for entry in found["loose"].entries()),
        promoting=None if promoting.value is None else release_in(promoting),
        releases=tuple(release_in(entry) for entry in found["releases"].entries()),
        released=found["released"].count(),
        file=file_in(found["file"]),
        host=found["host"].text(),
        machine=found["machine"].text(),
    )


def file_in(item: Item) -> str:
    """The path that an item holds, or nothing; raises FormError."""
    if (text := item.text()) and not is_path(text):
        raise FormError(f"`{item.path}` holds a control character")
    return text


def release_in(item: Item) -> Release:
    """The release that an item holds; raises FormError."""
    found = item.of_class(Release)
    return Release(
        number=found["number"].count(),
        at=found["at"].text(),
        cause=found["cause"].text(),
        records=_records(found["records"]),
        gates=tuple(entry.flat() for entry in found["gates"].entries()),
    )


def loose_in(item: Item) -> Loose:
    """The loose thing that an item holds; raises FormError."""
    found = item.of_class(Loose)
    return Loose(word_in(Begun, found["begun"]), record_in(found["record"]))


def _records(item: Item) -> Mapping[str, Record]:
    records = {address: record_in(entry) for address, entry in item.mapping().items()}
    for address, record in records.items():
        if record.address != address:
            raise FormError(f"`{item.path}` holds `{record.address}` under `{address}`")
    # The text sorts by name; everything else goes by the order of making.
    return {a: r for kind in Kind for a, r in records.items() if r.kind is kind}


def record_in(item: Item) -> Record:
    """The record that an item holds; raises FormError."""
    found = item.of_class(Record)
    return Record(
        address=address_in(found["address"]),
        kind=word_in(Kind, found["kind"]),
        key=key_in(found["key"]),
        fields=found["fields"].flat(),
        needs=needs_in(found["needs"]),
        spec=found["spec"].flat(),
        outputs=found["outputs"].flat(),
    )


def address_in(item: Item) -> str:
    """The address of a resource: it begins with a stack, and names folders."""
    return item.named(ADDRESS, "the address of a resource")


def key_in(item: Item) -> str:
    """The key of a resource: it names folders; raises FormError."""
    return item.named(KEY, "the key of a resource")


def needs_in(item: Item) -> Mapping[str, str]:
    """The keys of what a resource is made from, by kind; raises FormError."""
    needs = {kind: key_in(key) for kind, key in item.mapping().items()}
    if strange := sorted(needs.keys() - set(Kind)):
        raise FormError(f"`{item.path}` has an unknown key `{strange[0]}`")
    return needs


def word_in(words: type[_Word], item: Item) -> _Word:
    """The one of the words that an item holds; raises FormError."""
    text = item.text()
    try:
        return words(text)
    except ValueError as error:
        raise FormError(
            f"`{item.path}` is `{text}`, expected one of {', '.join(words)}"
        ) from error


def _verify(state: State) -> None:
    """Refuse to work on a state that no sequence of steps leads to."""
    numbers = [release.number for release in state.releases]
    if any(later <= earlier for earlier, later in pairwise(numbers)):
        raise FormError("the numbers of `releases` do not grow")
    if numbers and state.released < numbers[-1]:
        raise FormError(f"`released` is {state.released}, below the newest release")
