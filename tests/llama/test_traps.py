"""Each known trap: a stack that is in it, and stacks beside it that are not."""

import itertools
import json
from collections.abc import Collection
from dataclasses import replace
from typing import Any

import pytest

from deployer.diagnostics import Severity
from deployer.llama.catalogue import TABLE, Catalogue, catalogue
from deployer.llama.description import SIGNS
from deployer.llama.known.traps import BLAMES, BY_NUMBER, Trap, traps, traps_of
from deployer.stack.fields.model import Stack

GEMMA = "unsloth/gemma-4-26B-A4B-it-GGUF"
MODAL: dict[str, Any] = {"engine": "modal"}

Change = dict[str, Any]


def stack(**changes: Any) -> Stack:
    """A stack of some Llama on this machine, with these sections."""
    values: Change = {
        "version": 1,
        "name": "demo",
        "engine": "local",
        "llama_cpp": {"tag": "b1"},
        "model": {"repo": "owner/Llama-3-8B-GGUF", "quant": "Q4_K_M"},
        **changes,
    }
    if "model" in changes and "repo" not in changes["model"]:
        values["model"] = {"repo": GEMMA, "quant": "Q4_K_M", **changes["model"]}
    values["llama_cpp"] = {"tag": "b1", **values["llama_cpp"]}
    return Stack.model_validate_json(json.dumps(values))


def gemma(**changes: Any) -> Change:
    return {"model": {"mmproj": "F16"}, **changes}


def cmake(*definitions: str) -> Change:
    return {"llama_cpp": {"cmake": list(definitions)}}


