"""One change of each kind to a stack on Modal: a text, and what stands there after."""

from collections.abc import Mapping

BEFORE = """\
version: 1
name: demo
engine: modal
llama_cpp: {tag: b9763, cuda: "12.8.1"}
model: {repo: some/model-GGUF, quant: Q4_K_M, alias: tiny}
gpu: L40S
server: {ctx_size: 4096, parallel: 2}
auth: {api_key: {secret: llama-api-key}}
snapshot: {enabled: true, warmup: [{prompt: Hello}], prime: 3}
scaling: {min_containers: 0, max_containers: 4, scaledown_window: 300}
modal: {region: us}
gates: {chat: {}, speed: {ttft: 2s}}
rollout: {keep: 3}
"""

CHANGES: Mapping[str, tuple[str, str]] = {
    "nothing": ("version: 1", "version: 1"),
    "another way to write a duration": ("300", "5m"),
    "releases that are kept": ("keep: 3", "keep: 5"),
    "cold starts that capture": ("prime: 3", "prime: 2"),
    "a secret for the hub": ("alias: tiny", "alias: tiny, hub_secret: huggingface"),
    "a gate's limit": ("ttft: 2s", "ttft: 3s"),
    "a new gate": ("chat: {}", "chat: {}, stream: {}"),
    "most containers": ("max_containers: 4", "max_containers: 8"),
    "containers kept warm": ("min_containers: 0", "min_containers: 1"),
    "the window of an idle container": ("300", "120"),
    "scaling and a gate": (
        "scaledown_window: 300}\nmodal: {region: us}\ngates: {chat: {},",
        "scaledown_window: 120}\nmodal: {region: us}\ngates: {chat: {}, stream: {},",
    ),
    "requests at a time": ("max_containers: 4", "max_containers: 4, max_concurrent: 3"),
    "the region": ("region: us", "region: eu"),
    "the kind of endpoint": ("region: us", "region: us, endpoint: server"),
    "memory of a container": ("region: us", "region: us, memory: 32GiB"),
    "the secret of the key": ("secret: llama-api-key", "secret: another"),
    "an option of llama-server": ("ctx_size: 4096", "ctx_size: 8192"),
    "the alias": ("alias: tiny", "alias: small"),
    "a warm-up request": ("prompt: Hello", "prompt: Hi"),
    "the GPU, of one architecture": ("gpu: L40S", "gpu: L4"),
    "the GPU, of another": ("gpu: L40S", "gpu: H100"),
    "snapshots turned off": ("enabled: true", "enabled: false"),
    "another quant": ("Q4_K_M", "Q8_0"),
    "another build": ("b9763", "b9764"),
    "the CUDA toolkit": ("12.8.1", "12.9"),
}
"""What changes, by its name in the tables of tests."""


def after(name: str) -> str:
    """The stack once the change is made."""
    old, new = CHANGES[name]
    assert BEFORE.count(old) == 1, old
    return BEFORE.replace(old, new)
