"""The slow way to a prepared stack: model, lock file, sources."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from deployer.artefacts import lock_file
from deployer.artefacts.sources.files import sha256_of
from deployer.engines.place import abilities_of, narrowed
from deployer.engines.registry import ENGINES, Abilities
from deployer.errors import UsageError
from deployer.llama.known.advisories import advisories_of
from deployer.planning.facts import Facts
from deployer.planning.graph import expand, judged_by, snapshot_notes
from deployer.planning.progress import Watch, unwatched
from deployer.stack import project_root
from deployer.stack.fields.model import Stack
from deployer.stack.fields.values import DECIDING, Flat
from deployer.stack.load import Loaded, load
from deployer.usecases.context.settings import Options, Settings
from deployer.usecases.reading.findings import (
    described,
    doubts,
    refusals_of,
    refuse,
    stated_options,
)
from deployer.usecases.reading.inputs import gate_files, look_around, look_at_all
from deployer.usecases.reading.pins import image_notes, resolved, stale
from deployer.usecases.reading.prepared import Prepared
from deployer.usecases.reading.weights import weighed, with_gates

_COLD = "write `snapshot: {enabled: auto}` to start cold where there is none"


@dataclass(frozen=True, slots=True)
class Read:
    """A stack that was read."""

    prepared: Prepared
    facts: Facts | None
    """New facts, to be written to the lock file."""


def read(
    stack_file: Path, settings: Settings, options: Options, watch: Watch | None = None
) -> Read:
    """Everything a plan needs of the files; see `deployer.usecases.plan.prepare`."""
    allowed = settings.allowed(stack_file)
    # What leads out is refused below, and not opened.
    out = project_root.leads_out(stack_file, allowed)
    seen = None if out else look_around(stack_file)
    loaded = load(
        stack_file, engine=options.engine, allowed=allowed, further=refusals_of
    )
    stack = loaded.stack
    abilities = narrowed(
        stack, abilities_of(stack.engine, settings.environment, settings.home)
    )
    _refuse_snapshot(stack, abilities)
    locked = lock_file.read(lock_file.lock_path(stack_file))
    further = advisories_of(settings.advisories)
    before = stated_options(loaded, stack_file, settings, locked)
    refuse(loaded, before, further, early=True)
    facts = resolved(loaded, stack_file, settings, locked, watch or unwatched, options)
    if not (same := lock_file.pins_same(locked, facts)) and options.locked:
        raise stale(stack_file, locked, facts.inputs, facts)
    takes = described(loaded, stack_file, settings, facts, watch or unwatched)
    notices = refuse(loaded, takes, further)
    graph = expand(stack, facts, abilities, takes.spellings)
    graph = judged_by(graph, _digests(gate_files(stack, stack_file, settings)))
    known = weighed(loaded, stack_file, settings, facts, graph, takes)
    graph, left = with_gates(graph, stack, known)
    prepared = Prepared(
        stack.name,
        stack.engine,
        graph,
        loaded.places,
        (*_notes(loaded, settings, abilities, facts), *_left(left), *known.notes),
        known.size.fits[0] if known.size else None,
        notices,
        look_at_all(seen, loaded, stack_file, settings, facts, graph),
    )
    return Read(prepared, None if same else facts)


def _notes(
    loaded: Loaded, settings: Settings, abilities: Abilities, facts: Facts
) -> Iterator[str]:
    """Yield what the user should know though it is not wrong."""
    yield from loaded.notes
    yield from snapshot_notes(loaded.stack, abilities)
    yield from image_notes(loaded.stack, facts)
    yield from doubts(loaded, facts, settings)
    yield from _not_passed_on(loaded.stack, settings.environment)


def _left(unproven: Sequence[str]) -> Iterator[str]:
    """Yield a note about what is offered and not asked for."""
    if unproven:
        hint = "" if all("(" in it for it in unproven) else "; add it to `gates`"
        yield f"not proven: {', '.join(unproven)}{hint}"


def _not_passed_on(stack: Stack, environment: Mapping[str, str]) -> Iterator[str]:
    """Yield the variables of the shell that would decide, and that no server sees."""
    if ENGINES[stack.engine].abilities.remote:
        return
    stated = {*((stack.server.env if stack.server else None) or {})}
    found = sorted(n for n in environment if n.startswith(DECIDING) and n not in stated)
    if found:
        names = ", ".join(f"`{name}`" for name in found)
        yield (
            f"set in this shell, and not passed on to llama-server: {names}; write"
            " `server.env` for what the stack needs"
        )


def _digests(files: Mapping[str, Path]) -> Flat:
    return {path: sha256_of(file, unwatched) for path, file in files.items()}


def _refuse_snapshot(stack: Stack, abilities: Abilities) -> None:
    wanted = stack.snapshot is not None and stack.snapshot.enabled is True
    if wanted and not abilities.snapshots:
        raise UsageError(
            f"snapshots do not work here: {abilities.why_not}",
            hint="; or ".join(filter(None, (abilities.hint, _COLD))),
        )
