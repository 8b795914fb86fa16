"""A plan as a file: what was agreed to, and what that was made from.

A file of a plan never says what to do.  An apply plans again, from the stack and the
state that it trusts, and refuses unless that comes to what the file holds, or less.
So a plan file from a stranger can make an apply stop, and nothing else.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import deployer
from deployer.artefacts import lock_file
from deployer.artefacts.json_files import (
    FormError,
    NewerError,
    decoded,
    parse,
    text_of,
    versioned,
)
from deployer.diagnostics import Place
from deployer.errors import StalePlanError, UsageError
from deployer.llama.catalogue import catalogue_digest
from deployer.planning.plan import Plan, Reason, make_plan
from deployer.planning.resources import LOCK, StackFile, digest
from deployer.show.text import show
from deployer.spelling import harmless
from deployer.stack.fields.values import Flat, JsonValue
from deployer.system.files import guarded, open_regular, replace_file
from deployer.usecases.context.settings import Options
from deployer.usecases.plan import Planned

VERSION = 2
"""Version of the form; a newer one is refused."""

FORM = "deployer plan"
SUFFIX = ".plan"

_HEAD = 8192
"""Bytes in which the form of a plan file is found."""
_LARGEST = 16 * 2**20
"""Bytes; a plan has a few thousand, and a stranger's file may be a trap."""


@dataclass(frozen=True, slots=True)
class Bound:
    """The inputs of a plan: where one of these differs, it is stale."""

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

    file: StackFile
    """The stack, as it was typed."""
    bound: Bound
    plan: Plan
    places: Mapping[str, Place]
    notes: tuple[str, ...]
    form: Annotated[str, re.compile(FORM), f"`{FORM}`"] = FORM


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
        raise UsageError(f"`{path}` is too large for a saved plan")
    return from_json(content, str(path))


def to_json(saved: SavedPlan) -> str:
    """The one text of a plan; equal plans have equal texts."""
    return text_of(VERSION, saved)


