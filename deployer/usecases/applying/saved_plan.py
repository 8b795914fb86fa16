"""A plan as a file: what was agreed to, and what that was made from.

A file of a plan never says what to do.  An apply plans again, from the stack and the
state that it trusts, and refuses unless that comes to what the file holds, or less.
So a plan file from a stranger can make an apply stop, and nothing else.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from deployer.artefacts.disk import guarded, replace_file
from deployer.artefacts.json_text import (
    FormError,
    Item,
    NewerError,
    members_of,
    parse,
    text_of,
)
from deployer.diagnostics import Place
from deployer.errors import UsageError
from deployer.planning.plan import Action, Cause, Change, Drift, Plan, Reason
from deployer.planning.resources import Kind, Node
from deployer.stack.name_forms import KEY, STACK, WORD
from deployer.state.form import (
    address_in,
    file_in,
    key_in,
    loose_in,
    needs_in,
    record_in,
    release_in,
    word_in,
)
from deployer.system.regular_files import open_regular

VERSION = 1
"""Version of the form; a newer one is refused."""

FORM = "deployer plan"
SUFFIX = ".plan"

_HEAD = 8192
"""Bytes in which the form of a plan file is found."""
_LARGEST = 16 * 2**20
"""Bytes; a plan has a few thousand, and a stranger's file may be a trap."""


@dataclass(frozen=True, slots=True)
class Bound:
    """What a plan was made from: where one of these differs, it is stale."""

    deployer: str
    """Version of the program."""
    engine: str
    """``--engine``, where it was given; else empty."""
    stack: str
    """Digest of all that the stack says, whatever its comments and its order."""
    lock: str
    """Digest of the facts that the stack was resolved to."""
    catalogue: str
    """Digest of what this deployer knows of llama-server's options."""


@dataclass(frozen=True, slots=True)
class SavedPlan:
    """A plan, and everything needed to show it and to hold an apply to it."""

    file: str
    """The stack, as it was typed."""
    bound: Bound
    plan: Plan
    places: Mapping[str, Place]
    notes: tuple[str, ...]


def is_plan_file(path: Path) -> bool:
    """Return whether a file is a saved plan: by its ending, or by how it begins."""
    if path.suffix == SUFFIX:
        return True
    try:
        with open_regular(path) as stream:
            head = stream.read(_HEAD)
    except OSError:
        return False
    return head.lstrip().startswith(b"{") and f'"{FORM}"'.encode() in head


def write(path: Path, saved: SavedPlan) -> None:
    """Write a plan file, for its user alone; raises UsageError where that fails."""
    try:
        with guarded(path.parent):
            replace_file(path, to_json(saved).encode())
    except OSError as error:
        raise UsageError(f"cannot write `{path}`: {error.strerror}") from error


def read(path: Path) -> SavedPlan:
    """The plan in a file; raises UsageError where there is none, or a newer one."""
    try:
        with open_regular(path) as stream:
            content = stream.read(_LARGEST + 1)
    except OSError as error:
        raise UsageError(f"cannot read `{path}`: {error.strerror}") from error
    if len(content) > _LARGEST:
        raise UsageError(f"`{path}` is too large for a plan")
    return from_json(content, str(path))


def to_json(saved: SavedPlan) -> str:
    """The one text of a plan; equal plans have equal texts."""
    plan = {
        **members_of(saved.plan),
        "changes": [
            {
                **members_of(change),
                "reasons": [
                    {**members_of(reason), "calls_for": reason.calls_for.name.lower()}
                    for reason in change.reasons
                ],
            }
            for change in saved.plan.changes
        ],
    }
    return text_of(VERSION, {"form": FORM, **members_of(saved), "plan": plan})


def from_json(content: bytes | str, place: str) -> SavedPlan:
    """The plan that a text holds; ``place`` names it in messages.

    Raises UsageError.
    """
    again = "make it again with `deployer plan STACK --out FILE`"
    try:
        return _saved(parse(content).versioned(VERSION))
    except NewerError as error:
        raise UsageError(
            f"`{place}` was written by a newer deployer "
            f"(plan version {error.version}, this one reads {VERSION})",
            hint=f"upgrade deployer, or {again}",
        ) from error
    except FormError as error:
        raise UsageError(f"`{place}` is no plan: {error}", hint=again) from error


def _saved(item: Item) -> SavedPlan:
    found = item.members("form", *SavedPlan.__dataclass_fields__)
    if found["form"].text() != FORM:
        raise FormError(f"`form` is not `{FORM}`")
    bound = found["bound"].of_class(Bound)
    return SavedPlan(
        file=file_in(found["file"]),
        bound=Bound(**{name: entry.text() for name, entry in bound.items()}),
        plan=_plan(found["plan"]),
        places={path: _place(at) for path, at in found["places"].mapping().items()},
        notes=tuple(note.text() for note in found["notes"].entries()),
    )


def _plan(item: Item) -> Plan:
    found = item.of_class(Plan)
    resumes = found["resumes"]
    return Plan(
        stack=found["stack"].named(STACK, "the name of a stack"),
        engine=found["engine"].named(WORD, "the name of an engine"),
        lineage=_lineage(found["lineage"]),
        serial=found["serial"].count(),
        changes=tuple(_change(entry) for entry in found["changes"].entries()),
        gates=tuple(entry.text() for entry in found["gates"].entries()),
        unfinished=tuple(loose_in(entry) for entry in found["unfinished"].entries()),
        resumes=None if resumes.value is None else release_in(resumes),
        drift=tuple(_drift(entry) for entry in found["drift"].entries()),
    )


def _lineage(item: Item) -> str:
    """Empty where the plan was made before there was a state."""
    return item.text() and item.named(KEY, "letters and digits")


def _change(item: Item) -> Change:
    found = item.of_class(Change)
    before, after = found["before"], found["after"]
    return Change(
        address=address_in(found["address"]),
        kind=word_in(Kind, found["kind"]),
        reasons=tuple(_reason(entry) for entry in found["reasons"].entries()),
        before=None if before.value is None else record_in(before),
        after=None if after.value is None else _node(after),
        ready=found["ready"].truth(),
    )


def _reason(item: Item) -> Reason:
    found = item.of_class(Reason)
    return Reason(
        calls_for=_action(found["calls_for"]),
        cause=word_in(Cause, found["cause"]),
        path=found["path"].text(),
        before=found["before"].value,
        after=found["after"].value,
        detail=found["detail"].text(),
    )


def _node(item: Item) -> Node:
    found = item.of_class(Node)
    return Node(
        address=address_in(found["address"]),
        kind=word_in(Kind, found["kind"]),
        key=key_in(found["key"]),
        fields=found["fields"].flat(),
        needs=needs_in(found["needs"]),
        spec=found["spec"].flat(),
    )


def _drift(item: Item) -> Drift:
    found = item.of_class(Drift)
    return Drift(found["address"].text(), found["detail"].text())


def _place(item: Item) -> Place:
    found = item.of_class(Place)
    line, column = found["line"].count(), found["column"].count()
    return Place(found["file"].text(), line, column)


def _action(item: Item) -> Action:
    words = {action.name.lower(): action for action in Action}
    if (found := words.get(item.text())) is None:
        raise FormError(f"`{item.path}` is none of {', '.join(words)}")
    return found
