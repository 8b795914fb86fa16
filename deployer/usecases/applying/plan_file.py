"""Plans that are kept in a file, and applies that are held to them."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import deployer
from deployer.artefacts import lock_file
from deployer.errors import StalePlanError, UsageError
from deployer.llama.flags.catalogue import catalogue_digest
from deployer.planning.keys import digest
from deployer.planning.plan import Plan, Reason, make_plan
from deployer.planning.resources import LOCK
from deployer.show.words import show
from deployer.spelling import harmless
from deployer.stack.fields.values import Flat, JsonValue
from deployer.usecases.applying import saved_plan
from deployer.usecases.applying.saved_plan import Bound, SavedPlan
from deployer.usecases.context.options import Options
from deployer.usecases.plan import Planned

_MOST = 4
"""Fields that a message names."""


def save(planned: Planned, stack_file: Path, options: Options, out: Path) -> None:
    """Keep a plan in a file; raises UsageError where it cannot be written."""
    if planned.without_state:
        raise UsageError(
            "a plan that was made without the state of its stack fits none",
            hint="leave out `--out` or `--without-state`",
        )
    if out.is_file() and not saved_plan.is_plan_file(out):
        raise UsageError(
            f"`{out}` is there, and is no plan", hint="give another name to `--out`"
        )
    bound = _bound(planned, stack_file, options)
    kept = SavedPlan(
        str(stack_file), bound, planned.plan, planned.places, planned.notes
    )
    saved_plan.write(out, kept)


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
            hint=f"make it again: `deployer plan {stack_file} --out FILE`",
        )
    left = [it for it in planned.plan.drift if it.address not in agreed]
    told = (f"drift since the plan is left alone: {it.detail}" for it in left)
    return replace(planned, plan=made, notes=(*planned.notes, *map(harmless, told)))


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
        yield "the lock file, or what the stack resolves to, is another one"
    if then.catalogue != today.catalogue:
        yield "the catalogue of llama-server's options is another one"
    if then.deployer != today.deployer:
        yield f"deployer was {show(then.deployer)} and is {today.deployer}"


def _moved_state(before: Plan, made: Plan) -> Iterator[str]:
    if before.lineage != made.lineage:
        yield (
            "the state was begun anew" if before.lineage else "there was no state then"
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
        yield "the stack says something else"


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
            yield f"`{change.address}` would be changed further than planned"
        elif _key(change.after) != _key(then.after):
            yield f"`{change.address}` would become another thing than planned"
        elif extra := set(map(_cause, change.reasons)) - set(map(_cause, then.reasons)):
            paths = ", ".join(f"`{path}`" for _, path in sorted(extra))
            yield f"`{change.address}` would be changed for other reasons: {paths}"
    if any(loose not in before.unfinished for loose in made.unfinished):
        yield "an earlier run left things that were not known then"


def _cause(reason: Reason) -> tuple[str, str]:
    return (reason.cause.value, reason.path)


def _key(node: object) -> str:
    return str(getattr(node, "key", ""))
