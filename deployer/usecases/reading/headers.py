"""The headers of the weights: read out of the store once, and kept beside it.

Walking over the vocabulary of a model takes longer than the rest of a plan, and what
lies in the store does not change.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from deployer.artefacts.store import Entry, Store
from deployer.diagnostics import (
    Diagnostic,
    placed,
)
from deployer.errors import StackError
from deployer.gguf.facts import (
    Facts,
    Model,
    NoModelError,
    Part,
    Projector,
    from_json,
    part_from_json,
    to_json,
)
from deployer.planning.facts import HEADER, Pin
from deployer.planning.facts import Facts as Locked
from deployer.planning.resources import MODEL_ROLE, Graph
from deployer.stack.checks import (
    SOURCES,
)
from deployer.stack.fields.values import path_of
from deployer.stack.load import Loaded
from deployer.system.files import read, write
from deployer.usecases.reading.prepared import this_code

if TYPE_CHECKING:
    pass


def all_facts(locked: Locked, graph: Graph, store: Store) -> Facts | None:
    """Return what is known of all weights; None where the model is not there yet."""
    keys = {node.role: node.key for node in graph.values()}
    facts = weights_facts(locked.weights, keys[MODEL_ROLE], store)
    if facts is None:
        return None
    sizes: list[tuple[str, int]] = []
    for role, pin in locked.beside.items():
        match _part(role, pin, keys[role], store):
            case Projector() as projector:
                facts = replace(facts, projector=projector)
            case Model() as draft if role == "draft":
                facts = replace(facts, draft=draft)
            case part:
                stated = pin.about.get("size")
                size = part.size if part else stated
                sizes.append((role, size if isinstance(size, int) else 0))
    return replace(facts, beside=tuple(sizes))


def _part(role: str, pin: Pin, key: str, store: Store) -> Part | None:
    """Return what weights beside the model are; None where nobody knows yet."""
    known = part_from_json(pin.about.get(HEADER))
    if known is not None or (entry := store.find("weights", key)) is None:
        return known
    from deployer.gguf.reading import part_in_files  # noqa: PLC0415 - once for one

    names = sorted(name for name in entry.files if name.endswith(".gguf"))
    try:
        return part_in_files(role, [entry.path(name) for name in names])
    except NoModelError as error:
        error.field = path_of(role)
        raise


def weights_facts(pin: Pin, key: str, store: Store) -> Facts | None:
    """Return what is known of the weights; None where they are not there yet."""
    known = from_json(pin.about.get(HEADER))
    if known is not None or (entry := store.find("weights", key)) is None:
        return known
    folder, name = str(store.home / "cache" / "headers"), f"{key}.json"
    with suppress(OSError, ValueError, KeyError, TypeError):
        kept = json.loads(read(folder, name))
        facts = from_json(kept["facts"]) if kept["code"] == this_code() else None
        if facts is not None:
            return facts
    found = _in_files(pin, entry)
    if found is not None:
        with suppress(OSError):
            content = json.dumps({"code": this_code(), "facts": to_json(found)})
            write(folder, name, content.encode())
    return found


def _in_files(pin: Pin, entry: Entry) -> Facts | None:
    names = sorted(name for name in entry.files if name.endswith(".gguf"))
    mmproj = str(pin.about.get("mmproj") or "")
    model = [entry.path(name) for name in names if Path(name).name != mmproj]
    projector = [entry.path(name) for name in names if Path(name).name == mmproj]
    if not model:
        return None
    from deployer.gguf.reading import (  # noqa: PLC0415 - once for an artefact
        facts_of_files,
    )

    return facts_of_files(model, projector[0] if projector else None)


@contextmanager
def refused_models(loaded: Loaded) -> Iterator[None]:
    """Turn what is no model, or no projector, into a problem of the stack."""
    try:
        yield
    except NoModelError as error:
        model = loaded.stack.model
        named = ("file", "quant", *SOURCES)
        source = next(it for it in named if getattr(model, it) is not None)
        path = f"model.{source}" if error.field == "model" else error.field
        raise StackError(
            placed([Diagnostic(path, str(error), error.hint)], loaded.places)
        ) from error