def _second(saved: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """Bring version 1 to 2: a plan says whether a release was rolled back."""
    match saved.get("plan"):
        case dict(plan):
            return {**saved, "plan": {**plan, "rolled_back": 0}}
        case _:
            return saved


def from_json(content: bytes | str, place: str) -> SavedPlan:
    """The plan that a text holds; ``place`` names it in messages.

    Raises UsageError.
    """
    again = "plan again with `deployer plan STACK --out FILE`"
    try:
        return decoded(SavedPlan, versioned(parse(content), VERSION, (_second,)))
    except NewerError as error:
        raise UsageError(
            f"`{place}` was written by a newer deployer "
            f"(plan version {error.version}, this version reads {VERSION})",
            hint=f"upgrade deployer, or {again}",
        ) from error
    except FormError as error:
        what = f"`{place}` is not a saved plan: {error}"
        raise UsageError(what, hint=again) from error


_MOST = 4
"""Fields that a message names."""


def save(planned: Planned, stack_file: Path, options: Options, out: Path) -> None:
    """Keep a plan in a file; raises UsageError where it cannot be written."""
    if planned.without_state:
        raise UsageError(
            "a plan made without the state cannot be saved",
            hint="leave out `--out` or `--without-state`",
        )
    if out.is_file() and not is_plan_file(out):
        raise UsageError(
            f"`{out}` exists and is not a saved plan",
            hint="give another name to `--out`",
        )
    bound = _bound(planned, stack_file, options)
    kept = SavedPlan(
        str(stack_file), bound, planned.plan, planned.places, planned.notes
    )
    write(out, kept)


def stack_of(saved: SavedPlan) -> Path:
    """The stack that a plan names; raises UsageError where it leads out of here.

    A plan file may be a stranger's: which stack it is for, outside of this folder,
    is said by who applies it.
    """
    named = Path(saved.file)
    try:
        inside = (Path.cwd() / named).resolve().is_relative_to(Path.cwd().resolve())
    except (OSError, RuntimeError):  # too long, or a loop of links
        inside = False
    if named.is_absolute() or not inside:
        raise UsageError(
            f"the plan is for a stack outside of this folder: `{show(saved.file)}`",
            hint="name the stack before it: `deployer apply STACK PLANFILE`",
        )
    return named


def held_to(saved: SavedPlan, planned: Planned, stack_file: Path) -> Planned:
    """Return what may be done: what was planned then, or less.

    Raises StalePlanError, which says what moved since.
    """
    options = Options(engine=saved.bound.engine or None)
    today = _bound(planned, stack_file, options)
    agreed = {drift.address for drift in saved.plan.drift}
    seen = tuple(drift for drift in planned.plan.drift if drift.address in agreed)
    made = make_plan(planned.prepared.graph, planned.state, drift=seen)
    if moved := [*_moved(saved, today, made)] or [*_more(saved.plan, made)]:
        raise StalePlanError(
            f"the plan is stale: {'; '.join(moved)}",
            hint=f"plan again: `deployer plan {stack_file} --out FILE`",
        )
    left = [it for it in planned.plan.drift if it.address not in agreed]
    told = (f"drift since the plan is ignored: {it.detail}" for it in left)
    return planned._replace(plan=made, notes=(*planned.notes, *map(harmless, told)))


def _bound(planned: Planned, stack_file: Path, options: Options) -> Bound:
    facts = planned.facts or lock_file.read(lock_file.lock_path(stack_file))
    return Bound(
        deployer=deployer.__version__,
        engine=options.engine or "",
        stack=digest(_said(planned.plan)),
        lock=lock_file.digest_of(facts),
        catalogue=catalogue_digest(),
    )


def _said(plan: Plan) -> JsonValue:
    """All that the stack says, by resource and field."""
    return {
        change.address: _written(change.after.fields)
        for change in plan.changes
        if change.after is not None
    }


def _written(fields: Flat) -> JsonValue:
    return {p: value for p, value in fields.items() if not p.startswith(LOCK)}


def _moved(saved: SavedPlan, today: Bound, made: Plan) -> Iterator[str]:
    """Yield what is not as it was, in words."""
    then, before = saved.bound, saved.plan
    if (before.stack, before.engine) != (made.stack, made.engine):
        yield (
            f"it is for `{show(before.stack)}` on {show(before.engine)}, not for"
            f" `{made.stack}` on {made.engine}"
        )
        return
    yield from _moved_state(before, made)
    if then.stack != today.stack:
        yield from _moved_fields(before, made)
    if then.lock != today.lock:
        yield "the lock file, or what the stack resolves to, changed"
    if then.catalogue != today.catalogue:
        yield "the catalogue of llama-server's options changed"
    if then.deployer != today.deployer:
        yield f"deployer was {show(then.deployer)} and is {today.deployer}"


def _moved_state(before: Plan, made: Plan) -> Iterator[str]:
    if before.lineage != made.lineage:
        yield (
            "the state was created again"
            if before.lineage
            else "there was no state then"
        )
    elif before.serial != made.serial:
        yield f"the state was at serial {before.serial} and is at {made.serial}"


def _moved_fields(before: Plan, made: Plan) -> Iterator[str]:
    then, today = _all_fields(before), _all_fields(made)
    paths = sorted(then.keys() | today.keys())
    changed = [p for p in paths if then.get(p) != today.get(p)]
    for path in changed[:_MOST]:
        shown = f"{show(then.get(path))} → {show(today.get(path))}"
        yield f"`{show(path)}` {shown}"
    if not changed or len(changed) > _MOST:
        yield "the stack changed"


def _all_fields(plan: Plan) -> dict[str, JsonValue]:
    found: dict[str, JsonValue] = {}
    for change in plan.changes:
        if change.after is not None:
            found |= {p: v for p, v in change.after.fields.items() if p[:5] != LOCK}
    return found


def _more(before: Plan, made: Plan) -> Iterator[str]:
    """Yield what would be done beyond the plan."""
    agreed = {change.address: change for change in before.changes}
    for change in made.changes:
        then = agreed.get(change.address)
        if then is None or change.action > then.action:
            yield f"`{change.address}` would change more than planned"
        elif _key(change.after) != _key(then.after):
            yield f"`{change.address}` would become something other than planned"
        elif extra := set(map(_cause, change.reasons)) - set(map(_cause, then.reasons)):
            paths = ", ".join(f"`{path}`" for _, path in sorted(extra))
            yield f"`{change.address}` would be changed for other reasons: {paths}"
    if any(loose not in before.unfinished for loose in made.unfinished):
        yield "an earlier run left resources that the plan did not know"


def _cause(reason: Reason) -> tuple[str, str]:
    return (reason.cause.value, reason.path)


def _key(node: object) -> str:
    return str(getattr(node, "key", ""))
