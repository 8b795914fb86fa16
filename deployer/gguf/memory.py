"""How much memory a server needs: computed from facts and options, nothing is asked.

What a real llama-server allocates is compared with this in
``tests/gguf/test_memory_real.py``; docs/fit.md holds the figures.

What a stack leaves unset is llama-server's to choose; the values it chooses are facts
of the builds b8646 to b11434 (``common/common.h``, ``common/arg.cpp``,
``tools/server/server.cpp``), used to estimate and for nothing else.

Formulas: ``llama-kv-cache.cpp``, ``llama-kv-cache-iswa.cpp``,
``llama-memory-recurrent.cpp``, ``llama-hparams.cpp`` and the ``load_hparams`` of each
architecture, the same in b8672, b9763 and b10867.  Compared with what a real
llama-server allocates in ``tests/gguf/test_memory_real.py``.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from deployer.gguf.facts import Facts, Model, PerLayer, draft_types
from deployer.gguf.header import CACHE_BITS
from deployer.planning.plan import Fit, Parts

_AUTO_SLOTS = 4
"""``--parallel`` unset: 4 slots that share one cache."""
_BATCH, _UBATCH = 2048, 512
_CACHE_RAM = 8192
"""MiB of host memory for the prompt cache."""
_CHECKPOINTS = 32
"""Context checkpoints of a slot."""


@dataclass(frozen=True, slots=True)
class Serving:
    """Options of llama-server; None where the stack does not say."""

    build: int | None = None
    ctx_size: int | None = None
    parallel: int | None = None
    batch_size: int | None = None
    ubatch_size: int | None = None
    cache_type_k: str | None = None
    cache_type_v: str | None = None
    kv_unified: bool | None = None
    swa_full: bool = False
    flash_attn: bool | None = None
    kv_offload: bool = True
    mmproj_offload: bool = True
    n_gpu_layers: int | None = None
    """None for all of them."""
    n_cpu_moe: int = 0
    cache_ram: int | None = None
    ctx_checkpoints: int | None = None
    draft_gpu_layers: int | None = None
    draft_cpu_moe: int = 0
    draft_cache_k: str | None = None
    draft_cache_v: str | None = None
    predicts: bool = False
    """The model's own heads draft for it (MTP)."""
    rollback: int = 0
    """Recurrent states kept of each slot beside the newest, to take drafts back."""
    untold: tuple[str, ...] = ()
    """Options that place memory in a way that is not computed."""

    @property
    def of_draft(self) -> "Serving":
        """The options that its draft is served with: for the context of all slots."""
        return replace(
            self,
            cache_type_k=self.draft_cache_k,
            cache_type_v=self.draft_cache_v,
            n_gpu_layers=self.draft_gpu_layers,
            n_cpu_moe=self.draft_cpu_moe,
        )

    @property
    def slots(self) -> int:
        """Requests at a time."""
        return self.parallel or _AUTO_SLOTS

    @property
    def unified(self) -> bool:
        """All slots share one cache."""
        if self.kv_unified is not None:
            return self.kv_unified
        return self.parallel is None

    def context(self, model: Model) -> int:
        """Tokens of all slots together; unset it is what the model was trained for."""
        return self.ctx_size or model.context_length or 4096

    def ubatch(self, model: Model) -> int:
        """Tokens that are computed at once."""
        batch = min(self.batch_size or _BATCH, self.context(model))
        return min(self.ubatch_size or _UBATCH, batch)

    @property
    def prompt_cache(self) -> int | None:
        """Bytes that the prompt cache may grow to; None without a limit."""
        limit = _CACHE_RAM if self.cache_ram is None else self.cache_ram
        return None if limit < 0 else limit * 1024 * 1024

    @property
    def checkpoints(self) -> int:
        """Context checkpoints of all slots."""
        found = self.ctx_checkpoints
        return self.slots * (_CHECKPOINTS if found is None else found)


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
    [
        *("dots3note", "gemma4", "gemma4-assistant", "granite_swa", "lfm2", "maple"),
        *("mimo2", "spark2_5", "step35"),
    ]
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

_INTERVALS: Mapping[str, int] = {
    "minimax-01": 8,
    "qwen3next": 4,
    "qwen35": 4,
    "qwen35moe": 4,
    "qwen4exp": 4,
}
"""Attention in every so-many-th layer and recurrent state in the others, where the file
does not list them."""

_RECURRENT = frozenset(("arwkv7", "mamba", "mamba2", "rwkv6", "rwkv6qwen2", "rwkv7"))
"""Architectures without attention, whatever heads the file states."""

_FORWARD_LAYERS = frozenset(("nemotron_h", "nemotron_h_moe"))
"""Layers are one thing alone: attention, recurrent, or feed-forward."""

