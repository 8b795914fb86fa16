"""Gate memory: what the server leaves free is enough; what it takes is recorded.

The process is told by the engine, GPUs by the NVIDIA driver, main memory by Linux.
It runs last, when every other gate has made the server fill its caches.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from deployer.gates.checks.device import asked_for_gpu
from deployer.gates.harness.answers import Judgement, failed, passed, unclear
from deployer.gates.harness.client import Client
from deployer.gates.harness.machine import Gpu, Gpus, free_memory, gpus
from deployer.gates.harness.target import Target
from deployer.stack.fields.gate_options import Memory
from deployer.stack.fields.values import show_bytes, size_in_bytes


@dataclass(frozen=True, slots=True)
class Measurement:
    """What this machine says; nothing if the server runs elsewhere."""

    gpus: Gpus
    free: int | None = None
    """Main memory that is free, in bytes."""


async def measure(_client: Client, _parameters: Memory, target: Target) -> Measurement:
    """Ask the machine, if the server runs on it."""
    if target.process.pid is None:
        return Measurement(Gpus())
    return Measurement(await gpus(), free_memory())


def judge(measurement: Measurement, parameters: Memory, target: Target) -> Judgement:
    """The memory that the server lives in has to have the headroom."""
    taken = target.process.memory
    if not taken:
        return unclear(
            "nothing tells how much memory the server takes: its engine does not, "
            "and a URL cannot"
        )
    mine = measurement.gpus.of(target.process.pid)
    if asked_for_gpu(target) and not mine:
        # A container may hide which process is on which of them.
        mine = measurement.gpus.all
    figures = _figures(taken, mine, measurement.free)
    on_gpu = bool(mine) or bool(asked_for_gpu(target))
    where = "of GPU memory" if on_gpu else "of main memory"
    free = min((gpu.free for gpu in mine), default=None) if on_gpu else measurement.free
    holds = f"the server holds {show_bytes(taken)} of main memory"
    wanted = parameters.headroom
    if free is None:
        because = f"{holds}; how much {where} is free, this machine does not tell"
        return unclear(because, **figures) if wanted else passed(because, **figures)
    left = f"{show_bytes(free)} {where} are free"
    if wanted is not None and free < size_in_bytes(wanted):
        return failed(f"{left}, less than `headroom: {wanted}`", **figures)
    return passed(f"{holds}; {left}", **figures)


def _figures(
    taken: int, mine: tuple[Gpu, ...], free: int | None
) -> Mapping[str, float]:
    figures = {"process_bytes": float(taken)}
    if free is not None:
        figures["free_bytes"] = float(free)
    if mine:
        figures["gpu_free_bytes"] = float(min(gpu.free for gpu in mine))
        figures["gpu_total_bytes"] = float(sum(gpu.total for gpu in mine))
    return figures
