"""The gates device and memory: where the weights are, and the memory that is left.

Values of this machine are None or empty where it does not tell: without an NVIDIA
driver, on another system than Linux, in a container that hides it.
"""

import asyncio
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from deployer.gates.harness.answers import (
    Judgement,
    excerpt,
    failed,
    inapplicable,
    passed,
    unclear,
)
from deployer.gates.harness.client import Client, Target
from deployer.gates.harness.gate import Gate, Subject
from deployer.stack.fields import gate_options as asked
from deployer.stack.fields.values import JsonValue, show_bytes, size_in_bytes
from deployer.system.children import NVIDIA, find_program, variables

_SECONDS: Final = 20.0
"""Longest time that nvidia-smi may take; a cold driver takes several."""
_MEMINFO: Final = Path("/proc/meminfo")


@dataclass(frozen=True, slots=True)
class Gpu:
    """Memory of one GPU, in bytes."""

    uuid: str
    name: str
    total: int
    free: int


@dataclass(frozen=True, slots=True)
class Gpus:
    """The GPUs of this machine, and the processes on them."""

    all: tuple[Gpu, ...] = ()
    used_by: frozenset[tuple[str, int]] = frozenset()
    """UUID of a GPU and process that computes on it."""

    def of(self, pid: int | None) -> tuple[Gpu, ...]:
        """Return those that a process computes on."""
        return tuple(gpu for gpu in self.all if (gpu.uuid, pid) in self.used_by)


async def gpus() -> Gpus:
    """The GPUs as the NVIDIA driver reports them."""
    rows = await _asked("--query-gpu=uuid,name,memory.total,memory.free")
    used = await _asked("--query-compute-apps=gpu_uuid,pid") if rows else ()
    return Gpus(
        tuple(
            Gpu(row[0], row[1], int(row[2]) * 2**20, int(row[3]) * 2**20)
            for row in rows
            if len(row) == 4 and row[2].isdigit() and row[3].isdigit()
        ),
        frozenset(
            (row[0], int(row[1])) for row in used if len(row) == 2 and row[1].isdigit()
        ),
    )


def free_memory(meminfo: Path = _MEMINFO) -> int | None:
    """Main memory that new work could take, in bytes: what Linux calls available."""
    try:
        text = meminfo.read_text(encoding="utf-8")
    except OSError:
        return None
    for line in text.splitlines():
        words = line.split()
        if words[:1] == ["MemAvailable:"] and words[2:] == ["kB"]:
            return int(words[1]) * 1024
    return None


async def _asked(query: str) -> tuple[tuple[str, ...], ...]:
    """The rows that nvidia-smi answers to a query; none when it cannot."""
    if (program := find_program("nvidia-smi", os.environ)) is None:
        return ()
    process = await asyncio.create_subprocess_exec(
        program,
        query,
        "--format=csv,noheader,nounits",
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env=variables(os.environ, *NVIDIA),
    )
    try:
        async with asyncio.timeout(_SECONDS):
            output, _ = await process.communicate()
    except TimeoutError:
        output = b""
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        return ()
    lines = output.decode(errors="replace").splitlines()
    return tuple(
        tuple(excerpt(cell, 60) for cell in line.split(",")) for line in lines if line
    )


_WEIGHTS_IN: Final = re.compile(r"load_tensors:\s+(\S+) model buffer size = +([0-9.]+)")
_OFFLOADED: Final = re.compile(r"offloaded (\d+)/(\d+) layers to GPU")
_NO_GPU: Final = "no usable GPU found"
_LAYERS: Final = "server.n_gpu_layers"


@dataclass(frozen=True, slots=True)
class Witness:
    """Where the weights are, as a log or a driver says."""

    devices: tuple[str, ...]
    """GPUs in use; none on the CPU."""
    layers: tuple[int, int] | None = None
    """Layers on the GPUs, and layers of the model."""


class Device(Gate[asked.Device, Gpus]):
    """A GPU that was asked for has to hold the weights.

    llama-server falls back to the CPU without an error when it finds no GPU: it only
    becomes slow.  There are two witnesses, and neither is asked of the server.  Its log
    names the memory that the weights were put into; `offloaded N/M layers to GPU`
    proves nothing, for b10434 says so on a machine without one.  The NVIDIA driver
    names the processes that compute.  From b10434 on the log has these lines with
    `server.verbosity: 4`.
    """

    subject, limit = Subject.IDENTITY, 60

    async def measure(self, client: Client) -> Gpus:  # noqa: ARG002 - nothing is asked
        """Ask the driver, if the server runs on this machine."""
        return Gpus() if self.target.process.pid is None else await gpus()

    def judge(self, measured: Gpus) -> Judgement:
        """Hear the log first, then the driver."""
        witness = seen_in(self.target.process.log)
        driven = measured.of(self.target.process.pid)
        if witness is None and driven:
            witness = Witness(tuple(gpu.name for gpu in driven))
        asks = asked_for_gpu(self.target)
        if not self.target.expects:
            return inapplicable("no stack says on which device it should run")
        if not asks:
            where = ", which is not seen to use one"
            if witness is not None:
                where = f": it runs on {_named(witness)}"
            return passed(f"the stack asks for no GPU{where}")
        if witness is None:
            return unclear(
                f"the stack asks for a GPU (`{asks}`), and neither a log nor the "
                f"driver tells where the server runs; set `server.verbosity: 4`"
            )
        if not witness.devices:
            return failed(
                f"the stack asks for a GPU (`{asks}`), and the weights are in main "
                f"memory: is llama-server built for this GPU, and does its driver "
                f"answer?"
            )
        return _on_gpu(witness, self.target.expects.get(_LAYERS))


