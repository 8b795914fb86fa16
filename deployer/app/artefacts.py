"""Artefacts apart from a deployment: fetching them, and listing the store."""

import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from deployer import lockfile
from deployer.app.planning import Options, prepare
from deployer.app.roots import users
from deployer.app.settings import Settings
from deployer.core.events import Say
from deployer.core.render.words import show
from deployer.core.resources import Kind
from deployer.engines.modal import sweep
from deployer.engines.modal.drive import Account
from deployer.engines.modal.sweep import Left
from deployer.llama.compile import forget_work
from deployer.store import Kind as StoredKind


@dataclass(frozen=True, slots=True)
class Stored:
    """One artefact of the store."""

    kind: StoredKind
    key: str
    size: int
    """Bytes."""
    created: str
    """UTC, ISO 8601."""
    what: str
    sound: bool
    """Every file is there with the recorded size."""
    used_by: tuple[str, ...]
    """Stacks that have it live, keep it for a rollback, or are making it."""


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
    made_by.preflight(nodes)
    with ThreadPoolExecutor(max_workers=len(nodes)) as pool:
        outputs = pool.map(lambda node: made_by.stage(node, {}, say), nodes)
        done = zip(nodes, outputs, strict=True)
        return {node.kind.value: str(found.get("path")) for node, found in done}


def stored(settings: Settings) -> tuple[Stored, ...]:
    """Everything in the store, oldest first."""
    needed = users(settings)
    return tuple(
        Stored(
            entry.kind,
            entry.key,
            entry.size,
            entry.created.isoformat(timespec="seconds"),
            show(entry.about.get("name")),
            sound=not entry.problems(),
            used_by=needed.get(entry.key, ()),
        )
        for entry in settings.store.entries()
    )


def verified(settings: Settings) -> Mapping[str, tuple[str, ...]]:
    """What reading every byte of every artefact finds wrong, by kind and key."""
    store = settings.store
    return {
        f"{entry.kind} {entry.key[:12]}": tuple(store.verify(entry))
        for entry in store.entries()
    }


def unused(settings: Settings) -> tuple[Stored, ...]:
    """What no live and no kept release needs."""
    return tuple(entry for entry in stored(settings) if not entry.used_by)


def remove(settings: Settings, entries: Sequence[Stored]) -> None:
    """Remove artefacts from the store; a file of the user stays."""
    for entry in entries:
        settings.store.remove(entry.kind, entry.key)


def unused_on_modal(settings: Settings, environment: str | None) -> tuple[Left, ...]:
    """What the Volume of a Modal environment holds, and no release needs."""
    return sweep.unused(_account(settings, environment), users(settings))


def remove_on_modal(
    settings: Settings, environment: str | None, left: Sequence[Left]
) -> None:
    """Remove it."""
    sweep.remove(_account(settings, environment), left)


def _account(settings: Settings, environment: str | None) -> Account:
    return Account(settings.environment, environment)


def forget_leftovers(settings: Settings) -> None:
    """Remove what builds and downloads left to save the next one some work."""
    forget_work(settings.home / "work")
    shutil.rmtree(settings.store.downloads, ignore_errors=True)