_ROLLS_BACK = frozenset(
    [
        *("bailingmoe3", "deepseek4", "glm5-next", "kimi-k3", "lfm2", "lfm2moe"),
        *("nemotron_h", "nemotron_h_moe", "qwen35", "qwen35moe", "qwen4exp"),
    ]
)
"""Architectures whose recurrent states are kept several times to take drafts back."""

_INDEXED: Mapping[str, int] = {
    "deepseek32": 1,
    "dots3note": 1,
    "glm-dsa": 1,
    "glm5-next": 3,
    "hy_v4": 1,
    "minimax-m3": 1,
    "qwen4exp": 2,
}
"""Rows that an indexer keeps of a token, where keys are pooled; else it is one."""

_GLM_TYPES_SINCE = 1 << 20
"""Context from which GLM has indexers in layers that only the code lists."""

_OWN_CACHES = frozenset(("deepseek4",))
"""Architectures whose caches hold more than keys, values, indexers and states."""


class Cells(NamedTuple):
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
    again = serving.rollback if model.architecture in _ROLLS_BACK else 0
    found = []
    for layer in range(model.block_count):
        size = serving.slots * (1 + again) * _state(model, layer)
        if layer < kept and _has_cache(model, layer):
            size += _pair(model, serving, cells, layer, swa[layer], padded)
            size += _indexer(model, serving, cells, layer)
        if serving.predicts and _predicts(model, layer):
            size += _pair(model, serving, cells, layer, swa[layer], padded)
        found.append(size)
    return tuple(found)


def _state(model: Model, layer: int) -> int:
    """Bytes of recurrent state of one sequence in one layer."""
    if not _is_recurrent(model, layer):
        return 0
    return model.state_size + per_layer(model.history_bytes, layer)


def _indexer(model: Model, serving: Serving, cells: Cells, layer: int) -> int:
    """Bytes of the keys by which sparse attention finds tokens: one head of them."""
    name, width = model.architecture, model.indexer_length
    if name not in _INDEXED or not _is_indexed(model, layer):
        return 0
    room = cells.base * cells.streams
    rows = _INDEXED[name] if model.indexer_pool else 1
    size = _bytes(room * width * rows, serving.cache_type_k)
    if name == "minimax-m3":  # its indexer keeps values, too
        size += _bytes(room * model.value_length, serving.cache_type_v)
    return size


def _is_indexed(model: Model, layer: int) -> bool:
    """Return whether a layer with a cache has an indexer of its own."""
    if model.architecture == "minimax-m3":
        return layer >= model.dense_layers
    stated = model.indexer_layers
    return bool(per_layer(stated, layer)) if isinstance(stated, tuple) else True


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
    return total + sum(_state(model, layer) for layer in range(model.block_count))


def untold_cache(model: Model) -> str:
    """Why the cache of this architecture is not told in full; empty if it is."""
    if model.architecture in _OWN_CACHES:
        return f"architecture `{model.architecture}` keeps more than keys and values"
    glm, listed = model.architecture == "glm-dsa", bool(model.indexer_layers)
    if glm and not listed and model.context_length >= _GLM_TYPES_SINCE:
        return "the file does not list the layers with an indexer: all are counted"
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
    # A type of a fork has at most the bits of the default.
    block, width = CACHE_BITS.get(kind or "f16", CACHE_BITS["f16"])
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
    name = model.architecture
    if name in _NO_CACHE or name in _RECURRENT or _predicts(model, layer):
        return False
    if not per_layer(model.kv_heads, layer):
        return False
    if name in _FORWARD_LAYERS and per_layer(model.feed_forward_length, layer):
        return False
    return not (name in _INTERVALS and _is_recurrent(model, layer))


def _is_recurrent(model: Model, layer: int) -> bool:
    name = model.architecture
    if not model.state_size or _predicts(model, layer):
        return False
    if name in _INTERVALS:
        stated = model.recurrent_layers
        if stated:
            return bool(per_layer(stated, layer))
        return (layer + 1) % (model.attention_interval or _INTERVALS[name]) != 0
    if name in _RECURRENT or name == "falcon-h1":
        return True
    forward = name in _FORWARD_LAYERS and per_layer(model.feed_forward_length, layer)
    return not (per_layer(model.kv_heads, layer) or forward)


def _predicts(model: Model, layer: int) -> bool:
    """Return whether a layer is none of the model's own: it predicts further tokens."""
    own = model.block_count - model.prediction_layers
    return 0 < own <= layer


