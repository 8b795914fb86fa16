"""The GPU types a stack may name, with what a plan has to know of each.

Names, most in one container, prices: Modal's (modal.com/docs/guide/gpu and
modal.com/pricing, as read on 2026-09-01); the local engine compares the names with
what the driver reports.  Compute capabilities: NVIDIA's table of CUDA GPUs; memory:
the data sheets, in GB.
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
    price: float
    """US dollars for a second on Modal."""
    most: int = 8
    """In one container on Modal, and in the largest common machine."""


GPUS: Mapping[str, Gpu] = {
    "T4": Gpu("75", 16, 0.000164),
    "L4": Gpu("89", 24, 0.000222),
    "A10": Gpu("86", 24, 0.000306, most=4),
    "L40S": Gpu("89", 48, 0.000542),
    "A100": Gpu("80", 40, 0.000583),
    "A100-40GB": Gpu("80", 40, 0.000583),
    "A100-80GB": Gpu("80", 80, 0.000694),
    "RTX-PRO-6000": Gpu("120", 96, 0.000842),
    "H100": Gpu("90", 80, 0.001097),
    "H100!": Gpu("90", 80, 0.001097),
    "H200": Gpu("90", 141, 0.001261),
    "B200": Gpu("100", 192, 0.001736),
    "B200+": Gpu("100", 192, 0.001736),
    "B300": Gpu("103", 288, 0.001972),
}


def architecture_of(gpu: str) -> str:
    """The compute capability of a GPU type, given with or without a count (``L4:2``).

    Raises KeyError for a type that is not in the table.
    """
    return GPUS[gpu.partition(":")[0]].architecture
