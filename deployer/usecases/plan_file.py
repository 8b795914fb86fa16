"""A plan as a file: what was agreed to, and what that was made from.

A file of a plan never says what to do.  An apply plans again, from the stack and the
state that it trusts, and refuses unless that comes to what the file holds, or less.
So a plan file from a stranger can make an apply stop, and nothing else.
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import deployer
from deployer.artefacts import lock_file
from deployer.artefacts.json_files import (
    FormError,
    NewerError,
    decoded,
    encoded,
    parse,
    text_of,
    versioned,
)
from deployer.diagnostics import Place
from deployer.errors import StalePlanError, UsageError
from deployer.llama.catalogue import catalogue_digest
from deployer.planning.plan import Action, Cause, Change, Plan, Reason, make_plan
from deployer.planning.resources import LOCK, StackFile, digest
from deployer.show.text import show
from deployer.spelling import harmless
from deployer.stack.fields.values import Flat, JsonValue
from deployer.system.files import guarded, open_regular, replace_file
from deployer.usecases.context.settings import Options
from deployer.usecases.plan import Planned

VERSION = 3
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
class Shown:
    """Where a plan was shown, for who checks that it was approved there."""

    commit: str = ""
    """The commit it was planned from; of a pull request its last one."""
    pull_request: str = ""
    run: str = ""
    """Address of the run of CI, with its attempt."""
    digest: str = ""
    """Digest of the comment that showed it (`show.markdown.digest_of`)."""


@dataclass(frozen=True, slots=True)
class SavedPlan:
    """A plan, and everything needed to show it and to hold an apply to it."""

    file: StackFile
    """The stack, as it was typed."""
    bound: Bound
    shown: Shown
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


def _third(saved: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """Bring version 2 to 3: a plan says where it was shown."""
    return {**saved, "shown": encoded(Shown())}


def from_json(content: bytes | str, place: str) -> SavedPlan:
    """The plan that a text holds; ``place`` names it in messages.

    Raises UsageError.
    """
    again = "plan again with `deployer plan STACK --out FILE`"
    try:
        return decoded(SavedPlan, versioned(parse(content), VERSION, (_second, _third)))
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


def save(
    planned: Planned, stack_file: Path, options: Options, out: Path, shown: Shown
) -> Path:
    """Save a plan in a file, or under the name of its stack in a folder.

    Raises UsageError where it cannot be written.
    """
    if planned.without_state:
        raise UsageError(
            "a plan made without the state cannot be saved",
            hint="leave out `--out` or `--without-state`",
        )
    if out.is_dir():  # `a/b` and `a_b` are two names
        out /= f"{quote(str(stack_file), safe='')}{SUFFIX}"
    if out.is_file() and not is_plan_file(out):
        raise UsageError(
            f"`{out}` exists and is not a saved plan",
            hint="give another name to `--out`",
        )
    bound = _bound(planned, stack_file, options)
    made = planned.plan
    kept = SavedPlan(str(stack_file), bound, shown, made, planned.places, planned.notes)
    write(out, kept)
    return out


def in_folder(folder: Path) -> tuple[SavedPlan, ...]:
    """Return every plan in a folder and the folders in it, by their names.

    Raises UsageError where one cannot be read.
    """
    if not folder.is_dir():
        raise UsageError(f"there is no folder `{folder}`")
    return tuple(read(path) for path in sorted(folder.rglob(f"*{SUFFIX}")))


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


def covered_by(
    approved: Sequence[SavedPlan], planned: Planned, stack_file: Path
) -> Planned:
    """Return a plan of which every change was approved in one of the saved plans.

    The state may have moved on since, by an earlier merge or a run that failed: what
    counts are the fields with their old and new values, and that no action is stronger.
    Raises StalePlanError, which says what was not approved.
    """
    made, mine = planned.plan, [it.plan for it in approved]
    if made.is_empty:
        return planned
    agreed = [it for it in mine if (it.stack, it.engine) == (made.stack, made.engine)]
    if more := tuple(_uncovered(made, agreed)):
        left = f" and {len(more) - _MOST} more" if len(more) > _MOST else ""
        raise StalePlanError(
            f"not approved: {'; '.join(more[:_MOST])}{left}",
            hint=f"`deployer plan {stack_file}` shows all of it; approve that, or"
            " change the stack",
        )
    note = f"approved in {', '.join(sorted(filter(None, map(_where, approved))))}"
    return planned._replace(notes=(*planned.notes, harmless(note)))


def _where(saved: SavedPlan) -> str:
    number = saved.shown.pull_request
    return f"pull request {number}" if number else ""


def _uncovered(made: Plan, agreed: Collection[Plan]) -> Iterator[str]:
    """Yield what of a plan is in none of others, in words."""
    known = [change for plan in agreed for change in plan.changes]
    for change in made.changes:
        then = [it for it in known if it.address == change.address]
        strongest = max((it.action for it in then), default=Action.KEEP)
        if change.action is Action.KEEP:
            continue
        causes = {_written_cause(reason) for it in then for reason in it.reasons}
        more = [it for it in change.reasons if _written_cause(it) not in causes]
        fields = [it for it in more if it.cause in (Cause.FIELD, Cause.LOCK)]
        for it in fields:
            yield f"`{show(it.path)}` {show(it.before)} → {show(it.after)}"
        if change.action > strongest or (more and not fields):
            what = change.action.name.lower()
            yield f"`{change.address}`: {what}"
        elif _is_new(change) and not any(_same_fields(change, it) for it in then):
            yield f"`{change.address}` would be created with other values than approved"
        for path in () if fields else _other_facts(change, then):
            yield f"`{path}` is another fact than approved"


def _written_cause(reason: Reason) -> tuple[str, str, str]:
    """A reason without the keys of what is needed, which follow from the state."""
    is_need = reason.cause is Cause.NEED
    values = "" if is_need else f"{reason.before!r} {reason.after!r}"
    return (reason.cause, reason.path, values)


def _other_facts(change: Change, then: Collection[Change]) -> Iterator[str]:
    """Yield facts of the lock file that a changed field brings, and that none saw."""
    before = {} if change.before is None else change.before.fields
    for path, value in (change.after.fields if change.after else {}).items():
        seen = (it.after.fields.get(path) for it in then if it.after is not None)
        if path.startswith(LOCK) and before.get(path) != value and value not in seen:
            yield path


def _is_new(change: Change) -> bool:
    return any(it.cause is Cause.NEW for it in change.reasons)


def _same_fields(one: Change, other: Change) -> bool:
    """Return whether two changes lead to the same values."""
    if one.after is None or other.after is None:
        return one.after is other.after
    return dict(one.after.fields) == dict(other.after.fields)


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
