"""The work of an apply for a plan: fetch, compile, ask for a key."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from deployer.artefacts.store import STORED, Store
from deployer.engines.registry import ENGINES
from deployer.errors import DeployerError
from deployer.planning.plan import Action, Change
from deployer.planning.resources import VARIABLES, Kind, Node
from deployer.show.text import IN_STORE
from deployer.stack.fields.values import keys_of, show_bytes, show_seconds
from deployer.usecases.context.settings import Settings

if TYPE_CHECKING:
    from deployer.usecases.plan import Planned

_CORE_SECONDS = 14 * 60
"""One core compiles llama-server for processors so long; measured on two of them."""


def prospects(planned: "Planned", settings: Settings) -> Mapping[str, str]:
    """Return what making each artefact of a plan means on this machine, by address."""
    if ENGINES[planned.plan.engine].abilities.remote:
        return {}
    drifted = {it.address for it in planned.plan.drift}
    made = (c for c in planned.plan.changes if c.kind in STORED and _is_made(c))
    made = (c for c in made if c.address not in drifted)
    return {it.address: _of(it.after, settings.store) for it in made if it.after}


def _is_made(change: Change) -> bool:
    return change.action in (Action.CREATE, Action.REPLACE) and not change.ready


def _of(node: Node, store: Store) -> str:
    kind = STORED[node.kind]
    if store.has(kind, node.key):
        return IN_STORE
    if node.kind is Kind.SNAPSHOT:
        return "captured on this machine"
    source = str(node.spec.get("source", ""))
    match node.spec.get("about"):
        case {"size": int(size)}:
            fetching = "copy" if source == "path" else "download"
            parts = [f"{fetching} {show_bytes(size)}"]
        case _:
            parts = [] if source in ("path", "source-path") else ["download"]
    if node.kind is Kind.BUILD and source.startswith("source-"):
        parts.append(f"compile, {_compiling(node, store)}")
    said = ", ".join(parts) or "made from files of this machine"
    match node.spec.get("about"):
        case {"skipped": dict(skipped)} if skipped:
            why = "; ".join(f"`{it}` not: {text}" for it, text in skipped.items())
            return f"{said}, from `{source.removeprefix('source-')}` ({why})"
        case _:
            return said


def _compiling(node: Node, store: Store) -> str:
    """Return how long a build takes: measured last time, else estimated from cores."""
    if node.fields.get("llama_cpp.cuda"):
        return "which takes long for CUDA"
    measured = [
        entry.about["seconds"]
        for entry in store.entries()
        if entry.kind == STORED[Kind.BUILD] and "seconds" in entry.about
    ]
    match measured:
        case [*_, int(seconds)]:
            return f"about {show_seconds(seconds)} as last time"
        case _:
            cores = len(os.sched_getaffinity(0))
            minutes = max(1, round(_CORE_SECONDS / cores / 60))
            return f"about {minutes} min on {cores} cores (estimated)"


def needed(planned: "Planned", settings: Settings, file: Path) -> Iterator[str]:
    """Yield what an apply of this plan lacks, or writes beside the state."""
    if planned.facts is not None:
        from deployer.artefacts.lock_file import lock_path  # noqa: PLC0415 - imports the model

        yield f"apply writes the lock file {lock_path(file)}"
    server = planned.plan.change(Kind.SERVER)
    if server is None or server.after is None or not _is_made(server):
        return
    if ENGINES[planned.plan.engine].abilities.remote:
        return
    for name in dict.fromkeys(_variables(server.after)):
        try:
            key = settings.keys(file.parent.absolute()).get(name)
        except DeployerError as error:
            yield f"apply needs environment variable `{name}`: {error.message}"
            return
        if not key:
            yield f"environment variable `{name}` is not set: apply needs it"


def _variables(server: Node) -> Iterator[str]:
    """Yield the variables with the keys of a server, and with secrets it is given."""
    for reference in keys_of(server.fields).values():
        if "env" in reference:
            yield reference["env"]
    given = server.spec.get(VARIABLES)
    for value in given.values() if isinstance(given, dict) else ():
        if isinstance(value, dict):
            yield str(value["env"])
