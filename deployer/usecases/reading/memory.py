"""The memory that a stack takes, and the machines that it may run on."""

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from deployer.diagnostics import (
    NOWHERE,
    Diagnostic,
    Place,
    place_of,
)
from deployer.engines.registry import ENGINES
from deployer.gguf.facts import (
    Facts,
)
from deployer.gguf.memory import Machine, Serving, fit_on, host_memory_needed
from deployer.planning.facts import Facts as Locked
from deployer.planning.graph import build_number
from deployer.planning.plan import Fit
from deployer.show.text import fit_line
from deployer.show.text import sized as shown_size
from deployer.stack.checks import (
    gpu_types,
)
from deployer.stack.fields.marks import fields_of, leaves
from deployer.stack.fields.model import Stack
from deployer.stack.fields.server import Server
from deployer.stack.fields.values import Memory, size_in_bytes

if TYPE_CHECKING:
    from deployer.gguf.choices import Way


_MOVES_MEMORY = {
    *("n-cpu-ffn", "cpu-moe", "kv-unified-per-slot", "mmproj-device"),
}
"""Options that take or move memory, whether or not they have a field by now."""
_CGROUP = Path("/sys/fs/cgroup/memory.max")


class Sized(NamedTuple):
    """A stack as far as memory goes."""

    facts: Facts
    serving: Serving
    machines: tuple[tuple[str | None, Machine], ...]
    """The GPU types in the stack's order; None for the CPU of the machine."""

    @property
    def fits(self) -> tuple[Fit, ...]:
        """On each machine that the stack may run on."""
        return tuple(fit_on(self.facts, self.serving, it) for _, it in self.machines)


def sized(stack: Stack, locked: Locked, weights: Facts) -> Sized:
    """Return what decides about the memory of a stack."""
    return Sized(weights, serving_of(stack, locked), tuple(_machines(stack)))


def serving_of(stack: Stack, locked: Locked) -> Serving:
    """Return what decides about memory, by the `Memory` marks of the options.

    An option means the same as a field and under `server.flags`.
    """
    values: dict[str, Any] = {}
    unknown: list[str] = []
    for leaf in () if stack.server is None else leaves(stack.server):
        option = leaf.path.removeprefix("flags.")
        field, memory, value = leaf.path, leaf.marks.memory, leaf.value
        if option != leaf.path and option in _by_option():
            field, memory, off = _by_option()[option]
            value = False if off else value
        field = _OF_DRAFT.get(field, field)
        words = {option, *(flag.name.removeprefix("--") for flag in leaf.marks.flags)}
        if memory is Memory.COMPUTED:
            values[field] = value
        elif memory is Memory.UNKNOWN or words & _MOVES_MEMORY:
            unknown.append(f"`{option}` takes or moves memory")
    # Words that leave the choice to llama-server are as if nothing were said.
    for layers in ("n_gpu_layers", "draft_gpu_layers"):
        if values.get(layers) in ("auto", "all"):
            del values[layers]
    if (attention := values.pop("flash_attn", "auto")) != "auto":
        values["flash_attn"] = attention == "on"
    values |= _drafting(stack)
    return Serving(build=build_number(stack, locked), untold=tuple(unknown), **values)


def _drafting(stack: Stack) -> dict[str, Any]:
    """Return what drafts make the model itself keep, of the section or the options."""
    stated = stack.server.speculative if stack.server else None
    flags = (stack.server.flags if stack.server else None) or {}
    types = {stated.type} if stated else {*str(flags.get("spec-type", "")).split(",")}
    if not types & _TAKEN_BACK:
        return {}
    most = stated.n_max if stated else flags.get("spec-draft-n-max")
    own = "draft-mtp" in types and "draft" not in stack.model.sources
    return {"predicts": own, "rollback": most if isinstance(most, int) else _MOST}


_TAKEN_BACK = frozenset(("draft-mtp", "draft-eagle3", "draft-dflash", "draft-dspark"))
"""Types whose wrong guesses are taken back by states that are kept for it."""
_MOST = 3
"""Tokens that are drafted at most, where it is unset (b11434)."""

_OF_DRAFT: Mapping[str, str] = {
    "speculative.n_gpu_layers": "draft_gpu_layers",
    "speculative.n_cpu_moe": "draft_cpu_moe",
    "speculative.cache_type_k": "draft_cache_k",
    "speculative.cache_type_v": "draft_cache_v",
}
"""Fields of `Serving` that are named otherwise."""


