"""Everything that is recorded of stacks: states, runs, probes.  Nobody is asked."""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, is_dataclass, replace
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Final, TypeVar, cast

from deployer.errors import DeployerError, UsageError
from deployer.planning.costs import costs_of
from deployer.planning.plan import Plan, make_plan
from deployer.planning.resources import Kind
from deployer.planning.state import Release, State, node_of
from deployer.planning.verdict import Verdict
from deployer.show.overview import Cost, Overview, Run, Seen, is_measurable, verdict_of
from deployer.show.words import describe
from deployer.spelling import secrets_of, without_secrets
from deployer.stack.fields.values import JsonValue
from deployer.usecases.context.settings import Settings
from deployer.usecases.context.stack_files import name_in, stack_files, text_of
from deployer.usecases.history.runs import Ran, changes_in, remembered
from deployer.usecases.plan import refuse_other_file
from deployer.usecases.states import states_in
from deployer.usecases.watch import Probe, record_of
from deployer.usecases.watch import remembered as probes

T = TypeVar("T")

_AT_ONCE: Final = 16


def overviews(paths: Sequence[Path], settings: Settings) -> Iterator[Overview]:
    """One for each stack file, and for each state that no file asks for any more.

    What cannot be read says why.  Raises UsageError where there is no stack at all.
    """
    files = stack_files(paths)
    gone = [it for path in paths if path.is_dir() for it in _gone(path, settings)]
    if not files and not gone:
        raise UsageError(
            f"no stack in {', '.join(f'`{path}`' for path in paths)}",
            hint="stack files end in `.yaml`; `deployer init` writes one",
        )
    secrets = secrets_of(settings.environment)
    # A store that cannot be reached takes its time, for each stack anew.
    with ThreadPoolExecutor(max_workers=_AT_ONCE) as pool:
        for found in (*pool.map(partial(_overview, settings), files), *gone):
            yield _cleaned(found, secrets) if secrets else found


def _overview(settings: Settings, file: Path) -> Overview:
    name = name_in(text_of(file))
    if name is None:
        why = "cannot be read" if not text_of(file) else "names no stack"
        hint = f"`deployer validate {file}` says more"
        return Overview(file.stem, str(file), error=f"`{file}` {why}", hint=hint)
    return _read(name, file, settings)


def _read(name: str, file: Path, settings: Settings, note: str = "") -> Overview:
    """Return what is recorded under a name; an error is part of it."""
    notes = (note,) if note else ()
    try:
        state = settings.states(file, name).read()
        probed = tuple(_seen(file, name))
        if state is None:
            notes = (*notes, "never applied from here")
            return Overview(name, str(file), probes=probed, notes=notes)
        if not note:
            refuse_other_file(state, file)
        return _told(state, file, settings, probed, notes)
    except DeployerError as error:
        return Overview(name, str(file), error=error.message, hint=error.hint)
    except OSError as error:
        why = f"`{error.filename}`: {error.strerror}"
        return Overview(name, str(file), error=why)


def _gone(folder: Path, settings: Settings) -> Iterator[Overview]:
    """States of a folder that none of its files asks for."""
    asked = {name_in(text_of(file)) for file in stack_files((folder,))}
    try:
        names = states_in(folder, settings)
    except (DeployerError, OSError):
        return  # each stack of the folder says why
    for name in names:
        if name not in asked:
            note = "no stack file asks for it any more"
            yield _read(name, folder / f"{name}.yaml", settings, note)


def _told(
    state: State,
    file: Path,
    settings: Settings,
    probed: tuple[Seen, ...],
    notes: tuple[str, ...],
) -> Overview:
    live = state.releases[-1].number if state.live and state.releases else None
    graph = {a: node_of(record) for a, record in state.live.items()}
    plan = make_plan(graph, state)
    made_of = ((it.kind.value, describe(it)) for it in plan.changes)
    unfinished = "an earlier run did not end; the next `deployer apply` settles it"
    loose = state.promoting is not None or state.loose
    return Overview(
        stack=state.stack,
        file=str(file),
        engine=state.engine,
        serial=state.serial,
        live=live,
        made_of=tuple((kind, what) for kind, what in made_of if what),
        runs=tuple(_runs(state, live, remembered(settings.home, state))),
        probes=probed,
        cost=_cost(plan),
        notes=(*notes, unfinished) if loose else notes,
    )