KEY = {"api_key": {"env": "KEY", "secret": "key"}}
CAUGHT: dict[str, list[tuple[Change, int, str]]] = {
    "cuda-miscompiles": [
        ({"llama_cpp": {"cuda": "13.2.0"}, "gpu": "L4"}, 9763, "llama_cpp.cuda"),
    ],
    "cuda-architecture": [
        ({"llama_cpp": {"cuda": "12.4.1"}, "gpu": "B200"}, 9763, "llama_cpp.cuda"),
        ({"llama_cpp": {"cuda": "12.8.1"}, "gpu": "B300"}, 9763, "llama_cpp.cuda"),
    ],
    "gemma4-early": [
        (gemma(), 8637, "llama_cpp.tag"),
        (gemma(), 8677, "llama_cpp.tag"),
    ],
    "gemma4-unsettled": [(gemma(), 8752, "llama_cpp.tag")],
    "gemma4-pinned-template": [
        ({"model": {"revision": "abc1234"}}, 9763, "model.revision"),
    ],
    "gemma4-draft": [
        (
            gemma(server={"flags": {"spec-type": "draft-mtp"}}),
            9763,
            "server.flags.spec-type",
        ),
    ],
    "client-tools": [
        (
            {"auth": KEY, "server": {"flags": {"tools": "all"}}},
            11434,
            "server.flags.tools",
        ),
        (
            {"auth": KEY, "server": {"flags": {"mcp-servers-json": "{}"}}},
            11434,
            "server.flags.mcp-servers-json",
        ),
    ],
    "router-options": [
        ({"server": {"flags": {"models-max": 1}}}, 11434, "server.flags.models-max"),
    ],
    "gpu-options-on-cpu": [
        ({"server": {"n_gpu_layers": 99}}, 11434, "server.n_gpu_layers"),
        ({"server": {"tensor_split": [3, 1]}}, 11434, "server.tensor_split"),
        (
            {"server": {"main_gpu": 1}, "llama_cpp": {"source": "release"}},
            11434,
            "server.main_gpu",
        ),
    ],
    "embeddings-above-batch": [
        (
            {"server": {"embeddings": True, "ctx_size": 2048}},
            11434,
            "server.ctx_size",
        ),
        ({"server": {"embeddings": True}}, 11434, "server.embeddings"),
        (
            {"server": {"reranking": True, "ctx_size": 4096, "ubatch_size": 1024}},
            11434,
            "server.ubatch_size",
        ),
    ],
    "ui-download": [(cmake("LLAMA_USE_PREBUILT_UI=ON"), 9763, "llama_cpp.cmake")],
    "no-ui": [({"server": {"ui": True}}, 9763, "server.ui")],
    "shallow-build": [
        (
            {"llama_cpp": {"package": "llama==1"}, "gates": {"build": {}}},
            10434,
            "gates.build",
        ),
    ],
    "guarded-models": [
        ({**MODAL, "auth": KEY}, 10698, "auth"),
        ({"auth": KEY, "local": {"host": "192.0.2.7"}}, 10698, "auth"),
    ],
    "redirect-after-150s": [(MODAL, 9763, "engine")],
    "attention-kernels-unknown": [
        (cmake("GGML_CUDA_FA_QUANTS=all"), 9763, "llama_cpp.cmake"),
    ],
    "attention-kernels-renamed": [
        (cmake("GGML_CUDA_FA_ALL_QUANTS=ON"), 11434, "llama_cpp.cmake"),
    ],
    "context-checkpoints": [
        (gemma(), 11434, "server"),
        (gemma(server={"ctx_checkpoints": 32}), 8672, "server.ctx_checkpoints"),
    ],
    "prompt-cache": [({**MODAL, "modal": {"memory": "16GiB"}}, 9763, "modal.memory")],
    "concurrent-above-slots": [
        (
            {**MODAL, "server": {"parallel": 2}, "scaling": {"max_concurrent": 8}},
            9763,
            "scaling.max_concurrent",
        ),
        (
            {**MODAL, "scaling": {"target_concurrency": 5}},
            9763,
            "scaling.target_concurrency",
        ),
    ],
    "mapped-snapshot": [({**MODAL, "snapshot": {"enabled": True}}, 9763, "snapshot")],
    "capture-memory": [({**MODAL, "snapshot": {"gpu": True}}, 9763, "snapshot.gpu")],
    "picture-above-batch": [
        (gemma(server={"image_max_tokens": 560}), 8672, "server.image_max_tokens"),
        (gemma(server={"image_min_tokens": 560}), 8672, "server.image_min_tokens"),
        (gemma(server={"ubatch_size": 256}), 9251, "server.ubatch_size"),
    ],
    "large-picture-above-batch": [
        (gemma(), 10821, "model.mmproj"),
        (gemma(server={"image_min_tokens": 64}), 10821, "model.mmproj"),
        (gemma(server={"ubatch_size": 1024}), 11218, "server.ubatch_size"),
    ],
    "several-pictures": [(gemma(), 9628, "model.mmproj")],
    "value-cache": [
        (
            {"server": {"flash_attn": "off", "cache_type_v": "q8_0"}},
            11434,
            "server.cache_type_v",
        ),
    ],
    "mixed-cache": [
        (
            {
                "llama_cpp": {"cuda": "12.8.1"},
                "gpu": "L4",
                "server": {"cache_type_k": "q8_0"},
            },
            9763,
            "server.cache_type_k",
        ),
        (
            {
                "llama_cpp": {"cuda": "12.8.1"},
                "gpu": "L4",
                "server": {"cache_type_k": "q5_0", "cache_type_v": "q5_0"},
            },
            9763,
            "server.cache_type_v",
        ),
    ],
    "quantised-window": [
        (gemma(server={"cache_type_k": "q8_0"}), 8698, "server.cache_type_k"),
    ],
    "cache-in-host-memory": [
        ({"server": {"kv_offload": False}}, 8702, "server.kv_offload"),
    ],
    "full-window": [({"server": {"swa_full": True}}, 9763, "server.swa_full")],
    "locked-unmapped": [({"server": {"mlock": True}}, 10435, "server.mlock")],
    "budget-ignored": [
        (gemma(gates={"thinking_budget": {}}), 8672, "gates.thinking_budget"),
        (gemma(server={"reasoning_budget": 64}), 8743, "server.reasoning_budget"),
    ],
    "thinking-unbounded": [
        (gemma(), 8746, "llama_cpp.tag"),
        (
            gemma(llama_cpp={"patches": ["gemma4-thinking-tags"]}),
            8672,
            "llama_cpp.tag",
        ),
    ],
    "budget-at-once": [
        (
            {
                "model": {"repo": "o/gemma-4-31B-it-GGUF", "quant": "Q4_0"},
                "server": {"reasoning_budget": 64},
            },
            8783,
            "server.reasoning_budget",
        ),
    ],
    "budget-of-server-wins": [
        (
            {"server": {"reasoning_budget": 64}, "gates": {"thinking_budget": {}}},
            9496,
            "server.reasoning_budget",
        ),
    ],
    "budget-message": [
        (
            {"server": {"reasoning_budget_message": "Enough."}},
            9033,
            "server.reasoning_budget_message",
        ),
    ],
    "budget-zero": [
        ({"server": {"reasoning_budget": 0}}, 11434, "server.reasoning_budget"),
    ],
    "budget-cut": [
        (
            {
                "model": {"repo": "o/Qwen3-8B-GGUF", "quant": "Q4_0"},
                "server": {"reasoning_budget": 64},
            },
            9960,
            "server.reasoning_budget",
        ),
    ],
    "tool-choice-named": [
        ({"gates": {"tools": {"modes": ["named"]}}}, 11434, "gates.tools"),
    ],
    "tool-choice-none": [
        ({"gates": {"tools": {"modes": ["none"]}}}, 11434, "gates.tools")
    ],
    "tool-choice-required": [
        ({"gates": {"tools": {"modes": ["required"]}}}, 11003, "gates.tools")
    ],
    "gemma4-tool-calls": [(gemma(gates={"tools": {}}), 8949, "gates.tools")],
    "grammar-unused-token": [
        (gemma(gates={"json_schema": {}}), 9763, "gates.json_schema"),
    ],
}
SPARED: dict[str, list[tuple[Change, int]]] = {
    "cuda-miscompiles": [({"llama_cpp": {"cuda": "13.0.2"}, "gpu": "L4"}, 9763)],
    "cuda-architecture": [({"llama_cpp": {"cuda": "12.8.1"}, "gpu": "B200"}, 9763)],
    "gemma4-early": [(gemma(), 8678), ({}, 8650)],
    "gemma4-unsettled": [(gemma(), 8753), ({}, 8700)],
    "gemma4-pinned-template": [
        ({"model": {"revision": "main"}}, 9763),
        ({"model": {"revision": "abc"}, "server": {"chat_template": "x"}}, 9763),
    ],
    "gemma4-draft": [(gemma(), 9763)],
    "client-tools": [({"server": {"flags": {"tools": False}}}, 11434)],
    "router-options": [({"server": {"flags": {"keep": 1}}}, 11434)],
    "gpu-options-on-cpu": [
        ({"server": {"n_gpu_layers": 0, "split_mode": "none"}}, 11434),
        ({"server": {"n_gpu_layers": 99}, "llama_cpp": {"cuda": "12.8.1"}}, 11434),
        ({"server": {"n_gpu_layers": 99}, **cmake("GGML_VULKAN=ON")}, 11434),
        ({"server": {"device": ["none"]}, "llama_cpp": {"binary": "x"}}, 11434),
    ],
    "embeddings-above-batch": [
        (
            {"server": {"embeddings": True, "ctx_size": 2048, "ubatch_size": 2048}},
            11434,
        ),
        (
            {"server": {"embeddings": True, "ctx_size": 1024, "parallel": 2}},
            11434,
        ),
        ({"server": {"ctx_size": 2048}}, 11434),
    ],
    "ui-download": [(cmake("LLAMA_USE_PREBUILT_UI=OFF"), 9763)],
    "no-ui": [
        ({"server": {"ui": False}}, 9763),
        ({"server": {"ui": True}, "llama_cpp": {"package": "llama==1"}}, 9763),
    ],
    "shallow-build": [
        (
            {
                "llama_cpp": {"package": "llama==1", "commit": "7e4c0a9"},
                "gates": {"build": {}},
            },
            10434,
        ),
        ({"gates": {"build": {}}}, 10434),
        (
            {
                "llama_cpp": {"package": "llama==1", "tag": "7e4c0a9"},
                "gates": {"build": {}},
            },
            10434,
        ),
    ],
    "guarded-models": [({"auth": KEY}, 10698), ({**MODAL, "auth": KEY}, 10435)],
    "redirect-after-150s": [
        ({**MODAL, "scaling": {"min_containers": 1}}, 9763),
        ({**MODAL, "modal": {"endpoint": "server"}}, 9763),
        ({}, 9763),
    ],
    "attention-kernels-unknown": [(cmake("GGML_CUDA_FA_QUANTS=all"), 10876)],
    "attention-kernels-renamed": [(cmake("GGML_CUDA_FA_ALL_QUANTS=ON"), 10875)],
    "context-checkpoints": [(gemma(server={"ctx_checkpoints": 1}), 9763), ({}, 9763)],
    "prompt-cache": [
        ({**MODAL, "modal": {"memory": "64GiB"}}, 9763),
        ({**MODAL, "modal": {"memory": "16GiB"}, "server": {"cache_ram": 512}}, 9763),
    ],
    "concurrent-above-slots": [({**MODAL, "scaling": {"max_concurrent": 8}}, 9763)],
    "mapped-snapshot": [
        ({**MODAL, "snapshot": {}, "server": {"mmap": False}}, 9763),
        ({**MODAL, "snapshot": {"enabled": False}}, 9763),
    ],
    "capture-memory": [
        ({**MODAL, "snapshot": {"gpu": True}, "modal": {"memory": "64GiB"}}, 9763),
    ],
    "picture-above-batch": [
        (gemma(), 9763),
        (gemma(server={"image_max_tokens": 560, "ubatch_size": 560}), 9763),
        # seen on b10434: a batch that is no larger cuts the picture
        (gemma(server={"ubatch_size": 64, "batch_size": 64}), 10434),
        ({"model": {}, "server": {"ubatch_size": 64}}, 9763),
    ],
    "large-picture-above-batch": [
        (gemma(server={"ubatch_size": 1120}), 11218),
        (gemma(server={"image_max_tokens": 512}), 11218),
        (gemma(server={"image_min_tokens": 64, "ubatch_size": 1120}), 11218),
        (gemma(), 11434),
    ],
    "several-pictures": [(gemma(), 9763), ({"model": {}}, 9628)],
    "value-cache": [
        ({"server": {"flash_attn": "on", "cache_type_v": "q8_0"}}, 9763),
        ({"server": {"flash_attn": "off", "cache_type_v": "f16"}}, 9763),
    ],
    "mixed-cache": [
        ({"server": {"cache_type_k": "q8_0"}}, 9763),
        (
            {
                "llama_cpp": {
                    "cuda": "12.8.1",
                    "cmake": ["GGML_CUDA_FA_ALL_QUANTS=ON"],
                },
                "gpu": "L4",
                "server": {"cache_type_k": "q8_0"},
            },
            9763,
        ),
    ],
    "quantised-window": [
        (gemma(server={"cache_type_k": "q8_0"}), 8699),
        ({"server": {"cache_type_k": "q8_0"}}, 8672),
    ],
    "cache-in-host-memory": [({"server": {"kv_offload": False}}, 8703)],
    "full-window": [({"server": {"swa_full": False}}, 9763)],
    "locked-unmapped": [({"server": {"mlock": True, "mmap": True}}, 10435)],
    "budget-ignored": [
        (gemma(), 8672),
        (gemma(gates={"thinking_budget": {}}), 8744),
        (
            gemma(
                gates={"thinking_budget": {}},
                llama_cpp={"patches": ["gemma4-thinking-tags"]},
            ),
            8672,
        ),
        ({"gates": {"thinking_budget": {}}}, 8672),
    ],
    "thinking-unbounded": [
        (gemma(), 8672),
        (gemma(server={"reasoning_budget": 64}), 8746),
        (gemma(), 8929),
    ],
    "budget-at-once": [(gemma(server={"reasoning_budget": 64}), 8783)],
    "budget-of-server-wins": [({"server": {"reasoning_budget": 64}}, 9496)],
    "budget-message": [({"server": {"reasoning_budget_message": "x"}}, 9079)],
    "budget-zero": [
        ({"server": {"reasoning_budget": 1}}, 11434),
        ({"server": {"reasoning_budget": 0, "reasoning": "off"}}, 11434),
        (
            {
                "server": {
                    "reasoning_budget": 0,
                    "chat_template_kwargs": {"enable_thinking": False},
                }
            },
            11434,
        ),
    ],
    "budget-cut": [({"server": {"reasoning_budget": 64}}, 9960)],
    "tool-choice-named": [({"gates": {"tools": {}}}, 11434)],
    "tool-choice-none": [
        ({"gates": {"tools": {"expect": "known_limits"}}}, 11434),
        ({"gates": {"tools": {"advisory": True}}}, 11434),
    ],
    "tool-choice-required": [({"gates": {"tools": {}}}, 11218)],
    "gemma4-tool-calls": [(gemma(gates={"tools": {}}), 8950)],
    "grammar-unused-token": [(gemma(gates={"json_schema": {}}), 10001)],
}


