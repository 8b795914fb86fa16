"""How large a container on Modal is: asked for by a deploy, priced by a plan."""

import math
from collections.abc import Iterator
from typing import Final

from deployer.stack.fields.units import size_in_bytes
from deployer.stack.fields.values import Flat, JsonValue

GPU_CORES: Final = 4.0
"""Physical cores beside a GPU: sampling, tokens, pictures."""
CPU_CORES: Final = 8.0
"""Physical cores where there is no GPU, and `server.threads` says nothing."""
MARGIN: Final = 4 * 2**30
"""Bytes of host memory beside the weights: buffers, CUDA, Python."""

BUILD_CORES: Final = 16
"""Physical cores that compile."""
BUILD_MEMORY: Final = 16 * 1024
"""MiB: less than 0.6 GB for each compiler."""
FETCH_CORES: Final = 2
FETCH_MEMORY: Final = 4 * 1024
CANDIDATE_WINDOW: Final = 60
"""Seconds that an idle candidate stays: longer than a gate takes to think."""


def gpus_of(fields: Flat) -> tuple[str, ...]:
    """The GPUs that are asked for, with their counts, in order of preference."""
    return tuple(_texts(fields.get("gpu")))


def cores_of(fields: Flat) -> float:
    """Physical cores of a container that serves."""
    match fields.get("modal.cpu"), fields.get("server.threads"):
        case (int() | float() as cores, _):
            return float(cores)
        case _ if gpus_of(fields):
            return GPU_CORES
        case _, int(threads):
            return float(threads)
        case _:
            return CPU_CORES


def memory_of(fields: Flat, weights: int) -> int:
    """MiB of host memory to ask for; Modal bills what is asked for, or more if used.

    The weights (of so many bytes) pass through it, at a capture once more;
    `server.cache_ram` is what the prompt cache may take, and is counted only where
    the stack says so.
    """
    given = fields.get("modal.memory")
    if given is not None:
        return max(1, math.ceil(size_in_bytes(given) / 2**20))
    match fields.get("server.cache_ram"):
        case int(cache) if cache > 0:
            extra = cache * 2**20
        case _:
            extra = 0
    return math.ceil((weights * 1.05 + MARGIN + extra) / 2**30) * 1024


def _texts(value: JsonValue) -> Iterator[str]:
    match value:
        case str():
            yield value
        case list(items):
            yield from (str(item) for item in items)
        case _:
            return
