"""Memory as a function of facts and options: no file, no server."""

from dataclasses import replace

import pytest

from deployer.artefacts.json_files import decoded, encoded
from deployer.gguf.choices import contexts, machine_of, matrix, ways_out
from deployer.gguf.facts import Facts, Model, Projector
from deployer.gguf.memory import (
    Machine,
    Serving,
    cache_layers,
    checkpoint_size,
    compute_size,
    fit_on,
    host_memory_needed,
    windowed_layers,
)
from deployer.llama.known.tables import prices
from deployer.planning.plan import Fit
from deployer.show.text import fit_line, fit_text
from deployer.stack.fields.model import GPUS

MIB, GIB = 1024**2, 1024**3
LAYERS = 30
GEMMA = Model(
    architecture="gemma4",
    size=17_100_000_000,
    tensor_bytes=17_100_000_000,
    block_count=LAYERS,
    embedding_length=2816,
    vocabulary=262_144,
    context_length=262_144,
    feed_forward_length=2112,
    heads=16,
    kv_heads=tuple(2 if layer % 6 == 5 else 8 for layer in range(LAYERS)),
    key_length=512,
    value_length=512,
    key_length_swa=256,
    value_length_swa=256,
    sliding_window=1024,
    window_pattern=tuple(int(layer % 6 != 5) for layer in range(LAYERS)),
    experts=128,
    experts_used=8,
    expert_length=704,
    expert_bytes=(500_000_000,) * LAYERS,
    layer_bytes=(540_000_000,) * LAYERS,
    embedding_bytes=600_000_000,
    tied=True,
)
LLAMA = Model(
    architecture="llama",
    size=4_000_000_000,
    block_count=32,
    embedding_length=4096,
    vocabulary=128_256,
    context_length=131_072,
    heads=32,
    kv_heads=8,
    key_length=128,
    value_length=128,
)
ONE = Serving(parallel=1)

PRICES = prices().gpu


def kv(model: Model, serving: Serving) -> int:
    return sum(cache_layers(model, serving))


@pytest.mark.parametrize(
    ("context", "mib"),
    [(8192, 460), (32768, 940), (65536, 1580), (131072, 2860), (262144, 5420)],
)
def test_gemma4_26b_by_context(context: int, mib: int) -> None:
    """As logged for Gemma 4 26B-A4B: llama.cpp issue 22373, ollama issue 15388."""
    assert kv(GEMMA, replace(ONE, ctx_size=context)) == mib * MIB


@pytest.mark.parametrize(
    ("serving", "mib"),
    [
        (Serving(ctx_size=131072), 3460),  # unset: four slots share one cache
        (Serving(ctx_size=131072, parallel=4), 3760),
        (Serving(ctx_size=131072, parallel=4, kv_unified=True), 3460),
    ],
)
def test_gemma4_26b_by_slots(serving: Serving, mib: int) -> None:
    assert kv(GEMMA, serving) == mib * MIB


def test_an_unset_context_is_the_one_of_the_training() -> None:
    assert kv(GEMMA, ONE) == 5420 * MIB


def test_a_model_without_windows() -> None:
    assert kv(LLAMA, replace(ONE, ctx_size=8192)) == 32 * 8192 * 8 * 128 * 2 * 2


def test_quantised_halves_are_counted_apart() -> None:
    half = kv(LLAMA, replace(ONE, ctx_size=8192)) // 2
    mixed = replace(ONE, ctx_size=8192, cache_type_k="q8_0", cache_type_v="q4_0")
    assert kv(LLAMA, mixed) == half * 34 // 64 + half * 18 // 64


def test_layers_that_share_a_cache_have_none() -> None:
    shared = replace(LLAMA, architecture="gemma3n", shared_kv_layers=12)
    sizes = cache_layers(shared, ONE)
    assert all(sizes[:20])
    assert not any(sizes[20:])


def test_a_full_cache_for_windows() -> None:
    full = replace(ONE, ctx_size=8192, swa_full=True)
    window = replace(ONE, ctx_size=8192)
    assert kv(GEMMA, full) > 3 * kv(GEMMA, window)
    assert kv(LLAMA, full) == kv(LLAMA, window)


