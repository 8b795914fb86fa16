"""Stacks that a number stands for: every field of Modal's, in combinations."""

import json
from random import Random
from typing import Any

from deployer.llama.build.recipe import Target, refusals
from deployer.planning.graph import architectures_of
from deployer.stack.checks import checks
from deployer.stack.fields.model import GPUS, Stack

_PROMPTS = ("Hello", 'Say "hi"', "Zähle bis drei.", "A\nB", "'''", "{{ 7 * 7 }}", "🦙")
_TAGS = ("b8672", "b9763", "b10434", "b11434", "v0.5.0", "0123abc")


def generated(seed: int) -> Stack:
    """The stack of this number; it breaks no rule."""
    choose = Random(seed)  # noqa: S311 - the same stacks every time
    while True:
        content = _stack(choose)
        stack = Stack.model_validate_json(json.dumps(content))
        target = Target(
            number=None,
            cuda=stack.llama_cpp.cuda,
            architectures=architectures_of(stack),
        )
        if not list(checks(stack)) and not refusals(target):
            return stack


def _stack(choose: Random) -> dict[str, Any]:
    gpu = _maybe(choose, _gpu(choose), 0.8)
    llama: dict[str, Any] = {"tag": choose.choice(_TAGS)}
    if gpu is not None:
        llama["cuda"] = choose.choice(("12.8.1", "12.4", "13.0.2", "13.1"))
    if choose.random() < 0.3:
        llama["patches"] = ["gemma4-thinking-tags"]
    if choose.random() < 0.3:
        llama["cmake"] = ["GGML_CUDA_FA_ALL_QUANTS=ON", 'X="a b"']
    if choose.random() < 0.2 and llama["tag"] == "b11434":
        llama["source"] = "pypi"
    found = {
        "version": 1,
        "name": choose.choice(("a", "demo", "gemma4-prod", "x" * 48)),
        "engine": "modal",
        "llama_cpp": llama,
        "model": _model(choose),
        "gpu": gpu,
        "server": _server(choose),
        "auth": _maybe(
            choose, {"api_key": _key(choose), **_some(choose, proxy=True)}, 0.8
        ),
        "snapshot": _maybe(choose, _snapshot(choose), 0.7),
        "scaling": _maybe(choose, _scaling(choose), 0.7),
        "modal": _maybe(choose, _modal(choose), 0.7),
    }
    return {name: value for name, value in found.items() if value is not None}


def _maybe(choose: Random, value: Any, likely: float) -> Any:
    return value if choose.random() < likely else None


def _some(choose: Random, **values: Any) -> dict[str, Any]:
    return {name: it for name, it in values.items() if choose.random() < 0.5}


def _gpu(choose: Random) -> Any:
    one = choose.choice(sorted(GPUS))
    return choose.choice((one, one, f"{one}:2", [one, choose.choice(sorted(GPUS))]))


def _model(choose: Random) -> dict[str, Any]:
    if choose.random() < 0.2:
        return {"url": "https://example.org/models/tiny-Q8_0.gguf?download=true"}
    hub = {"repo": "some/model-GGUF", "quant": choose.choice(("Q4_K_M", "UD-Q4_K_XL"))}
    more = _some(choose, mmproj="F16", alias="my model", hub_secret="huggingface")
    return {**hub, **more}


def _server(choose: Random) -> dict[str, Any]:
    return _some(
        choose,
        ctx_size=choose.choice((512, 32768)),
        parallel=choose.choice((1, 2, 8)),
        flash_attn="on",
        mmap=False,
        metrics=True,
        cache_ram=choose.choice((-1, 0, 4096)),
        threads=6,
        chat_template="gemma",
        chat_template_kwargs={"enable_thinking": False, "a": ["b", 'c"']},
        tensor_split=[3.0, 1.0],
        flags={"keep": 256, "slot-prompt-similarity": 0.5, "lora": ["a", "b"]},
    )


def _key(choose: Random) -> dict[str, Any]:
    return {"secret": "llama-api-key", **_some(choose, env="MY_KEY")}


def _snapshot(choose: Random) -> dict[str, Any]:
    requests = [
        {
            "prompt": choose.choice(_PROMPTS),
            **_some(choose, max_tokens=8, image="red.png", timeout="90s"),
        }
        for _ in range(choose.randrange(3))
    ]
    enabled = choose.choice((True, "auto", False))
    return {"enabled": enabled, **_some(choose, warmup=requests, prime=3, gpu=True)}


def _scaling(choose: Random) -> dict[str, Any]:
    return _some(
        choose,
        min_containers=choose.choice((0, 1)),
        max_containers=choose.choice((1, 4)),
        buffer_containers=1,
        scaledown_window=choose.choice((2, "5m", "1h")),
        max_concurrent=choose.choice((1, 16)),
        target_concurrency=choose.choice((1, 3)),
        scaleup_window=choose.choice((1, "30s")),
    )


def _mounts(choose: Random) -> list[dict[str, Any]]:
    volume = {"volume": "media", **_some(choose, folder="a/b")}
    bucket = {
        "bucket": "more",
        **_some(choose, folder="x", endpoint="https://r2.example.org", secret="s3"),
    }
    both = [{"at": "/mnt/a", **volume}, {"at": "/mnt/a/b", **bucket}]
    return choose.choice((both, both[:1], both[1:]))


def _modal(choose: Random) -> dict[str, Any]:
    return _some(
        choose,
        environment="dev",
        workspace="tests",
        region=choose.choice(("us", "ap-southeast", "us-east-1", ["eu", "us-west"])),
        routing_region=choose.choice(("us-west", "eu-west")),
        cloud=choose.choice(("aws", "auto")),
        custom_domains=choose.choice((["a.example.org"], ["b.org", "c.example.org"])),
        cpu_limit=choose.choice((8, 64.0)),
        memory_limit=choose.choice(("32GiB", 2**36)),
        ephemeral_disk=choose.choice(("600GiB", "1TiB")),
        nonpreemptible=choose.choice((True, False)),
        request_timeout=choose.choice((60, "2h")),
        startup_timeout=choose.choice(("10m", 1500)),
        strategy=choose.choice(("rolling", "recreate")),
        tags={"team": "search", "cost.center": "a-1"},
        mounts=_mounts(choose),
        endpoint=choose.choice(("web_server", "server")),
        cpu=choose.choice((0.5, 4, 8.0)),
        memory=choose.choice(("24GiB", "500MB", 2**30)),
        image=choose.choice(("ghcr.io/some/image:1", f"x/y@sha256:{'0' * 64}")),
        registry_secret="registry",
    )
