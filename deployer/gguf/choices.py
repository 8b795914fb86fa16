"""Alternatives: changes that make a model fit, and the table of GPUs and contexts."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from deployer.gguf.facts import Facts
from deployer.gguf.header import CACHE_BITS
from deployer.gguf.memory import Machine, Serving, fit_on
from deployer.planning.plan import Fit
from deployer.stack.fields.model import GPUS

CACHE_TYPES = ("f16", "q8_0", "q4_0")
_ALIASES = frozenset(("A100", "H100!", "B200+"))
"""Other names of a type that is in the table already."""
_LEAST_CONTEXT = 2048
_MOST_COLUMNS = 7
_MOST_SUGGESTED = 3
_MOST_SLOTS = 64
"""More are not looked for."""


@dataclass(frozen=True, slots=True)
class Way:
    """A change after which it fits."""

    fields: Mapping[str, int | str]
    """Values to write, by dotted path."""
    fit: Fit
    dearer: float
    """US dollars an hour more on Modal."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One GPU, context and cache type."""

    gpu: str
    count: int
    name: str
    """With its memory."""
    ctx_size: int
    cache_type: str
    total: int
    capacity: int
    hourly: float
    """US dollars for an hour of the GPUs on Modal."""

    @property
    def fits(self) -> bool:
        """Return whether the memory suffices."""
        return self.total <= self.capacity


@dataclass(frozen=True, slots=True)
class Suggestion:
    """A machine that holds a stack, and the most that it holds of it."""

    cache_type: str
    """Keys and values: the stack's own, or the widest one with which it fits."""
    fit: Fit
    """With the context and the slots of the stack."""
    context: int
    """The largest context that fits, of all slots together."""
    slots: int
    """The most slots that fit, each with as many tokens as one of the stack has."""
    gpu: str = ""
    """As a stack names it; empty for a machine without."""
    hourly: float = 0.0
    """US dollars for an hour of the GPUs on Modal."""


def machine_of(gpu: str, count: int = 1, *, snapshot: bool = False) -> Machine:
    """A GPU of the table, or several; raises KeyError for one that is not there."""
    memory = GPUS[gpu].memory
    name = gpu if gpu.endswith("GB") else f"{gpu} {memory} GB"
    name = name if count == 1 else f"{count} x {name}"
    return Machine(name, memory * 10**9, count, snapshot)


def ways_out(
    facts: Facts,
    serving: Serving,
    gpu: str | None,
    machine: Machine,
    prices: Mapping[str, float],
) -> tuple[Way, ...]:
    """Return the three cheapest changes after which a model fits.

    `prices` are dollars for a second of each type of GPU.
    """
    quantised = _quantised(facts, serving, machine) or _both(facts, serving, machine)
    others = _other_gpus(facts, serving, gpu, machine, prices)
    first = (_smaller(facts, serving, machine), quantised, *others[:1])
    spare = (_experts(facts, serving, machine), *others[1:])
    found = [way for way in (*first, *spare) if way is not None][:3]
    return tuple(sorted(found, key=lambda way: way.dearer))


def matrix(
    facts: Facts, serving: Serving, prices: Mapping[str, float], *, count: int = 1
) -> tuple[Cell, ...]:
    """Combine every GPU with every context and cache type, cheapest GPU first."""
    return tuple(
        _cell(facts, serving, name, prices[name] * 3600 * count, count, context, kind)
        for name in _cheapest_first(prices)
        for context in contexts(facts, serving)
        for kind in CACHE_TYPES
    )


def suggestions(
    facts: Facts, serving: Serving, machine: Machine, prices: Mapping[str, float]
) -> tuple[Suggestion, ...]:
    """Return the cheapest machines that hold a stack, each with the most it holds.

    For a stack with GPUs as many others of one type each; else its own machine alone.
    """
    if not machine.gpus:
        own = _suggested(facts, serving, machine)
        return () if own is None or not machine.memory else (own,)
    found = []
    for name in _cheapest_first(prices):
        other = machine_of(name, machine.gpus, snapshot=machine.snapshot)
        if (one := _suggested(facts, serving, other)) is not None:
            hourly = prices[name] * 3600 * machine.gpus
            found.append(replace(one, gpu=name, hourly=hourly))
    return tuple(found[:_MOST_SUGGESTED])


def _suggested(facts: Facts, serving: Serving, machine: Machine) -> Suggestion | None:
    """The most that one machine holds; None where the stack does not fit."""
    for asked, kind in _cached(serving):
        fit = fit_on(facts, asked, machine)
        if fit.holds:
            context = _largest_context(facts, asked, machine)
            slots = _most_slots(facts, asked, machine)
            return Suggestion(kind, fit, context, slots)
    return None


def _cached(serving: Serving) -> Iterator[tuple[Serving, str]]:
    """Yield a stack with its own cache types, and with those that take less."""
    own = (serving.cache_type_k or "f16", serving.cache_type_v or "f16")
    yield serving, own[0] if own[0] == own[1] else "/".join(own)
    if serving.flash_attn is False:  # quantised values need it
        return
    for kind in CACHE_TYPES[1:]:
        if all(_width(kind) < _width(it) for it in own):
            yield replace(serving, cache_type_k=kind, cache_type_v=kind), kind


def _width(kind: str) -> float:
    """Bytes of a number in a cache; those of the default for a type of a fork."""
    block, width = CACHE_BITS.get(kind, CACHE_BITS["f16"])
    return width / block


