"""The state as JSON, there and back."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

from deployer.artefacts.json_files import (
    FormError,
    NewerError,
    Upgrade,
    decoded,
    parse,
    text_of,
    versioned,
)
from deployer.errors import StateError
from deployer.planning.resources import Kind
from deployer.planning.state import VERSION, Record, Release, State

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
    return text_of(VERSION, state)


def from_json(text: bytes | str, place: str) -> State:
    """The state that a text holds; ``place`` names it in messages.

    Raises StateError.  For a newer version it has a hint; for a damaged text it has
    none, as only who keeps the text knows where another copy lies.
    """
    try:
        found = versioned(parse(text), VERSION, _UPGRADES)
        state = _in_order(decoded(State, found))
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
        versioned(parse(text), VERSION, _UPGRADES)
    except NewerError:
        return True
    except FormError:
        return False
    return False


def _in_order(state: State) -> State:
    """Return the state with its records in the order of making, not of their names."""
    promoting = state.promoting
    return replace(
        state,
        live=_records("live", state.live),
        made=_records("made", state.made),
        promoting=promoting and _release("promoting", promoting),
        releases=tuple(
            _release(f"releases[{n}]", it) for n, it in enumerate(state.releases)
        ),
    )


def _release(path: str, release: Release) -> Release:
    return replace(release, records=_records(f"{path}.records", release.records))


def _records(path: str, records: Mapping[str, Record]) -> Mapping[str, Record]:
    for address, record in records.items():
        if record.address != address:
            raise FormError(f"`{path}` contains `{record.address}` under `{address}`")
    return {a: r for kind in Kind for a, r in records.items() if r.kind is kind}


def _verify(state: State) -> None:
    """Refuse to work on a state that no sequence of steps leads to."""
    numbers = [release.number for release in state.releases]
    if any(later <= earlier for earlier, later in pairwise(numbers)):
        raise FormError("the numbers of `releases` do not grow")
    if numbers and state.released < numbers[-1]:
        raise FormError(f"`released` is {state.released}, below the newest release")
