"""Whether the model of a stack fits where it is to run, before anything is billed."""

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from deployer.diagnostics import Place, Problem
from deployer.gguf.facts import Facts
from deployer.gguf.memory import Machine, fit_on, host_memory_needed
from deployer.gguf.serving import Serving
from deployer.planning.facts import Facts as Locked
from deployer.planning.fit import Fit
from deployer.planning.graph import build_number
from deployer.show.memory import fit_line
from deployer.show.memory import sized as shown_size
from deployer.stack.checks import gpu_types
from deployer.stack.fields.model import Stack
from deployer.stack.fields.units import size_in_bytes
from deployer.stack.yaml.tree import place_of

if TYPE_CHECKING:
    from deployer.gguf.choices import Way

_UNTOLD_FLAGS = (
    *("n-cpu-ffn", "cpu-moe", "model-draft", "spec-draft-model", "lora"),
    *("lora-scaled", "control-vector", "kv-unified-per-slot", "mmproj-device"),
)
"""Options without a field that take or move memory."""
_CGROUP = Path("/sys/fs/cgroup/memory.max")


@dataclass(frozen=True, slots=True)
class Sized:
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
    """The options of a stack that decide about memory."""
    server = stack.server
    build = build_number(stack, locked)
    if server is None:
        return Serving(build=build)
    layers = server.n_gpu_layers
    attention = {"on": True, "off": False}
    return Serving(
        build=build,
        ctx_size=server.ctx_size,
        parallel=server.parallel,
        batch_size=server.batch_size,
        ubatch_size=server.ubatch_size,
        cache_type_k=server.cache_type_k,
        cache_type_v=server.cache_type_v,
        kv_unified=server.kv_unified,
        swa_full=bool(server.swa_full),
        flash_attn=attention.get(server.flash_attn or ""),
        kv_offload=server.kv_offload is not False,
        mmproj_offload=server.mmproj_offload is not False,
        n_gpu_layers=layers if isinstance(layers, int) else None,
        n_cpu_moe=server.n_cpu_moe or 0,
        cache_ram=server.cache_ram,
        ctx_checkpoints=server.ctx_checkpoints,
        untold=tuple(_untold(stack)),
    )


def does_not_fit(size: Sized, places: Mapping[str, Place]) -> Iterator[Problem]:
    """A problem for each machine that does not hold it, with the cheapest ways out."""
    for gpu, machine in size.machines:
        fit = fit_on(size.facts, size.serving, machine)
        if fit.holds or fit.unsure:
            continue
        from deployer.gguf.choices import ways_out  # noqa: PLC0415 - only on trouble

        place, path = _place(places, gpu)
        hint = _ways(ways_out(size.facts, size.serving, gpu, machine))
        yield Problem(place, path, f"the model does not fit: {fit_line(fit)}", hint)


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
    memory = stack.modal.memory if stack.engine == "modal" and stack.modal else None
    if memory is not None and size_in_bytes(memory) < held:
        yield (
            f"`modal.memory: {memory}` is less than the server may take under load,"
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
    return Place("stack"), ""


def _machines(stack: Stack) -> Iterator[tuple[str | None, Machine]]:
    wanted = stack.snapshot is not None and stack.snapshot.enabled is not False
    copied = wanted and bool(stack.snapshot and stack.snapshot.gpu)
    for name, count in gpu_types(stack):
        from deployer.gguf.choices import machine_of  # noqa: PLC0415 - few have one

        yield name, machine_of(name, count, snapshot=copied)
    if stack.gpu is None and stack.engine == "local":
        yield None, Machine("this machine", memory_here())
    elif stack.gpu is None:
        memory = stack.modal.memory if stack.modal else None
        yield None, Machine("container", 0 if memory is None else size_in_bytes(memory))


def memory_here() -> int:
    """Bytes of memory of this machine, or of the container around; 0 if unknown."""
    found = 0
    with suppress(OSError, ValueError):
        found = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with suppress(OSError, ValueError):
        limit = int(_CGROUP.read_text(encoding="ascii"))
        found = min(found, limit) if found else limit
    return found


def _untold(stack: Stack) -> Iterator[str]:
    server = stack.server
    if server is None:
        return
    if server.override_tensor:
        yield "`override_tensor` moves tensors between GPU and host"
    for name in server.flags or {}:
        if name in _UNTOLD_FLAGS:
            yield f"`{name}` takes or moves memory"
