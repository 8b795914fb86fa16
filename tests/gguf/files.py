"""GGUF files of the tests' own making, byte by byte or by the `gguf` package."""

import os
import struct
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

TYPES = {
    "u8": (0, "B"),
    "i8": (1, "b"),
    "u16": (2, "H"),
    "i16": (3, "h"),
    "u32": (4, "I"),
    "i32": (5, "i"),
    "f32": (6, "f"),
    "bool": (7, "?"),
    "u64": (10, "Q"),
    "i64": (11, "q"),
    "f64": (12, "d"),
}
Number = int | float | bool
Typed = str | tuple[str, Number] | tuple[str, Sequence[Number]] | Sequence[str] | bytes


def text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def value_of(value: Typed) -> bytes:
    """A value with its type in front; bytes are taken as they are."""
    match value:
        case bytes():
            return value
        case str():
            return struct.pack("<I", 8) + text(value)
        case (str(kind), list(items) | tuple(items)) if kind in TYPES:
            number, code = TYPES[kind]
            head = struct.pack("<IIQ", 9, number, len(items))
            return head + struct.pack(f"<{len(items)}{code}", *items)
        case (str(kind), int() | float() as one) if kind in TYPES:
            number, code = TYPES[kind]
            return struct.pack(f"<I{code}", number, one)
        case _:
            head = struct.pack("<IIQ", 9, 8, len(value))
            return head + b"".join(text(str(item)) for item in value)


def header(
    values: Mapping[str, Typed],
    tensors: Iterable[tuple[str, tuple[int, ...], int, int]] = (),
    *,
    version: int = 3,
    magic: bytes = b"GGUF",
) -> bytes:
    """A header; a tensor is its name, shape, type and offset."""
    listed = list(tensors)
    parts = [magic, struct.pack("<IQQ", version, len(listed), len(values))]
    parts += [text(key) + value_of(value) for key, value in values.items()]
    for name, shape, kind, offset in listed:
        parts.append(text(name) + struct.pack(f"<I{len(shape)}Q", len(shape), *shape))
        parts.append(struct.pack("<IQ", kind, offset))
    return b"".join(parts)


def laid_out(
    shapes: Mapping[str, tuple[tuple[int, ...], int, int]],
) -> list[tuple[str, tuple[int, ...], int, int]]:
    """Tensors one after the other, by name: shape, type and bytes."""
    found, at = [], 0
    for name, (shape, kind, size) in shapes.items():
        found.append((name, shape, kind, at))
        at += -(-size // 32) * 32
    return found


def gemma4_26b(path: Path, tokens: bytes, *, template: str = "") -> None:
    """A file of 17.1 GB that is all hole behind the header of Gemma 4 26B-A4B.

    Shape: the values that llama-server logged for it; ``tokens`` is the array of a real
    vocabulary of 262,144 tokens, with its type in front.
    """
    name, layers = "gemma4", 30
    values: dict[str, Typed] = {
        "general.architecture": name,
        "general.name": "Gemma 4 26B A4B it",
        f"{name}.block_count": ("u32", layers),
        f"{name}.context_length": ("u32", 262144),
        f"{name}.embedding_length": ("u32", 2816),
        f"{name}.feed_forward_length": ("u32", 2112),
        f"{name}.expert_count": ("u32", 128),
        f"{name}.expert_used_count": ("u32", 8),
        f"{name}.expert_feed_forward_length": ("u32", 704),
        f"{name}.attention.head_count": ("u32", 16),
        f"{name}.attention.head_count_kv": (
            "u32",
            [2 if i % 6 == 5 else 8 for i in range(layers)],
        ),
        f"{name}.attention.key_length": ("u32", 512),
        f"{name}.attention.value_length": ("u32", 512),
        f"{name}.attention.key_length_swa": ("u32", 256),
        f"{name}.attention.value_length_swa": ("u32", 256),
        f"{name}.attention.sliding_window": ("u32", 1024),
        f"{name}.attention.sliding_window_pattern": (
            "bool",
            [i % 6 != 5 for i in range(layers)],
        ),
        f"{name}.attention.shared_kv_layers": ("u32", 0),
        "tokenizer.ggml.model": "gemma4",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": ("f32", [0.0] * 262144),
        "tokenizer.ggml.token_type": ("i32", [1] * 262144),
        "tokenizer.chat_template": template or "{{ tools }} <|channel>thought",
        "general.file_type": ("u32", 15),
    }
    shapes: dict[str, tuple[tuple[int, ...], int, int]] = {
        "token_embd.weight": ((2816, 262144), 14, 2816 // 256 * 210 * 262144),
    }
    for layer in range(layers):
        up, down = (2816, 1408, 128), (704, 2816, 128)
        shapes[f"blk.{layer}.ffn_gate_up_exps.weight"] = (up, 12, 285474816)
        shapes[f"blk.{layer}.ffn_down_exps.weight"] = (
            down,
            8,
            2816 * 704 * 128 // 32 * 34,
        )
        shapes[f"blk.{layer}.attn_q.weight"] = ((2816, 4096), 8, 2816 * 4096 // 32 * 34)
    listed = laid_out(shapes)
    head = header(values, listed)
    last = list(shapes.values())[-1]
    size = -(-len(head) // 32) * 32 + listed[-1][3] + last[2]
    with path.open("wb") as stream:
        stream.write(head)
        os.truncate(stream.fileno(), size)
    assert size > 16.5e9, size


SMALL_MODEL = header(
    {
        "general.architecture": "llama",
        "llama.block_count": ("u32", 1),
        "llama.context_length": ("u32", 4096),
        "llama.embedding_length": ("u32", 64),
    },
    [("token_embd.weight", (1,), 0, 0)],
) + bytes(64)
"""A model of one tensor: enough for who reads headers alone."""
