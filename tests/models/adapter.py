"""Write a LoRA adapter, unless asked to one for the tiny model that changes nothing."""

from pathlib import Path

import numpy as np
from gguf import GGUFWriter

from tests.models.automaton import HEAD_WIDTH, HEADS, WIDTH

_RANK = 2


def write_lora(
    path: Path,
    *,
    alpha: float = 4.0,
    architecture: str = "gemma4",
    weight: float = 0.0,
    sides: tuple[int, int] = (WIDTH, HEADS * HEAD_WIDTH),
) -> Path:
    """Write an adapter; another ``alpha`` is another file of the same size."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = GGUFWriter(path, architecture)
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", alpha)
    for half, shape in (("a", (_RANK, sides[0])), ("b", (sides[1], _RANK))):
        tensor = np.full(shape, weight, np.float32)
        writer.add_tensor(f"blk.0.attn_q.weight.lora_{half}", tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
