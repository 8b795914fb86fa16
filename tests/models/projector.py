"""The projector of the tiny model: a picture's mean colour goes straight through."""

from pathlib import Path

import numpy as np
from gguf import GGUFWriter, LlamaFileType

_WIDTH = 16
_PATCH = 16
_POSITIONS = 4096
_IMAGE = 224


def write_projector(path: Path, axes: tuple[int, ...], *, width: int) -> None:
    """Write a `gemma4v` projector: a constant and three colours, to four axes."""
    writer = GGUFWriter(path, "clip")
    writer.add_name("tiny gemma4v")
    writer.add_file_type(LlamaFileType.MOSTLY_F16)
    _describe(writer, width)
    patch = np.zeros((_WIDTH, 3, _PATCH, _PATCH), np.float16)
    for colour in range(3):
        patch[1 + colour, colour] = 1.0 / _PATCH**2
    writer.add_tensor("v.patch_embd.weight", patch)
    position = np.zeros((2, _POSITIONS, _WIDTH), np.float32)
    position[:, :, 0] = 0.5  # the tables of both directions add up to the constant
    writer.add_tensor("v.position_embd.weight", position)
    nothing = np.zeros((_WIDTH, _WIDTH), np.float16)
    for name in ("attn_q", "attn_k", "attn_v", "attn_out", "ffn_up", "ffn_gate"):
        writer.add_tensor(f"v.blk.0.{name}.weight", nothing)
    writer.add_tensor("v.blk.0.ffn_down.weight", nothing)
    ones = np.ones(_WIDTH, np.float32)
    for name in ("ln1", "ln2", "attn_q_norm", "attn_k_norm"):
        writer.add_tensor(f"v.blk.0.{name}.weight", ones)
    for name in ("attn_post_norm", "ffn_post_norm"):
        writer.add_tensor(f"v.blk.0.{name}.weight", ones)
    projection = np.zeros((width, _WIDTH), np.float16)
    for lane, axis in enumerate(axes):
        projection[axis, lane] = 1.0
    writer.add_tensor("mm.input_projection.weight", projection)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _describe(writer: GGUFWriter, width: int) -> None:
    writer.add_bool("clip.has_vision_encoder", val=True)
    writer.add_string("clip.projector_type", "gemma4v")
    for name, number in (
        ("projection_dim", width),
        ("image_size", _IMAGE),
        ("patch_size", _PATCH),
        ("embedding_length", _WIDTH),
        ("feed_forward_length", _WIDTH),
        ("block_count", 1),
        ("attention.head_count", 1),
    ):
        writer.add_uint32(f"clip.vision.{name}", number)
    writer.add_float32("clip.vision.attention.layer_norm_epsilon", 1e-6)
    writer.add_array("clip.vision.image_mean", [0.0, 0.0, 0.0])
    writer.add_array("clip.vision.image_std", [1.0, 1.0, 1.0])
    writer.add_bool("clip.use_gelu", val=True)
