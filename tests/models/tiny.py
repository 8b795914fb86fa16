"""Write the tiny model: a GGUF of 2 MB with the real `gemma4` architecture.

It is no trained network but a plan made of weights, so every build of llama-server
gives the same answers at any temperature: it thinks 480 words when it may, answers
`The answer is 42.`, calls the tool it knows, tells the colour of a picture, and says
`The tool has answered.` when it gets a result.
"""

from pathlib import Path

import numpy as np
from gguf import GGUFWriter, LlamaFileType

from tests.models.automaton import (
    HEAD_WIDTH,
    HEADS,
    WIDTH,
    Attention,
    Matrix,
    Weights,
    weights,
)
from tests.models.projector import write_projector
from tests.models.vocabulary import Behaviour, Vocabulary, vocabulary

TEMPLATE = Path(__file__).with_name("gemma4.jinja")


def write(
    path: Path,
    mmproj_path: Path | None = None,
    behaviour: Behaviour = Behaviour(),  # noqa: B008 - frozen
) -> None:
    """Write the model, and its multimodal projector if a path is given for one."""
    words = vocabulary(behaviour)
    network = weights(words, behaviour)
    writer = GGUFWriter(path, "gemma4")
    _describe(writer, behaviour, feed_forward=network.up.shape[0])
    _write_vocabulary(writer, words)
    _write_network(writer, network)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    if mmproj_path is not None:
        write_projector(mmproj_path, network.image_axes, width=WIDTH)


def _describe(writer: GGUFWriter, behaviour: Behaviour, *, feed_forward: int) -> None:
    writer.add_name("tiny gemma4 automaton")
    writer.add_description("a plan made of weights, for tests; nothing is trained")
    writer.add_context_length(behaviour.context)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(2)
    writer.add_feed_forward_length(feed_forward)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_key_length(HEAD_WIDTH)
    writer.add_value_length(HEAD_WIDTH)
    writer.add_uint32("gemma4.attention.key_length_swa", HEAD_WIDTH)
    writer.add_uint32("gemma4.attention.value_length_swa", HEAD_WIDTH)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_sliding_window(2)
    # Booleans, not a period: the loader reads nothing else for this architecture.
    writer.add_array("gemma4.attention.sliding_window_pattern", [True, False])
    writer.add_uint32("gemma4.attention.shared_kv_layers", 0)
    writer.add_uint32("gemma4.embedding_length_per_layer_input", 0)
    writer.add_rope_freq_base(1e6)
    writer.add_float32("gemma4.rope.freq_base_swa", 1e4)
    writer.add_rope_dimension_count(HEAD_WIDTH)
    writer.add_uint32("gemma4.rope.dimension_count_swa", HEAD_WIDTH)
    # Left out, the loader takes 30, and sampling turns random.
    writer.add_final_logit_softcapping(0.0)
    writer.add_file_type(LlamaFileType.MOSTLY_F16)


def _write_vocabulary(writer: GGUFWriter, words: Vocabulary) -> None:
    writer.add_tokenizer_model("gemma4")
    writer.add_token_list([text for text, _ in words.tokens])
    writer.add_token_scores([0.0] * len(words.tokens))
    writer.add_token_types([int(kind) for _, kind in words.tokens])
    writer.add_token_merges(words.merges)
    writer.add_bos_token_id(words.number["<bos>"])
    writer.add_eos_token_id(words.number["<turn|>"])
    writer.add_unk_token_id(words.number["<unk>"])
    writer.add_pad_token_id(words.number["<pad>"])
    writer.add_add_bos_token(value=True)
    writer.add_add_space_prefix(value=False)
    writer.add_chat_template(TEMPLATE.read_text(encoding="utf-8"))


def _write_network(writer: GGUFWriter, network: Weights) -> None:
    def add(name: str, matrix: Matrix, kind: type[np.generic] = np.float16) -> None:
        writer.add_tensor(name, np.ascontiguousarray(matrix.astype(kind)))

    def norm(name: str, size: int, value: float = 1.0) -> None:
        add(name, np.full(size, value, np.float32), np.float32)

    add("token_embd.weight", network.embedding)
    add("output_norm.weight", network.output_norm, np.float32)
    norm("rope_freqs.weight", HEAD_WIDTH // 2, 1e30)
    for number, attention in enumerate((network.window, network.whole)):
        layer = f"blk.{number}."
        for name, matrix in _named(attention):
            add(f"{layer}attn_{name}.weight", matrix)
        norm(f"{layer}attn_norm.weight", WIDTH)
        norm(f"{layer}attn_q_norm.weight", HEAD_WIDTH)
        norm(f"{layer}attn_k_norm.weight", HEAD_WIDTH)
        # What attention notes comes out as long as a state is.
        norm(f"{layer}post_attention_norm.weight", WIDTH, WIDTH**-0.5)
        norm(f"{layer}ffn_norm.weight", WIDTH)
        last = np.float32(number)  # only the last layer speaks
        add(f"{layer}ffn_gate.weight", network.gate * last)
        add(f"{layer}ffn_up.weight", network.up * last)
        add(f"{layer}ffn_down.weight", network.down * last)
        norm(f"{layer}post_ffw_norm.weight", WIDTH, 100 * WIDTH**-0.5)


def _named(attention: Attention) -> tuple[tuple[str, Matrix], ...]:
    return (
        ("q", attention.query),
        ("k", attention.key),
        ("v", attention.value),
        ("output", attention.output),
    )
