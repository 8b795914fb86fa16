"""How much memory a server needs: computed from facts and options, nothing is asked.

What a real llama-server allocates is compared with this in
``tests/gguf/test_memory_real.py``; docs/fit.md holds the figures.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from deployer.gguf.caches import (
    cache_layers,
    cells_of,
    checkpoint_size,
    untold_cache,
    windowed_layers,
)
from deployer.gguf.facts import Facts, Model, PerLayer
from deployer.gguf.serving import Serving
from deployer.planning.fit import Fit, Parts

MIB = 1024 * 1024
GIB = 1024 * MIB

CUDA_CONTEXT = 512 * MIB
"""Of each GPU: context, kernels and workspace of cuBLAS, 300 to 600 MiB."""
MARGIN = GIB
"""Kept free in each GPU: what llama-server's own `--fit` leaves."""
PROCESS = 256 * MIB
"""Host memory of llama-server beside what is computed here."""
CUDA_PROCESS = 512 * MIB
"""Host memory that a process with CUDA takes more."""

_ALL_LOGITS = 9762
"""Last build that may reserve logits for every token of a batch: so does b8672, and
b9763 only for those that are answered."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What a server has: GPUs of one kind, or only host memory."""

    name: str
    memory: int
    """Bytes of one GPU, or of the host; 0 where nobody knows."""
    gpus: int = 0
    """How many of them are GPUs; 0 for the CPU."""
    snapshot: bool = False
    """GPU memory is copied into host memory for a snapshot."""


@dataclass(frozen=True, slots=True)
class _Split:
    """What lies in a GPU, and what in host memory."""

    layers: tuple[bool, ...]
    """Whether each layer lies in a GPU."""
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
    yield "process", PROCESS


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
    if machine.gpus and not model.layer_bytes:
        yield "the tensors were not read: all weights count as in GPU memory"
    if serving.prompt_cache is None:
        yield "`cache_ram: -1` sets no limit to the prompt cache"


def _joined(parts: Iterator[tuple[str, int]]) -> Parts:
    return tuple((name, size) for name, size in parts if size)


def _most(value: PerLayer) -> int:
    return max(value, default=0) if isinstance(value, tuple) else value