@pytest.mark.parametrize(
    ("name", "layers", "windowed"),
    [
        ("gemma3", 18, 15),
        ("gemma2", 26, 13),
        ("gpt-oss", 24, 12),
        ("cohere2", 32, 24),
        ("smallthinker", 32, 24),
        ("phi3", 32, 0),  # llama.cpp turns its window off
        ("qwen2", 28, 0),
        ("exaone4", 30, 0),
        ("exaone4", 64, 48),
    ],
)
def test_which_layers_have_a_window(name: str, layers: int, windowed: int) -> None:
    model = replace(LLAMA, architecture=name, block_count=layers, sliding_window=512)
    assert sum(windowed_layers(model)) == windowed


def test_recurrent_layers_keep_a_state_for_each_slot() -> None:
    hybrid = replace(LLAMA, architecture="qwen3next", state_size=3 * MIB)
    sizes = cache_layers(hybrid, Serving(parallel=2, ctx_size=8192))
    assert sizes[0] == sizes[1] == sizes[2] == 6 * MIB
    assert sizes[3] == 8192 * 8 * 128 * 2 * 2


def test_latent_attention_caches_one_half() -> None:
    latent = replace(LLAMA, latent_attention=True)
    assert kv(latent, ONE) * 2 == kv(LLAMA, ONE)


def test_models_without_a_cache() -> None:
    assert kv(replace(LLAMA, architecture="bert"), ONE) == 0


def test_a_checkpoint_holds_windows_and_states() -> None:
    """200 to 300 MiB each for Gemma 4 26B-A4B: llama.cpp issue 21690."""
    assert 200 * MIB < checkpoint_size(GEMMA, ONE) <= 300 * MIB
    assert checkpoint_size(LLAMA, ONE) == 0


def test_old_builds_reserve_logits_for_every_token() -> None:
    old = compute_size(GEMMA, Serving(build=8672, ctx_size=4096))
    assert old > 262_144 * 512 * 4
    assert compute_size(GEMMA, Serving(build=9763, ctx_size=4096)) < old / 3


def gpu_parts(serving: Serving) -> dict[str, int]:
    return dict(fit_on(Facts(GEMMA), serving, machine_of("L40S")).parts)


def test_experts_and_layers_in_host_memory_leave_the_gpu() -> None:
    whole = gpu_parts(ONE)["weights"]
    assert whole - gpu_parts(replace(ONE, n_cpu_moe=10))["weights"] == 5_000_000_000
    half = gpu_parts(replace(ONE, n_gpu_layers=16))
    assert half["weights"] == 15 * 540_000_000  # one of the 16 is the output
    assert half["KV"] < gpu_parts(ONE)["KV"]
    none = gpu_parts(replace(ONE, n_gpu_layers=0))
    assert "weights" not in none
    assert "KV" not in none


def test_a_projector_is_counted_where_it_lies() -> None:
    facts = Facts(GEMMA, Projector(size=GIB, kinds=("gemma4v",)))
    here = fit_on(facts, ONE, machine_of("L40S"))
    host = fit_on(facts, replace(ONE, mmproj_offload=False), machine_of("L40S"))
    assert dict(here.parts)["mmproj"] == dict(host.host)["mmproj"] == GIB


def test_several_gpus_hold_more_and_cost_a_context_each() -> None:
    one, two = (fit_on(Facts(GEMMA), ONE, machine_of("L4", n)) for n in (1, 2))
    assert two.capacity == 2 * one.capacity
    assert dict(two.parts)["context"] == 2 * dict(one.parts)["context"]


def test_host_memory_of_a_container() -> None:
    """Prompt cache and checkpoints by default; a snapshot copies the GPU's memory."""
    facts = Facts(GEMMA)
    bare = Serving(parallel=1, ctx_size=32768, cache_ram=0, ctx_checkpoints=0)
    least = host_memory_needed(facts, bare, gpu=True, snapshot=False)
    assert least < 2 * GIB
    cached = host_memory_needed(
        facts, replace(bare, cache_ram=None), gpu=True, snapshot=False
    )
    assert cached - least == 8 * GIB
    kept = replace(bare, ctx_checkpoints=None)
    checkpoints = host_memory_needed(facts, kept, gpu=True, snapshot=False) - least
    assert checkpoints == 32 * checkpoint_size(GEMMA, bare)
    copied = host_memory_needed(facts, bare, gpu=True, snapshot=True) - least
    assert copied > 17_000_000_000
    on_cpu = host_memory_needed(facts, bare, gpu=False, snapshot=False)
    assert on_cpu > 17_000_000_000