def _runs(state: State, live: int | None, known: Sequence[Ran]) -> Iterator[Run]:
    """Newest first: releases of the state, and what the record knows beside them."""
    recorded = {ran.release: ran for ran in known}
    found = [
        *_releases(state, live, recorded),
        *(_ran(ran) for ran in known if _is_beside(state, ran)),
    ]
    yield from sorted(found, key=lambda run: (run.at, run.number or 0), reverse=True)


def _is_beside(state: State, ran: Ran) -> bool:
    return ran.release is None or state.release(ran.release) is None


def _releases(
    state: State, live: int | None, recorded: Mapping[int | None, Ran]
) -> Iterator[Run]:
    before: Release | None = None
    for release in state.releases:
        ran = recorded.get(release.number)
        changes = None if ran is None else ran.changes
        if ran is None and before is not None:
            changes = _between(state, before, release)
        yield Run(
            at=release.at,
            cause=release.cause,
            number=release.number,
            live=release.number == live,
            kept=True,
            held_back=False,
            changes=changes,
            used=() if ran is None else ran.used,
            verdicts=_verdicts(release.gates),
        )
        before = release


def _between(state: State, before: Release, after: Release) -> tuple[str, ...] | None:
    """Return what two releases differ in; None where one between them is not kept."""
    if after.number != before.number + 1:
        return None
    seen = State(state.stack, state.engine, state.lineage, live=before.records)
    graph = {a: node_of(record) for a, record in after.records.items()}
    return tuple(changes_in(make_plan(graph, seen)))


def _ran(ran: Ran) -> Run:
    return Run(
        at=ran.at,
        cause=ran.cause,
        number=ran.release,
        live=False,
        kept=False,
        held_back=ran.held_back,
        changes=ran.changes,
        used=ran.used,
        verdicts=_verdicts(ran.gates),
    )


def _verdicts(gates: Sequence[Mapping[str, JsonValue]]) -> tuple[Verdict, ...]:
    return tuple(one for gate in gates if (one := verdict_of(gate)) is not None)


def _seen(file: Path, name: str) -> Iterator[Seen]:
    """The probes of a record that are whole: anybody may have written in it."""
    for probe in probes(record_of(file, name)):
        match probe:
            case Probe(
                at=str(at),
                path=str(path),
                ok=bool(ok),
                ttft_seconds=(None | int() | float()) as ttft,
                limit_seconds=int() | float() as limit,
                because=str(because),
            ) if is_measurable(limit) and (ttft is None or is_measurable(ttft)):
                yield Seen(at, path, ok, ttft, limit, because)
            case _:
                continue


def _cost(plan: Plan) -> Cost | None:
    """None where nothing is billed by the hour, as far as the price table knows."""
    if plan.engine != "modal" or plan.change(Kind.SERVER) is None:
        return None
    try:
        found = costs_of(plan)
    except (KeyError, ValueError):
        return None  # a GPU that this version knows no price of
    return Cost(found.awake, found.always, found.prices.as_of)


def _cleaned(value: T, secrets: tuple[str, ...]) -> T:
    """The value without secrets in any of its texts."""
    found: object = value
    match value:
        case StrEnum():
            return value
        case str():
            found = without_secrets(value, secrets)
        case tuple():
            found = tuple(_cleaned(it, secrets) for it in value)
        case dict():
            found = {key: _cleaned(it, secrets) for key, it in value.items()}
        case _ if is_dataclass(value) and not isinstance(value, type):
            parts = ((it.name, getattr(value, it.name)) for it in fields(value))
            found = replace(value, **{n: _cleaned(it, secrets) for n, it in parts})
        case _:
            pass
    return cast("T", found)
