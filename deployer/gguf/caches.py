"""The KV cache and recurrent state of a model: bytes for each layer.

Formulas: ``llama-kv-cache.cpp``, ``llama-kv-cache-iswa.cpp``,
``llama-memory-recurrent.cpp``, ``llama-hparams.cpp`` and the ``load_hparams`` of each
architecture, the same in b8672, b9763 and b10867.  Compared with what a real
llama-server allocates in ``tests/gguf/test_memory_real.py``.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from deployer.gguf.facts import Model, PerLayer
from deployer.gguf.serving import Serving
from deployer.gguf.tensors import CACHE_BITS

_PAD = 256

_PERIODS: Mapping[str, tuple[int, bool]] = {
    "afmoe": (4, False),
    "cohere2": (4, False),
    "cohere2moe": (4, True),
    "exaone-moe": (4, False),
    "exaone4": (4, False),
    "gemma2": (2, False),
    "gemma3": (6, False),
    "gemma3n": (5, False),
    "gpt-oss": (2, False),
    "laguna": (4, True),
    "llama4": (4, False),
    "mellum": (4, False),
    "muse-glimmer": (4, False),
    "olmo2": (4, False),
    "plamo3": (8, False),
    "smallthinker": (4, True),
}
"""Layers from one without a window to the next, and whether it is the first of them."""

_WINDOWS: Mapping[str, int] = {"gemma2": 4096, "exaone-moe": 128}
"""Windows that the code knows and the file need not."""

_FIXED_WINDOWS: Mapping[str, int] = {
    "exaone4": 4096,
    "llama4": 8192,
    "smallthinker": 4096,
}
"""Windows that the code takes whatever size the file states."""

_PATTERNED = frozenset(
    ("gemma4", "gemma4-assistant", "granite-swa", "lfm2", "mimo2", "spark2-5", "step35")
)
"""Architectures that state for each layer whether it has a window."""

_NO_CACHE = frozenset(
    [
        "bert",
        "dream",
        "eurobert",
        "gemma-embedding",
        "jina-bert-v2",
        "jina-bert-v3",
        "llada",
        "llada-moe",
        "modern-bert",
        "neo-bert",
        "nomic-bert",
        "nomic-bert-moe",
        "rnd1",
        "t5encoder",
        "wavtokenizer-dec",
    ]
)

_EVERY_FOURTH = frozenset(("qwen3next", "qwen35", "qwen35moe", "qwen4exp"))
"""Attention in every fourth layer, recurrent state in the others."""

_OWN_CACHES = frozenset(
    ("deepseek32", "deepseek4", "dots3note", "glm-dsa", "glm5-next", "kimi-k3")
)
"""Architectures whose caches hold more than keys and values."""


@dataclass(frozen=True, slots=True)
class Cells:
    """How many tokens a cache has room for."""

    base: int
    """In each stream of a layer without a window."""
    window: int
    """In each stream of a layer with one."""
    streams: int


def cells_of(model: Model, serving: Serving) -> Cells:
    """The room for tokens in each layer."""
    context = _padded(serving.context(model))
    slots, unified = serving.slots, serving.unified
    base = context if unified else _padded(context // slots)
    seen = _window(model) * (slots if unified else 1) + serving.ubatch(model)
    window = base if serving.swa_full else min(base, _padded(seen))
    return Cells(base, window, 1 if unified else slots)


def cache_layers(model: Model, serving: Serving) -> tuple[int, ...]:
    """Bytes of keys, values and recurrent state, layer by layer."""
    cells = cells_of(model, serving)
    swa = windowed_layers(model)
    padded = serving.flash_attn is False and _widest_value(model, swa)
    kept = model.block_count - model.shared_kv_layers
    found = []
    for layer in range(model.block_count):
        recurrent = _is_recurrent(model, layer)
        size = serving.slots * model.state_size if recurrent else 0
        if layer < kept and _has_cache(model, layer):
            size += _pair(model, serving, cells, layer, swa[layer], padded)
        found.append(size)
    return tuple(found)


def windowed_layers(model: Model) -> tuple[bool, ...]:
    """Which layers see a window of the context only."""
    layers, pattern = model.block_count, model.window_pattern
    if not _window(model) or model.architecture in _NO_CACHE:
        return (False,) * layers
    if isinstance(pattern, tuple):
        return tuple(bool(item) for item in (*pattern, *([0] * layers)))[:layers]
    if model.architecture not in _PERIODS:
        return (False,) * layers
    period, dense_first = _PERIODS[model.architecture]
    period = pattern or period
    if dense_first:
        return tuple(layer % period != 0 for layer in range(layers))
    return tuple(layer % period < period - 1 for layer in range(layers))


def checkpoint_size(model: Model, serving: Serving) -> int:
    """Bytes of one context checkpoint: windows and states of one slot; 0 for none."""
    swa = windowed_layers(model)
    cells = min(
        cells_of(model, serving).base,
        _padded(_window(model) + serving.ubatch(model)),
    )
    room = Cells(cells, cells, 1)
    total = 0
    for layer in range(model.block_count - model.shared_kv_layers):
        if swa[layer]:
            total += _pair(model, serving, room, layer, windowed=True, padded=0)
    states = sum(_is_recurrent(model, layer) for layer in range(model.block_count))
    return total + states * model.state_size


def untold_cache(model: Model) -> str:
    """Why the cache of this architecture is not told in full; empty if it is."""
    if model.architecture in _OWN_CACHES:
        return f"architecture `{model.architecture}` keeps more than keys and values"
    return ""


def per_layer(value: PerLayer, layer: int) -> int:
    """The number of one layer."""
    if not isinstance(value, tuple):
        return value
    return value[layer] if layer < len(value) else 0


def _pair(
    model: Model,
    serving: Serving,
    cells: Cells,
    layer: int,
    windowed: bool,  # noqa: FBT001 - of the layer before it
    padded: int,
) -> int:
    """Keys and values of one layer."""
    heads = per_layer(model.kv_heads, layer)
    key = model.key_length_swa if windowed else model.key_length
    value = model.value_length_swa if windowed else model.value_length
    room = (cells.window if windowed else cells.base) * cells.streams
    size = _bytes(room * heads * key, serving.cache_type_k)
    if not model.latent_attention:
        size += _bytes(room * (padded or heads * value), serving.cache_type_v)
    return size


def _bytes(numbers: int, kind: str | None) -> int:
    block, width = CACHE_BITS[kind or "f16"]
    return numbers * width // block


def _widest_value(model: Model, swa: tuple[bool, ...]) -> int:
    """Without flash attention values are padded, where layers differ."""
    widths = {
        per_layer(model.kv_heads, layer)
        * (model.value_length_swa if swa[layer] else model.value_length)
        for layer in range(model.block_count)
    }
    return max(widths) if len(widths) > 1 else 0


def _window(model: Model) -> int:
    name, stated = model.architecture, model.sliding_window
    if name == "exaone4" and model.block_count != 64:
        return 0
    if name in _FIXED_WINDOWS:
        return _FIXED_WINDOWS[name] if stated or name == "llama4" else 0
    if name in _PERIODS or name in _PATTERNED:
        return stated or _WINDOWS.get(name, 0)
    return 0


def _has_cache(model: Model, layer: int) -> bool:
    if model.architecture in _NO_CACHE or not per_layer(model.kv_heads, layer):
        return False
    every_fourth = model.architecture in _EVERY_FOURTH
    return not (every_fourth and _is_recurrent(model, layer))


def _is_recurrent(model: Model, layer: int) -> bool:
    if not model.state_size:
        return False
    if model.architecture in _EVERY_FOURTH:
        return (layer + 1) % (model.attention_interval or 4) != 0
    return model.architecture == "falcon-h1" or not per_layer(model.kv_heads, layer)


def _padded(tokens: int) -> int:
    return -(-tokens // _PAD) * _PAD
