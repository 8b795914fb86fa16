"""Traps of memory, of the KV cache, of pictures and of snapshots."""

from typing import Final

from deployer.core.notices import Severity
from deployer.core.units import size_in_bytes
from deployer.llama.trap import (
    DEFAULT_BATCH,
    DEFAULT_SLOTS,
    DEFAULT_UBATCH,
    UPSTREAM,
    Case,
    Trap,
)

_MANY_CHECKPOINTS: Final = 4
_SMALL_HOST: Final = 24 << 30
_COMPILED_PAIRS: Final = (
    ("f16", "f16"),
    ("bf16", "bf16"),
    ("q8_0", "q8_0"),
    ("q4_0", "q4_0"),
)
_MODAL_GUIDE: Final = "https://modal.com/docs/guide/"


def _checkpoints(case: Case) -> str:
    wanted = case.server.ctx_checkpoints
    many = wanted is None or wanted > _MANY_CHECKPOINTS
    if not (case.is_gemma4 and many):
        return ""
    return "server.ctx_checkpoints" if wanted is not None else "server"


def _prompt_cache(case: Case) -> str:
    modal = case.stack.modal
    if case.stack.engine != "modal" or modal is None or modal.memory is None:
        return ""
    small = size_in_bytes(modal.memory) < _SMALL_HOST
    return "modal.memory" if small and case.server.cache_ram is None else ""


def _concurrent(case: Case) -> str:
    scaling = case.stack.scaling
    wanted = scaling.max_concurrent if scaling is not None else None
    above = wanted is not None and wanted > (case.server.parallel or DEFAULT_SLOTS)
    on_modal = case.stack.engine == "modal"
    return "scaling.max_concurrent" if above and on_modal else ""


def _captures(case: Case) -> bool:
    snapshot = case.stack.snapshot
    wanted = snapshot is not None and snapshot.enabled is not False
    return wanted and case.stack.engine == "modal"


def _mapped(case: Case) -> str:
    return "snapshot" if _captures(case) and case.server.mmap is None else ""


def _capture_memory(case: Case) -> str:
    snapshot = case.stack.snapshot
    of_gpu = snapshot is not None and snapshot.gpu is True and _captures(case)
    unset = case.stack.modal is None or case.stack.modal.memory is None
    return "snapshot.gpu" if of_gpu and unset else ""


def _picture(most: int, case: Case) -> str:
    """Where one picture may become more tokens than a physical batch holds.

    A batch that is no larger than a physical one cuts the picture instead.
    """
    server = case.server
    if not case.is_gemma4 or case.stack.model.mmproj is None:
        return ""
    least = server.image_min_tokens or 0
    tokens = server.image_max_tokens or max(most, least)
    batch = server.batch_size or DEFAULT_BATCH
    held = server.ubatch_size or DEFAULT_UBATCH
    if min(tokens, batch) <= held:
        return ""
    if server.image_max_tokens or least > most:
        name = "max" if server.image_max_tokens else "min"
        return f"server.image_{name}_tokens"
    return "server.ubatch_size" if server.ubatch_size else "model.mmproj"


def _several_pictures(case: Case) -> str:
    seeing = case.is_gemma4 and case.stack.model.mmproj is not None
    return "model.mmproj" if seeing else ""


def _quantised_value(case: Case) -> str:
    server = case.server
    off = server.flash_attn == "off"
    plain = server.cache_type_v in (None, "f32", "f16", "bf16")
    return "server.cache_type_v" if off and not plain else ""


def _mixed_cache(case: Case) -> str:
    server = case.server
    pair = (server.cache_type_k or "f16", server.cache_type_v or "f16")
    compiled = pair in _COMPILED_PAIRS or any(
        case.has_definition(f"GGML_CUDA_FA_{name}") for name in ("ALL_QUANTS", "QUANTS")
    )
    if compiled or server.flash_attn == "off" or case.stack.llama_cpp.cuda is None:
        return ""
    return "server.cache_type_v" if server.cache_type_v else "server.cache_type_k"


def _quantised_window(case: Case) -> str:
    return case.quantised if case.slides else ""


def _not_offloaded(case: Case) -> str:
    return "server.kv_offload" if case.server.kv_offload is False else ""


def _full_window(case: Case) -> str:
    return "server.swa_full" if case.server.swa_full else ""


def _locked_unmapped(case: Case) -> str:
    alone = case.server.mlock is True and case.server.mmap is None
    return "server.mlock" if alone else ""