@pytest.mark.parametrize(
    ("table", "names"),
    [("BLAMES", BLAMES), ("CAUGHT", CAUGHT), ("SPARED", SPARED)],
)
def test_every_trap_has_a_condition_a_stack_in_it_and_one_beside_it(
    table: str, names: Collection[str]
) -> None:
    assert {*traps()} == {*names}, f"traps.toml and `{table}` differ"


@pytest.mark.parametrize(
    ("name", "changes", "build", "path"),
    [(name, *case) for name, cases in CAUGHT.items() for case in cases],
)
def test_a_stack_in_the_trap_is_told(
    name: str, changes: Change, build: int, path: str
) -> None:
    found = {
        caught.code: caught.path
        for caught in traps_of(stack(**changes), catalogue(build))
    }

    assert found.get(name) == path


@pytest.mark.parametrize(
    ("name", "changes", "build"),
    [(name, *case) for name, cases in SPARED.items() for case in cases],
)
def test_a_stack_beside_the_trap_is_not(name: str, changes: Change, build: int) -> None:
    assert name not in {c.code for c in traps_of(stack(**changes), catalogue(build))}


@pytest.mark.parametrize("trap", traps().values(), ids=lambda trap: trap.id)
def test_a_trap_ends_where_its_range_does(trap: Any) -> None:
    changes, build, _ = CAUGHT[trap.id][0]
    assert trap.since <= build <= trap.until
    for outside in (trap.since - 1, trap.until + 1):
        found = {c.code for c in traps_of(stack(**changes), catalogue(outside))}
        assert trap.id not in found


