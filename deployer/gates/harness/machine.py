"""What this machine tells of its memory: its GPUs, and what is free.

Everything here is None or empty where the machine does not tell: without an NVIDIA
driver, on another system than Linux, in a container that hides it.
"""

import asyncio
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from deployer.gates.harness.answers import excerpt
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