@cache
def _by_option() -> Mapping[str, tuple[str, Memory | None, bool]]:
    """Return the marked field of each option, and whether the option turns it off."""
    return {
        word.removeprefix("--"): (name, field.memory, word == flag.off)
        for name, field in fields_of(Server).items()
        if field.memory is not None
        for flag in field.flags
        for word in filter(None, (flag.name, flag.off))
    }


def does_not_fit(size: Sized, places: Mapping[str, Place]) -> Iterator[Diagnostic]:
    """A problem for each machine that does not hold it, with the cheapest ways out."""
    for gpu, machine in size.machines:
        fit = fit_on(size.facts, size.serving, machine)
        if fit.holds or fit.unsure:
            continue
        from deployer.gguf.choices import ways_out  # noqa: PLC0415 - only on trouble
        from deployer.llama.known.tables import prices  # noqa: PLC0415 - as above

        place, path = _place(places, gpu)
        ways = ways_out(size.facts, size.serving, gpu, machine, prices().gpu)
        hint = _ways(ways)
        what = f"the model does not fit: {fit_line(fit)}"
        yield Diagnostic(path, what, hint, place=place)


def doubts(stack: Stack, size: Sized) -> Iterator[str]:
    """Yield what is no error and may end in one: host memory under load."""
    fit = size.fits[0]
    if not fit.holds and fit.unsure:
        yield f"it may not fit: {fit_line(fit)}: {'; '.join(fit.unsure)}"
    machine = size.machines[0][1]
    held = host_memory_needed(
        size.facts, size.serving, gpu=machine.gpus > 0, snapshot=machine.snapshot
    )
    if not fit.host and fit.capacity and fit.holds and held > fit.capacity:
        yield (
            f"under load the server may take {shown_size(held)} of"
            f" {shown_size(fit.capacity)}:"
            f" {_grown(fit)}; set `server.cache_ram` and `server.ctx_checkpoints` lower"
        )
    memory = _memory_of(stack)
    if memory is not None and size_in_bytes(memory) < held:
        field = f"{stack.engine}.{ENGINES[stack.engine].memory}"
        yield (
            f"`{field}: {memory}` is less than the server may take under load,"
            f" {shown_size(held)}: {_grown(fit)}"
        )


def _grown(fit: Fit) -> str:
    return " and ".join(f"{name} {shown_size(bytes_)}" for name, bytes_ in fit.grows)


def _ways(ways: "tuple[Way, ...]") -> str:
    if not ways:
        return "nothing in the table of GPUs holds it: take a smaller quantisation"
    return ", or ".join(_way(way) for way in ways)


def _way(way: "Way") -> str:
    fields = " and ".join(f"`{path}: {value}`" for path, value in way.fields.items())
    cost = f", ${way.dearer:+.2f}/h".replace("$+", "+$").replace("$-", "-$")
    free = abs(way.dearer) < 0.005
    figures = f"{shown_size(way.fit.total)} of {shown_size(way.fit.capacity)}"
    return f"{fields} ({figures}{'' if free else cost})"


def _place(places: Mapping[str, Place], gpu: str | None) -> tuple[Place, str]:
    """Where what decides was written: the GPU, else the context, else the stack."""
    paths = ("gpu",) if gpu is not None else ("server.ctx_size", "model")
    for path in paths:
        if (found := place_of(places, path)) is not None:
            return found, path
    return NOWHERE, ""


def _machines(stack: Stack) -> Iterator[tuple[str | None, Machine]]:
    wanted = stack.snapshot is not None and stack.snapshot.enabled is not False
    copied = wanted and bool(stack.snapshot and stack.snapshot.gpu)
    for name, count in gpu_types(stack):
        from deployer.gguf.choices import machine_of  # noqa: PLC0415 - few have one

        yield name, machine_of(name, count, snapshot=copied)
    if stack.gpu is None and not ENGINES[stack.engine].abilities.remote:
        yield None, Machine("this machine", memory_here())
    elif stack.gpu is None:
        memory = _memory_of(stack)
        yield None, Machine("container", 0 if memory is None else size_in_bytes(memory))


def _memory_of(stack: Stack) -> str | int | None:
    """Return the memory that the stack gives to its host; None for no limit."""
    found = stack.of_engine(ENGINES[stack.engine].memory)
    return found if isinstance(found, str | int) else None


def memory_here() -> int:
    """Bytes of memory of this machine, or of the container around; 0 if unknown."""
    found = 0
    with suppress(OSError, ValueError):
        found = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with suppress(OSError, ValueError):
        limit = int(_CGROUP.read_text(encoding="ascii"))
        found = min(found, limit) if found else limit
    return found
