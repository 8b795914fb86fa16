"""The gates by name.  Importing this table imports no gate and no HTTP client."""

from collections.abc import Mapping
from typing import Final

GATES: Final[Mapping[str, str]] = {
    "health": "server:Health",
    "build": "server:Build",
    "props": "server:Props",
    "models": "server:Models",
    "device": "hardware:Device",
    "auth": "server:Auth",
    "errors": "limits:Errors",
    "chat": "chat:Chat",
    "json_schema": "quality:JsonSchema",
    "thinking": "chat:Thinking",
    "thinking_budget": "chat:ThinkingBudget",
    "tools": "tools:Tools",
    "responses_api": "tools:ResponsesApi",
    "messages_api": "tools:MessagesApi",
    "vision": "chat:Vision",
    "audio": "sound:Audio",
    "embeddings": "vectors:Embeddings",
    "rerank": "vectors:Rerank",
    "sampling": "drawing:Sampling",
    "lora": "drawing:Lora",
    "quality": "quality:Quality",
    "regression": "quality:Regression",
    "custom": "custom:Custom",
    "stream": "chat:Stream",
    "metrics": "performance:Metrics",
    "concurrency": "performance:Concurrency",
    "speculative": "drawing:Speculative",
    "prompt_cache": "reuse:PromptCache",
    "slots": "reuse:Slots",
    "speed": "performance:Speed",
    "context": "limits:Context",
    "limits": "limits:Limits",
    "memory": "hardware:Memory",
    "restore": "server:Restore",
}
"""Module in `deployer.gates.checks` and class of every gate, in the order in which they
run and are shown: cheap and basic ones first."""


def gate_of(name: str) -> str:
    """Return the gate of the table for a name: `custom` for `custom.smoke`."""
    return name.partition(".")[0]
