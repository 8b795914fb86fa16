"""Write tiny BERT models: one for embeddings, and one that ranks.

Nothing is trained.  A text becomes the mean of random directions of its words, so texts
with common words are near; the ranker scores a text by its share of words that belong
to an answer of the gate `rerank`.
"""

import re
from pathlib import Path

import numpy as np
from gguf import GGUFWriter, LlamaFileType, PoolingType, TokenType

from deployer.gates.checks.vectors import PAIRS, TRIPLES

WIDTH = 64
CONTEXT = 2048
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def write_embedder(path: Path, *, zero: bool = False) -> None:
    """Write the model for embeddings; `zero` makes every vector the same."""
    words = sorted(_words(*(text for pair in PAIRS for text in pair)) | {"grass"})
    random = np.random.default_rng(7).normal(size=(len(words), WIDTH))
    _write(path, words, random * (not zero), attention=0.0, pooling=PoolingType.MEAN)


def write_ranker(path: Path, *, backwards: bool = False) -> None:
    """Write the model that ranks; `backwards` lets it prefer the worse text."""
    better, worse = (
        _words(*(getattr(one, side) for one in TRIPLES)) for side in ("better", "worse")
    )
    words = sorted(better | worse | _words(*(one.query for one in TRIPLES)))
    direction = np.tile([1.0, -1.0], WIDTH // 2)
    sign = -1.0 if backwards else 1.0
    good = np.array([(it in better - worse) - (it in worse - better) for it in words])
    rows = sign * good[:, None] * direction[None, :]
    _write(path, words, rows, attention=1.0, pooling=PoolingType.RANK, head=direction)


def _words(*texts: str) -> set[str]:
    return {word for text in texts for word in re.findall(r"\w+|[.?]", text.lower())}


def _write(
    path: Path,
    words: list[str],
    rows: "np.ndarray[tuple[int, ...], np.dtype[np.float64]]",
    *,
    attention: float,
    pooling: PoolingType,
    head: "np.ndarray[tuple[int, ...], np.dtype[np.float64]] | None" = None,
) -> None:
    writer = GGUFWriter(path, "bert")
    writer.add_name("tiny bert")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(1)
    writer.add_feed_forward_length(WIDTH)
    writer.add_head_count(1)
    writer.add_layer_norm_eps(1e-5)
    writer.add_causal_attention(value=False)
    writer.add_pooling_type(pooling)
    writer.add_file_type(LlamaFileType.ALL_F32)
    writer.add_tokenizer_model("bert")
    tokens = [*_SPECIAL, *(f"▁{word}" for word in words)]
    writer.add_token_list(tokens)
    kinds = [TokenType.CONTROL] * len(_SPECIAL) + [TokenType.NORMAL] * len(words)
    writer.add_token_types([int(kind) for kind in kinds])
    writer.add_token_type_count(2)
    writer.add_pad_token_id(0)
    writer.add_unk_token_id(1)
    writer.add_bos_token_id(2)
    writer.add_sep_token_id(3)
    writer.add_eos_token_id(3)
    writer.add_mask_token_id(4)
    if head is not None:
        writer.add_classifier_output_labels(["score"])
    base = np.random.default_rng(1).normal(size=(len(_SPECIAL), WIDTH)) / 8

    def add(name: str, value: object) -> None:
        writer.add_tensor(name, np.ascontiguousarray(value, dtype=np.float32))

    def zeros(*shape: int) -> object:
        return np.zeros(shape, np.float32)

    add("token_embd.weight", np.concatenate([base, rows]))
    add("token_types.weight", zeros(2, WIDTH))
    add("position_embd.weight", zeros(CONTEXT, WIDTH))
    for norm in (
        "token_embd_norm",
        "blk.0.attn_output_norm",
        "blk.0.layer_output_norm",
    ):
        add(f"{norm}.weight", np.ones(WIDTH))
        add(f"{norm}.bias", zeros(WIDTH))
    for part in ("q", "k", "v", "output"):
        # With equal keys every token attends to all alike: the mean of the text.
        whole = np.eye(WIDTH) * (attention if part in {"v", "output"} else 0.0)
        add(f"blk.0.attn_{part}.weight", whole)
        add(f"blk.0.attn_{part}.bias", zeros(WIDTH))
    for part in ("up", "down"):
        add(f"blk.0.ffn_{part}.weight", zeros(WIDTH, WIDTH))
        add(f"blk.0.ffn_{part}.bias", zeros(WIDTH))
    if head is not None:
        add("cls.output.weight", head[None, :] / WIDTH)
        add("cls.output.bias", zeros(1))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