def test_without_a_build_only_what_all_have_is_told() -> None:
    found = {c.code for c in traps_of(stack(**gemma()), catalogue(None))}

    assert found == {"context-checkpoints"}


def stated(build: int | None, *facts: str) -> Catalogue:
    """A build whose source was read, and states exactly these facts of each kind."""
    kinds = ("definition", "open-route", "sign", "field", "route")
    names = {it: frozenset[str]() for it in kinds}
    for kind, _, name in (it.partition(" ") for it in facts):
        names[kind] = names.get(kind, frozenset()) | {name}
    return replace(catalogue(build), stated=names, origin="source tree")


DECIDED = [it for it in traps().values() if it.has or it.lacks]


@pytest.mark.parametrize("trap", DECIDED, ids=lambda trap: trap.id)
@pytest.mark.parametrize("build", [1, 10**8, None])
def test_what_a_source_states_decides_and_not_the_number(
    trap: Trap, build: int | None
) -> None:
    """A fork may lack what upstream has, and a patch may bring what came later."""
    changes, _, _ = CAUGHT[trap.id][0]
    for has, lacks in itertools.product((True, False), repeat=2):
        facts = [trap.has] * has + [trap.lacks] * lacks
        known = stated(
            build, *(it for it in facts if it and not it.startswith("value"))
        )
        if trap.has.startswith("value"):
            known = replace(known, **options_of(11434 if has else 10105))
        wanted = (not trap.has or has) and not (trap.lacks and lacks)
        found = {it.code: it.what for it in traps_of(stack(**changes), known)}
        assert (trap.id in found) == wanted
        assert BY_NUMBER not in found.get(trap.id, "")