def _largest_context(facts: Facts, serving: Serving, machine: Machine) -> int:
    """The largest context that fits, up to what the model was trained for."""
    own = serving.context(facts.model)
    trained = facts.model.context_length * (1 if serving.unified else serving.slots)
    found = own
    for context in sorted(_steps_below(max(trained, own) + 1)):
        if context > own:
            asked = replace(serving, ctx_size=context)
            if not fit_on(facts, asked, machine).holds:
                break
            found = context
    return found


def _most_slots(facts: Facts, serving: Serving, machine: Machine) -> int:
    """The most slots that fit, each with the tokens that one has now."""
    own = serving.slots
    shared = serving.context(facts.model)
    each = shared if serving.unified else shared // own
    found = own
    for slots in range(own + 1, _MOST_SLOTS + 1):
        size = shared if serving.unified else each * slots
        asked = replace(serving, parallel=slots, ctx_size=size)
        asked = replace(asked, kv_unified=serving.unified)
        if not fit_on(facts, asked, machine).holds:
            break
        found = slots
    return found


def contexts(facts: Facts, serving: Serving) -> tuple[int, ...]:
    """The stack's own context, and doublings up to what the model was trained for."""
    trained = facts.model.context_length or 131072
    own = serving.context(facts.model)
    steps = [4096 << power for power in range(9) if 4096 << power <= trained]
    kept = steps[-_MOST_COLUMNS + 1 :] if own not in steps else steps[-_MOST_COLUMNS:]
    return tuple(sorted({*kept, own}))


def _cheapest_first(prices: Mapping[str, float]) -> list[str]:
    return sorted(GPUS.keys() - _ALIASES, key=lambda name: (prices[name], name))


def _cell(
    facts: Facts,
    serving: Serving,
    gpu: str,
    hourly: float,
    count: int,
    context: int,
    kind: str,
) -> Cell:
    asked = replace(serving, ctx_size=context, cache_type_k=kind, cache_type_v=kind)
    fit = fit_on(facts, asked, machine_of(gpu, count))
    return Cell(
        gpu=gpu,
        count=count,
        name=fit.where,
        ctx_size=context,
        cache_type=kind,
        total=fit.total,
        capacity=fit.capacity,
        hourly=hourly,
    )


def _smaller(facts: Facts, serving: Serving, machine: Machine) -> Way | None:
    """The largest context that fits, in steps that people write."""
    now = serving.context(facts.model)
    for context in _steps_below(now):
        asked = replace(serving, ctx_size=context)
        if (fit := fit_on(facts, asked, machine)).holds:
            return Way({"server.ctx_size": context}, fit, 0.0)
    return None


def _steps_below(context: int) -> Iterator[int]:
    """Powers of two and what lies half-way between them, from large to small."""
    step = 1 << context.bit_length()
    while step >= _LEAST_CONTEXT:
        for size in (step + step // 2, step):
            if size < context:
                yield size
        step //= 2


def _quantised(facts: Facts, serving: Serving, machine: Machine) -> Way | None:
    """The best cache type that fits; quantised values need flash attention."""
    if serving.flash_attn is False:
        return None
    for kind in CACHE_TYPES[1:]:
        if kind in (serving.cache_type_k, serving.cache_type_v):
            continue
        asked = replace(serving, cache_type_k=kind, cache_type_v=kind)
        if (fit := fit_on(facts, asked, machine)).holds:
            return Way(_cache_fields(kind), fit, 0.0)
    return None


def _both(facts: Facts, serving: Serving, machine: Machine) -> Way | None:
    """A quantised cache with the largest context that fits then."""
    kind = CACHE_TYPES[1]
    if serving.flash_attn is False or serving.cache_type_k in CACHE_TYPES[1:]:
        return None
    asked = replace(serving, cache_type_k=kind, cache_type_v=kind)
    way = _smaller(facts, asked, machine)
    if way is None:
        return None
    return Way({**_cache_fields(kind), **way.fields}, way.fit, 0.0)


def _experts(facts: Facts, serving: Serving, machine: Machine) -> Way | None:
    """The fewest layers whose experts go to host memory."""
    if not machine.gpus:
        return None
    for layers in range(serving.n_cpu_moe + 1, len(facts.model.expert_bytes) + 1):
        asked = replace(serving, n_cpu_moe=layers)
        if (fit := fit_on(facts, asked, machine)).holds:
            return Way({"server.n_cpu_moe": layers}, fit, 0.0)
    return None


def _other_gpus(
    facts: Facts,
    serving: Serving,
    gpu: str | None,
    machine: Machine,
    prices: Mapping[str, float],
) -> Sequence[Way]:
    """Return the two cheapest other GPUs, one of each, that hold the model."""
    now = prices[gpu] * machine.gpus if gpu is not None else 0.0
    found = []
    for name in _cheapest_first(prices):
        other = machine_of(name, snapshot=machine.snapshot)
        fit = fit_on(facts, serving, other)
        if name != gpu and fit.holds and machine.gpus:
            dearer = (prices[name] - now) * 3600
            found.append(Way({"gpu": name}, fit, dearer))
    return found[:2]


def _cache_fields(kind: str) -> dict[str, int | str]:
    return {"server.cache_type_k": kind, "server.cache_type_v": kind}