def _padded(tokens: int) -> int:
    return -(-tokens // _PAD) * _PAD


MIB = 1024 * 1024
GIB = 1024 * MIB

CUDA_CONTEXT = 512 * MIB
"""Bytes in each GPU: context, kernels and workspace of cuBLAS, 300 to 600 MiB."""
MARGIN = GIB
"""Kept free in each GPU: what llama-server's own `--fit` leaves."""
PROCESS = 256 * MIB
"""Host memory of llama-server beside what is computed here."""
CUDA_PROCESS = 512 * MIB
"""Host memory that a process with CUDA takes more."""

_ALL_LOGITS = 9762
"""Last build that may reserve logits for every token of a batch: so does b8672, and
b9763 only for those that are answered."""


class Machine(NamedTuple):
    """The memory of a server: GPUs of one type, or only the host."""

    name: str
    memory: int
    """Bytes of one GPU, or of the host; 0 where nobody knows."""
    gpus: int = 0
    """How many of them are GPUs; 0 for the CPU."""
    snapshot: bool = False
    """GPU memory is copied into host memory for a snapshot."""


class _Split(NamedTuple):
    """The parts of a model in GPU memory."""

    layers: tuple[bool, ...]
    """True for each layer in a GPU."""
    output: bool


def fit_on(facts: Facts, serving: Serving, machine: Machine) -> Fit:
    """Return what a server needs on a machine."""
    unsure = tuple(_unsure(facts, serving, machine))
    grows = growth(facts, serving)
    if not machine.gpus:
        parts = _joined(_on_host(facts, serving))
        return Fit(machine.name, machine.memory, parts, grows=grows, unsure=unsure)
    parts = _joined(_on_gpu(facts, serving, machine.gpus))
    host = _joined(_beside(facts, serving))
    if machine.snapshot:
        copied = sum(size for name, size in parts if name != "margin")
        host = (*host, ("snapshot copy", copied))
    capacity = machine.memory * machine.gpus
    return Fit(machine.name, capacity, parts, host, grows, unsure)


def host_memory_needed(
    facts: Facts, serving: Serving, *, gpu: bool, snapshot: bool
) -> int:
    """Bytes of host memory that a container needs, under load too.

    ``gpu``: the model runs in one; ``snapshot``: its memory is captured, which copies
    it into the host.  A prompt cache without a limit counts as the default one.
    """
    machine = Machine("", 0, gpus=1 if gpu else 0, snapshot=snapshot)
    fit = fit_on(facts, serving, machine)
    held = fit.host if gpu else fit.parts
    return sum(size for _, size in (*held, *fit.grows))


def growth(facts: Facts, serving: Serving) -> Parts:
    """Host memory that requests can add: prompt cache and context checkpoints."""
    limit = serving.prompt_cache
    cache = Serving().prompt_cache if limit is None else limit
    checkpoints = serving.checkpoints * checkpoint_size(facts.model, serving)
    found = (("prompt cache", cache or 0), ("checkpoints", checkpoints))
    return tuple((name, size) for name, size in found if size)


def compute_size(model: Model, serving: Serving) -> int:
    """Bytes of compute buffers: an upper bound of the graph's largest moment.

    Masks of the cache, the activations of one batch, and logits; see docs/fit.md for
    how far it is off where it was measured.
    """
    cells, batch = cells_of(model, serving), serving.ubatch(model)
    swa = windowed_layers(model)
    width = model.embedding_length
    heads = _most(model.heads)
    kv = _most(model.kv_heads)
    query = heads * max(model.key_length, model.key_length_swa)
    values = kv * max(model.value_length, model.value_length_swa)
    keys = kv * max(model.key_length, model.key_length_swa)
    attention = 4 * width + 2 * query + keys + values
    room = cells.base + (cells.window if any(swa) else 0)
    forward = max(
        2 * _most(model.feed_forward_length),
        model.experts_used * (2 * model.expert_length + width),
    )
    if serving.flash_attn is False:
        scores = heads * cells.base
        peak = batch * 4 * (room + attention + max(forward, scores))
    else:
        copied = _copied(serving, cells.base * keys, cells.base * values)
        spare = max(4 * batch * forward, copied)
        peak = batch * (2 * room + 4 * attention) + spare
    answered = batch if _reserves_all(serving) else min(batch, serving.slots)
    logits = 4 * (answered * model.vocabulary + 2 * batch * width)
    return max(peak, logits)


def output_size(model: Model, serving: Serving) -> int:
    """Bytes of the logits that are kept for sampling, in host memory."""
    return 4 * model.vocabulary * serving.slots


def _copied(serving: Serving, keys: int, values: int) -> int:
    """Flash attention takes a copy in 16 bits of a cache in 32."""
    kinds = ((serving.cache_type_k, keys), (serving.cache_type_v, values))
    return sum(2 * numbers for kind, numbers in kinds if kind == "f32")


def _reserves_all(serving: Serving) -> bool:
    return serving.build is not None and serving.build <= _ALL_LOGITS


def _on_gpu(facts: Facts, serving: Serving, count: int) -> Iterator[tuple[str, int]]:
    """Yield what lies in GPU memory."""
    model, split = facts.model, _split(facts.model, serving)
    yield "weights", _gpu_weights(model, serving, split)
    if serving.kv_offload:
        caches = cache_layers(model, serving)
        yield "KV", sum(c for c, here in zip(caches, split.layers, strict=True) if here)
    yield "compute", compute_size(model, serving) * count
    if facts.projector and serving.mmproj_offload:
        yield "mmproj", facts.projector.size
    if facts.draft is not None:
        yield "draft", _drafting(_on_gpu(Facts(facts.draft), serving.of_draft, count))
    yield from facts.beside
    yield "context", CUDA_CONTEXT * count
    yield "margin", MARGIN * count


def _beside(facts: Facts, serving: Serving) -> Iterator[tuple[str, int]]:
    """Yield what lies in host memory of a server with a GPU, before any request."""
    model, split = facts.model, _split(facts.model, serving)
    kept = (model.tensor_bytes or model.size) - _gpu_weights(model, serving, split)
    yield "weights", max(kept, model.embedding_bytes)
    caches = cache_layers(model, serving)
    outside = [
        cache
        for cache, here in zip(caches, split.layers, strict=True)
        if not here or not serving.kv_offload
    ]
    yield "KV", sum(outside)
    yield "output", output_size(model, serving)
    if facts.projector and not serving.mmproj_offload:
        yield "mmproj", facts.projector.size
    if facts.draft is not None:
        yield "draft", _drafting(_beside(Facts(facts.draft), serving.of_draft))
    yield "process", PROCESS + CUDA_PROCESS


def _on_host(facts: Facts, serving: Serving) -> Iterator[tuple[str, int]]:
    """Yield what a server without a GPU takes, before any request."""
    model = facts.model
    yield "weights", model.tensor_bytes or model.size
    yield "KV", sum(cache_layers(model, serving))
    yield "compute", compute_size(model, serving)
    yield "output", output_size(model, serving)
    if facts.projector:
        yield "mmproj", facts.projector.size
    if facts.draft is not None:
        yield "draft", _drafting(_on_host(Facts(facts.draft), serving.of_draft))
    yield from facts.beside
    yield "process", PROCESS


def _drafting(parts: Iterator[tuple[str, int]]) -> int:
    """Bytes of a draft: its weights, its cache for every slot, and what it computes."""
    once = ("context", "margin", "process")
    return sum(size for name, size in parts if name not in once)


def _gpu_weights(model: Model, serving: Serving, split: _Split) -> int:
    """Weights in GPU memory; the table of embeddings stays in the host."""
    if not model.layer_bytes:
        return model.size  # the tensors were not read: all of it
    layers = sum(
        size
        for size, here in zip(model.layer_bytes, split.layers, strict=False)
        if here
    )
    experts = sum(
        size
        for layer, size in enumerate(model.expert_bytes)
        if layer < serving.n_cpu_moe and split.layers[layer]
    )
    rest = model.tensor_bytes - sum(model.layer_bytes) - model.embedding_bytes
    output = rest + (model.embedding_bytes if model.tied else 0)
    return layers - experts + (output if split.output else 0)


def _split(model: Model, serving: Serving) -> _Split:
    """The last layers go to the GPU first; one more stands for the output."""
    layers, wanted = model.block_count, serving.n_gpu_layers
    if wanted is None:
        return _Split((True,) * layers, output=True)
    start = max(0, layers + 1 - wanted)
    here = tuple(layer >= start for layer in range(layers))
    return _Split(here, output=wanted > layers)


def _unsure(facts: Facts, serving: Serving, machine: Machine) -> Iterator[str]:
    """Yield what is not in the figures, or only roughly."""
    model = facts.model
    yield from serving.untold
    if reason := untold_cache(model):
        yield reason
    if facts.draft is not None and draft_types(facts.draft):
        name = facts.draft.architecture
        yield f"the cache of a draft of architecture `{name}` is an estimate"
    if serving.predicts and not model.prediction_layers:
        yield "the file states no heads that draft for the model"
    elif serving.predicts:
        yield "the compute buffers of the model's own heads are not counted"
    if machine.gpus and not model.layer_bytes:
        yield "the tensors were not read: all weights count as in GPU memory"
    if serving.prompt_cache is None:
        yield "`cache_ram: -1` sets no limit to the prompt cache"


def _joined(parts: Iterator[tuple[str, int]]) -> Parts:
    return tuple((name, size) for name, size in parts if size)


def _most(value: PerLayer) -> int:
    return max(value, default=0) if isinstance(value, tuple) else value