def asked_for_gpu(target: Target) -> str:
    """Return what in the stack asks for a GPU; empty when nothing does."""
    layers = target.expects.get(_LAYERS)
    if target.expects.get("server.device") == ["none"]:
        return ""
    if isinstance(gpu := target.expects.get("gpu"), str):
        return f"gpu: {gpu}"
    if isinstance(gpu, list):
        return f"gpu: [{', '.join(map(str, gpu))}]"
    if layers == "all" or (target.whole(_LAYERS) or 0) > 0:
        return f"{_LAYERS}: {layers}"
    return ""


def seen_in(log: str) -> Witness | None:
    """Return what a log tells; None when it holds no such line."""
    found = [name for name, size in _WEIGHTS_IN.findall(log) if float(size) > 0]
    if not found:
        return Witness(()) if _NO_GPU in log else None
    devices = tuple(dict.fromkeys(name for name in found if not _is_main(name)))
    layers = _OFFLOADED.search(log)
    counted = (int(layers[1]), int(layers[2])) if layers and devices else None
    return Witness(devices, counted)


def _is_main(buffer: str) -> bool:
    """Return whether llama.cpp means main memory by the name of a buffer."""
    return buffer.startswith(("CPU", "AMX")) or buffer.endswith("_Host")


def _on_gpu(witness: Witness, wanted: JsonValue) -> Judgement:
    on = _named(witness)
    if witness.layers is None:
        return passed(f"the weights are on {on}")
    held, whole = witness.layers
    figures = {"gpu_layers": float(held), "layers": float(whole)}
    least = whole if wanted == "all" else wanted
    if isinstance(least, int) and held < min(least, whole):
        because = f"only {held} of {whole} layers are on {on}"
        return failed(f"{because}, `{_LAYERS}: {wanted}`", **figures)
    return passed(f"{held} of {whole} layers are on {on}", **figures)


def _named(witness: Witness) -> str:
    return ", ".join(f"`{name}`" for name in witness.devices) or "the CPU"


@dataclass(frozen=True, slots=True)
class Free:
    """Free memory of this machine; nothing if the server runs elsewhere."""

    gpus: Gpus
    main: int | None = None
    """In bytes."""


class Memory(Gate[asked.Memory, Free]):
    """The memory that the server lives in has to have the headroom.

    The engine tells of the process, the NVIDIA driver of GPUs, Linux of main memory.
    It runs last, when every other gate has made the server fill its caches.
    """

    subject, limit, alone = Subject.QUALITY, 60, True

    async def measure(self, client: Client) -> Free:  # noqa: ARG002 - nothing is asked
        """Ask the machine, if the server runs on it."""
        if self.target.process.pid is None:
            return Free(Gpus())
        return Free(await gpus(), free_memory())

    def judge(self, measured: Free) -> Judgement:
        """Compare free memory with the headroom."""
        taken = self.target.process.memory
        if not taken:
            return unclear(
                "nothing tells how much memory the server takes: its engine does not, "
                "and a URL cannot"
            )
        mine = measured.gpus.of(self.target.process.pid)
        asks = bool(asked_for_gpu(self.target))
        if asks and not mine:
            # A container may hide which process is on which of them.
            mine = measured.gpus.all
        free = measured.main
        figures = {"process_bytes": float(taken)}
        if free is not None:
            figures["free_bytes"] = float(free)
        where = "of main memory"
        if mine or asks:
            where = "of GPU memory"
            free = min((gpu.free for gpu in mine), default=None)
        if mine:
            figures["gpu_free_bytes"] = float(min(gpu.free for gpu in mine))
            figures["gpu_total_bytes"] = float(sum(gpu.total for gpu in mine))
        took = f"the server takes {show_bytes(taken)} of main memory"
        wanted = self.options.headroom
        if free is None:
            because = f"{took}; how much {where} is free, this machine does not tell"
            return unclear(because, **figures) if wanted else passed(because, **figures)
        left = f"{show_bytes(free)} {where} are free"
        if wanted is not None and free < size_in_bytes(wanted):
            return failed(f"{left}, less than `headroom: {wanted}`", **figures)
        return passed(f"{took}; {left}", **figures)