def options_of(build: int) -> dict[str, Any]:
    of = catalogue(build)
    return {"exact": True, "options": of.options, "by_name": of.by_name, "beyond": ""}


@pytest.mark.parametrize("trap", DECIDED, ids=lambda trap: trap.id)
def test_a_sign_that_decides_is_one_that_is_read(trap: Trap) -> None:
    for fact in (trap.has, trap.lacks):
        kind, _, name = fact.partition(" ")
        assert kind != "sign" or name in SIGNS


def test_what_only_the_number_says_of_a_build_that_was_not_read_is_marked() -> None:
    """The table has b8929 and not b8900; a source shows no such behaviour."""
    unread = {it.code: it.what for it in traps_of(stack(**gemma()), catalogue(8900))}
    assert catalogue(8900).origin == TABLE
    assert unread["thinking-unbounded"].endswith(f"({BY_NUMBER})")
    assert BY_NUMBER not in unread["context-checkpoints"]
    read = {it.code: it.what for it in traps_of(stack(**gemma()), stated(8700))}
    assert "gemma4-unsettled" in read
    assert not [what for what in read.values() if BY_NUMBER in what]


@pytest.mark.parametrize(("default", "told"), [("512", True), ("8192", False)])
def test_a_default_that_the_build_states_decides(default: str, *, told: bool) -> None:
    """A context of a slot above the physical batch, which a fork may have larger."""
    of = catalogue(11434)
    batch = replace(of.by_name["--ubatch-size"], default=default)
    known = replace(of, by_name={**of.by_name, "--ubatch-size": batch})
    one = stack(server={"embeddings": True, "ctx_size": 4096})
    found = {it.code for it in traps_of(one, known)}
    assert ("embeddings-above-batch" in found) == told


def test_an_ignored_trap_is_silent() -> None:
    ignored = [{"trap": "context-checkpoints", "reason": "the host has 256 GiB"}]

    assert traps_of(stack(**gemma(ignore=ignored)), catalogue(9763)) == ()


def test_an_ignore_that_matches_nothing_is_a_note() -> None:
    ignored = [{"trap": "budget-zero", "reason": "no reason"}]

    (caught,) = traps_of(stack(ignore=ignored), catalogue(9763))

    assert (caught.severity, caught.path) == (Severity.NOTE, "ignore.0.trap")


def test_an_unknown_name_is_an_error_with_the_nearest() -> None:
    ignored = [{"trap": "context-checkpoint", "reason": "a slip"}]

    (caught,) = traps_of(stack(ignore=ignored), catalogue(9763))

    assert caught.severity is Severity.ERROR
    assert caught.hint == "did you mean `context-checkpoints`?"