MEMORY: Final = (
    Trap(
        "context-checkpoints",
        Severity.WARNING,
        f"Gemma 4 with `ctx_checkpoints` unset (32) or above {_MANY_CHECKPOINTS}",
        _checkpoints,
        "context checkpoints take 200 to 300 MiB of host memory each (26B-A4B), 32 of"
        " them for each slot: containers run out of memory",
        "`server.ctx_checkpoints: 1`",
        f"{UPSTREAM}21690",
    ),
    Trap(
        "prompt-cache",
        Severity.WARNING,
        "`modal.memory` below 24 GiB, and `cache_ram` unset",
        _prompt_cache,
        "the prompt cache may take 8 GiB of host memory, beside weights that pass"
        " through it",
        "`server.cache_ram: 1024`, or 0 to turn it off",
        f"{UPSTREAM}21690",
    ),
    Trap(
        "concurrent-above-slots",
        Severity.WARNING,
        "`scaling.max_concurrent` above `server.parallel` (unset: 4 slots)",
        _concurrent,
        "requests beyond the slots wait inside the container: no more throughput, and"
        " a time to the first token several times as long",
        "set `scaling.max_concurrent` to `server.parallel`",
        f"{_MODAL_GUIDE}concurrent-inputs",
    ),
    Trap(
        "mapped-snapshot",
        Severity.WARNING,
        "a snapshot on Modal, and `server.mmap` unset",
        _mapped,
        "the model file is mapped unless told otherwise, and a restore fails where a"
        " mapped file of a Volume moved",
        "`server.mmap: false`",
        f"{_MODAL_GUIDE}memory-snapshots",
    ),
    Trap(
        "capture-memory",
        Severity.NOTE,
        "`snapshot.gpu: true` on Modal, and `modal.memory` unset",
        _capture_memory,
        "at a capture the memory of the GPU passes through that of the host, which is"
        " not reserved",
        "`modal: {memory: 32GiB}`, at least weights and KV cache together",
        f"{_MODAL_GUIDE}memory-snapshots",
    ),
    Trap(
        "picture-above-batch",
        Severity.ERROR,
        "Gemma 4 with a projector, and a picture (at most 280 tokens, or"
        " `image_max_tokens`) above `ubatch_size`",
        lambda case: _picture(280, case),
        "a picture of more tokens than a physical batch ends the server",
        "`server.ubatch_size: 1120` (and `batch_size: 2048`), or a smaller"
        " `server.image_max_tokens`",
        f"{UPSTREAM}23409",
        since=8637,
        until=10820,
    ),
    Trap(
        "large-picture-above-batch",
        Severity.ERROR,
        "Gemma 4 with a projector, and a picture (at most 1120 tokens, or"
        " `image_max_tokens`) above `ubatch_size`",
        lambda case: _picture(1120, case),
        "a picture may be 1120 tokens, and one above a physical batch (512 unless set)"
        " ends the server; builds after b11218 and before b11434 may be right already",
        "`server.ubatch_size: 1120` (and `batch_size: 2048`), or"
        " `server.image_max_tokens: 512`",
        f"{UPSTREAM}28335",
        since=10821,
        until=11433,
    ),
    Trap(
        "several-pictures",
        Severity.WARNING,
        "Gemma 4 with a projector",
        _several_pictures,
        "several pictures in one request, and the projector of E4B, crashed builds of"
        " this range",
        "`tag: b9763` or later",
        f"{UPSTREAM}24633",
        since=9496,
        until=9628,
    ),
    Trap(
        "value-cache",
        Severity.ERROR,
        "a quantised `cache_type_v` with `flash_attn: off`",
        _quantised_value,
        "a quantised V cache needs flash attention: the server does not start",
        "`server.flash_attn: on`",
        "https://github.com/ggml-org/llama.cpp/blob/master/src/llama-context.cpp",
    ),
    Trap(
        "mixed-cache",
        Severity.WARNING,
        "a CUDA build, and types of the K and V cache that are not compiled together"
        " (compiled are f16, bf16, q8_0, q4_0, each with itself)",
        _mixed_cache,
        "this pair has no CUDA kernel of its own unless it is built in: attention gets"
        " much slower",
        "equal types, or `llama_cpp.cmake: [GGML_CUDA_FA_ALL_QUANTS=ON]`",
        "https://github.com/ggml-org/llama.cpp/pull/28079",
    ),
    Trap(
        "quantised-window",
        Severity.WARNING,
        "a quantised KV cache, and a model with a sliding window",
        _quantised_window,
        "a quantised KV cache of a model with a sliding window costs quality",
        "`tag: b8699` or later, or `cache_type_k` and `cache_type_v` of f16",
        f"{UPSTREAM}21513",
        until=8698,
    ),
    Trap(
        "cache-in-host-memory",
        Severity.WARNING,
        "`server.kv_offload: false`",
        _not_offloaded,
        "with the KV cache in host memory this build answers gibberish",
        "another build",
        f"{UPSTREAM}21726",
        since=8702,
        until=8702,
    ),
    Trap(
        "full-window",
        Severity.NOTE,
        "`server.swa_full: true`",
        _full_window,
        "a full cache for the window costs memory, and whole prompts are read again"
        " all the same",
        "leave `server.swa_full` out",
        f"{UPSTREAM}21468",
    ),
    Trap(
        "locked-unmapped",
        Severity.NOTE,
        "`server.mlock: true`, and `server.mmap` unset",
        _locked_unmapped,
        "`mlock` alone stopped meaning that the file is mapped as well: the model is"
        " read as a copy",
        "`server.mmap: true` beside it to map it",
        f"{UPSTREAM}26135",
        since=10156,
    ),
)
