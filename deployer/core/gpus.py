"""The GPU types a stack may name, with what a plan has to know of each.

Names: Modal's GPU strings (modal.com/docs/guide/gpu, September 2026); the local
engine compares them with what the driver reports.  Compute capabilities: NVIDIA's
table of CUDA GPUs; memory: the data sheets, in GB.
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Gpu:
    """One type of GPU."""

    architecture: str
    """CUDA compute capability without the point (``89``)."""
    memory: int
    """GB."""


GPUS: Mapping[str, Gpu] = {
    "T4": Gpu("75", 16),
    "L4": Gpu("89", 24),
    "A10": Gpu("86", 24),
    "L40S": Gpu("89", 48),
    "A100": Gpu("80", 40),
    "A100-40GB": Gpu("80", 40),
    "A100-80GB": Gpu("80", 80),
    "RTX-PRO-6000": Gpu("120", 96),
    "H100": Gpu("90", 80),
    "H100!": Gpu("90", 80),
    "H200": Gpu("90", 141),
    "B200": Gpu("100", 192),
    "B200+": Gpu("100", 192),
    "B300": Gpu("103", 288),
}


def architecture_of(gpu: str) -> str:
    """The compute capability of a GPU type, given with or without a count (``L4:2``).

    Raises KeyError for a type that is not in the table.
    """
    return GPUS[gpu.partition(":")[0]].architecture
