"""Looking into GGUF files, and at what fits where: reads, changes nothing."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from deployer.artefacts import lock_file
from deployer.artefacts.sources import hub
from deployer.artefacts.sources.paths import parts_of
from deployer.artefacts.sources.transfer import shown
from deployer.engines.registry import ENGINES
from deployer.errors import SourceError, StateError, UsageError
from deployer.gguf.choices import Cell, Suggestion, matrix, suggestions
from deployer.gguf.facts import (
    PROJECTOR,
    Facts,
    Model,
    Projector,
    model_of,
    projector_of,
)
from deployer.gguf.header import Header, local, read_header, read_sizes
from deployer.gguf.reading import beginning, header_in, remote
from deployer.llama.known.tables import prices
from deployer.planning.events import Say, Talk
from deployer.planning.facts import Pin
from deployer.planning.graph import expand
from deployer.planning.plan import Fit
from deployer.planning.resources import Kind, Node
from deployer.planning.state import Record
from deployer.stack.fields.values import Flat, JsonValue
from deployer.stack.load import load
from deployer.usecases.context.settings import Options, Settings
from deployer.usecases.reading.findings import stated_options
from deployer.usecases.reading.memory import Sized
from deployer.usecases.reading.pins import resolved
from deployer.usecases.reading.weights import Weighed, weighed

_REFERENCE = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(:(?P<quant>[\w.-]+))?")
_STACKS = (".yaml", ".yml")


@dataclass(frozen=True, slots=True)
class Looked:
    """The content of one GGUF: a model, or a projector."""

    name: str
    thing: Model | Projector
    headers: tuple[Header, ...]
    """Headers of the parts; empty for facts of a lock file."""


@dataclass(frozen=True, slots=True)
class Fitted:
    """Where a stack fits."""

    size: Sized
    fits: tuple[Fit, ...]
    weighed: Weighed
    measured: "Measured | None" = None
    """None where no retained release was measured."""


@dataclass(frozen=True, slots=True)
class Measured:
    """Main memory of the newest retained release that the gate `memory` measured."""

    release: int
    taken: int
    """Bytes of the process, once its gates had asked it."""
    computed: int
    """Bytes that are computed for the start of the stack as it is now."""
    same: bool
    """Weights and options of the server are those of the stack as it is now."""


def look(
    named: str, settings: Settings, *, sizes_only: bool, say: Say
) -> tuple[Looked, ...]:
    """The model, and the projector if any, that a file, address, repo or stack names.

    Raises HeaderError for a broken file, SourceError where it cannot be read.
    """
    read = read_sizes if sizes_only else read_header
    path = Path(named)
    if path.suffix in _STACKS:
        return _of_stack(path, settings, say)
    if named.startswith(("https://", "http://")):
        opens = beginning if sizes_only else remote
        header = header_in(partial(opens, named), shown(named), read)
        return (_looked(named, (header,)),)
    if path.exists() or path.suffix == ".gguf":
        parts = parts_of(path) if not sizes_only else [path]
        headers = [header_in(partial(local, it), it.name, read) for it in parts]
        return (_looked(path.name, tuple(headers)),)
    return _of_repository(named, settings)


def fitted(
    stack_file: Path, settings: Settings, engine: str | None, say: Say
) -> Fitted:
    """Return the memory of a stack where it runs; raises UsageError if unknown.

    Headers are read from afar; weights whose source does not allow that are fetched.
    """
    known, server = _weighed(stack_file, settings, engine, say)
    if known.size is None:
        from deployer.usecases.artefacts import fetch  # noqa: PLC0415 - only without headers

        options = Options(engine=engine)
        say(
            Talk(
                "fit",
                "the source gives no headers alone, so the weights are fetched;"
                " apply finds them in the store",
            )
        )
        fetch(stack_file, settings, options, say, (Kind.WEIGHTS,), force=False)
        known, server = _weighed(stack_file, settings, engine, say)
    if known.size is None:
        raise UsageError(
            "the headers of these weights were not read yet",
            hint=f"`deployer fetch {stack_file}` fetches them",
        )
    fits = known.size.fits
    measured = _measured(stack_file, settings, server, fits[0])
    return Fitted(known.size, fits, known, measured)


def _measured(
    stack_file: Path, settings: Settings, server: Node, fit: Fit
) -> Measured | None:
    """Return what the newest release took that has a figure; None where none has."""
    try:
        state = settings.state(stack_file, server.address.partition("/")[0])
    except (StateError, SourceError):
        return None
    for release in reversed(() if state is None else state.releases):
        taken = next(filter(None, map(_process_bytes, release.gates)), 0)
        record = release.records.get(server.address)
        if taken and record is not None:
            computed = sum(size for _, size in fit.host or fit.parts)
            same = _decides(record) == _decides(server)
            return Measured(release.number, taken, computed, same)
    return None


def _process_bytes(verdict: Mapping[str, JsonValue]) -> int:
    """Return the memory of the process that a verdict measured; 0 for others."""
    match verdict:
        case {
            "gate": "memory",
            "figures": {"process_bytes": int(taken) | float(taken)},
        }:
            return int(taken)
        case _:
            return 0


def _decides(server: Node | Record) -> tuple[Flat, Flat]:
    """Return what decides the memory of a server: its options and its weights."""
    fields = {p: it for p, it in server.fields.items() if p.startswith("server.")}
    weights = {role: key for role, key in server.needs.items() if role != Kind.BUILD}
    return fields, {role: it for role, it in weights.items() if role != Kind.SNAPSHOT}


def choices(found: Fitted) -> tuple[Cell, ...]:
    """The table of GPUs, contexts and cache types for a stack."""
    _, machine = found.size.machines[0]
    size, count = found.size, max(1, machine.gpus)
    return matrix(size.facts, size.serving, prices().gpu, count=count)


def suggested(found: Fitted) -> tuple[Suggestion, ...]:
    """The cheapest machines that hold a stack, and the most of it that each holds."""
    size, (_, machine) = found.size, found.size.machines[0]
    return suggestions(size.facts, size.serving, machine, prices().gpu)


def _weighed(
    stack_file: Path, settings: Settings, engine: str | None, say: Say
) -> tuple[Weighed, Node]:
    """Return a stack held against its machines, and its server."""
    loaded = load(stack_file, engine=engine, allowed=settings.allowed(stack_file))
    locked = lock_file.read(lock_file.lock_path(stack_file))
    facts = resolved(loaded, stack_file, settings, locked, say)
    graph = expand(loaded.stack, facts, ENGINES[loaded.stack.engine].abilities)
    on = stated_options(loaded, stack_file, settings, facts)
    server = next(node for node in graph.values() if node.kind is Kind.SERVER)
    return weighed(loaded, stack_file, settings, facts, graph, on), server


def _of_stack(path: Path, settings: Settings, say: Say) -> tuple[Looked, ...]:
    facts = fitted(path, settings, None, say).size.facts
    return _both(path.name, facts)


def _of_repository(named: str, settings: Settings) -> tuple[Looked, ...]:
    reference = _REFERENCE.fullmatch(named)
    if reference is None:
        raise UsageError(
            f"`{named[:80]}` is no file, address, repository or stack",
            hint="write `model.gguf`, `https://…`, `owner/name:Q4_K_M` or `stack.yaml`",
        )
    choice = hub.Choice(repo=reference["repo"], quant=reference["quant"])
    pin = hub.pin(choice, environment=settings.environment)
    token = hub.token_of(settings.environment)
    headers = tuple(
        header_in(partial(remote, url, token=token), shown(url))
        for url in _addresses(pin, settings)
    )
    return (_looked(named, headers),)


def _addresses(pin: Pin, settings: Settings) -> list[str]:
    names = pin.where["model"]
    if not isinstance(names, list):
        raise SourceError("the hub pins no file")
    return [hub.address(pin, str(name), settings.environment) for name in names]


def _looked(name: str, headers: tuple[Header, ...]) -> Looked:
    is_projector = headers[0].architecture == PROJECTOR
    thing = projector_of(headers[0]) if is_projector else model_of(headers)
    return Looked(name, thing, headers)


def _both(name: str, facts: Facts) -> tuple[Looked, ...]:
    model = Looked(name, facts.model, ())
    if facts.projector is None:
        return (model,)
    return model, Looked(f"{name}: mmproj", facts.projector, ())
