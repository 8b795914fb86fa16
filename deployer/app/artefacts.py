"""Artefacts apart from a deployment: fetching them, and listing the store."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from deployer import lockfile
from deployer.app.planning import Options, prepare
from deployer.app.settings import Settings
from deployer.core.events import Say
from deployer.core.render.words import show
from deployer.core.resources import Kind


@dataclass(frozen=True, slots=True)
class Stored:
    """One artefact of the store."""

    kind: str
    key: str
    size: int
    """Bytes."""
    created: str
    """UTC, ISO 8601."""
    what: str
    sound: bool
    """Every file is there with the recorded size."""


def fetch(
    stack_file: Path, settings: Settings, engine: str | None, say: Say, *, locked: bool
) -> Mapping[str, str]:
    """Put build and weights of a stack into the store, side by side.

    Returns where each lies, by kind.
    """
    options = Options(engine=engine, locked=locked)
    prepared, facts = prepare(stack_file, settings, options, say)
    if facts is not None:
        lockfile.write(lockfile.lock_path(stack_file), facts, prepared.name)
    made_by = settings.engine(prepared.engine, stack_file)
    nodes = [
        node
        for node in prepared.graph.values()
        if node.kind in (Kind.BUILD, Kind.WEIGHTS)
    ]
    with ThreadPoolExecutor(max_workers=len(nodes)) as pool:
        outputs = pool.map(lambda node: made_by.stage(node, {}, say), nodes)
        done = zip(nodes, outputs, strict=True)
        return {node.kind.value: str(found.get("path")) for node, found in done}


def stored(settings: Settings) -> tuple[Stored, ...]:
    """Everything in the store, oldest first."""
    return tuple(
        Stored(
            entry.kind,
            entry.key,
            entry.size,
            entry.created.isoformat(timespec="seconds"),
            show(entry.about.get("name")),
            sound=not entry.problems(),
        )
        for entry in settings.store.entries()
    )