def test_three_ways_out_and_each_one_works() -> None:
    serving = Serving(parallel=4, ctx_size=262_144)
    machine = machine_of("L4")
    assert not fit_on(Facts(GEMMA), serving, machine).holds
    ways = ways_out(Facts(GEMMA), serving, "L4", machine, PRICES)
    assert [dict(way.fields) for way in ways] == [
        {"server.ctx_size": 131072},
        {"server.cache_type_k": "q8_0", "server.cache_type_v": "q8_0"},
        {"gpu": "L40S"},
    ]
    assert all(way.fit.holds for way in ways)
    assert [way.dearer for way in ways] == pytest.approx([0, 0, 1.152])
    larger = replace(serving, ctx_size=196_608)
    assert not fit_on(Facts(GEMMA), larger, machine).holds


def test_weights_that_are_too_large_need_another_gpu_or_the_host() -> None:
    short = replace(ONE, ctx_size=8192)
    ways = ways_out(Facts(GEMMA), short, "T4", machine_of("T4"), PRICES)
    assert "server.n_cpu_moe" in ways[0].fields
    assert [dict(way.fields) for way in ways[1:]] == [{"gpu": "L4"}, {"gpu": "A10"}]


def test_nothing_holds_it() -> None:
    huge = replace(LLAMA, size=900 * GIB)
    assert ways_out(Facts(huge), ONE, "L4", machine_of("L4"), PRICES) == ()


def test_the_matrix_covers_every_gpu_once() -> None:
    cells = matrix(Facts(GEMMA), Serving(ctx_size=20000, parallel=1), PRICES)
    prices = [cell.hourly for cell in cells]
    assert prices == sorted(prices)
    assert {c.gpu for c in cells} == GPUS.keys() - {"A100", "H100!", "B200+"}
    assert {c.cache_type for c in cells} == {"f16", "q8_0", "q4_0"}
    assert 20000 in {c.ctx_size for c in cells}
    assert len(contexts(Facts(GEMMA), Serving(ctx_size=20000))) == 7


def test_one_line() -> None:
    serving = replace(ONE, ctx_size=32768)
    facts = Facts(GEMMA, Projector(size=1_193_058_432, kinds=("gemma4v",)))
    assert fit_line(fit_on(facts, serving, machine_of("L40S"))) == (
        "L40S 48 GB: weights 15.9 + KV 0.9 + compute 0.7 + mmproj 1.1 + margin 1.0"
        " = 19.6 GiB (44 %)"
    )


def test_small_models_are_told_in_mib() -> None:
    small = replace(LLAMA, size=20 * MIB, block_count=1, vocabulary=100)
    serving = replace(ONE, ctx_size=256)
    line = fit_line(fit_on(Facts(small), serving, Machine("here", 0)))
    assert line == "here: weights 20 + KV 1.0 + compute 282 = 303 MiB"


def test_what_is_not_known_is_told() -> None:
    untold = replace(ONE, untold=("`lora` takes or moves memory",), cache_ram=-1)
    odd = replace(LLAMA, architecture="deepseek4")
    fit = fit_on(Facts(odd), untold, machine_of("H100"))
    head = "not in the figures: "
    assert list(fit_text(fit))[-4:] == [
        f"{head}`lora` takes or moves memory",
        f"{head}architecture `deepseek4` keeps more than keys and values",
        f"{head}the tensors were not read: all weights count as in GPU memory",
        f"{head}`cache_ram: -1` sets no limit to the prompt cache",
    ]


def test_a_fit_is_the_same_after_the_cache() -> None:
    fit = fit_on(Facts(GEMMA), ONE, machine_of("L4", snapshot=True))
    assert decoded(Fit, encoded(fit)) == fit
    assert Fit("x", 0, (("a", 5),)).holds
