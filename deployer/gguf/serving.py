"""How a model is served, as far as it decides about memory.

What a stack leaves unset is llama-server's to choose; the values it chooses are facts
of the builds b8646 to b11434 (``common/common.h``, ``common/arg.cpp``,
``tools/server/server.cpp``), used to estimate and for nothing else.
"""

from dataclasses import dataclass

from deployer.gguf.facts import Model

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
    untold: tuple[str, ...] = ()
    """Options that place memory in a way that is not computed."""

    @property
    def slots(self) -> int:
        """Requests at a time."""
        return self.parallel or _AUTO_SLOTS

    @property
    def unified(self) -> bool:
        """Whether all slots share one cache."""
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
