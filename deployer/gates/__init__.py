"""The gates by name.  Importing this table imports no gate and no HTTP client."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Gate:
    """Where a gate is implemented, and how the runner has to treat it."""

    module: str
    """Module with `measure` and `judge`, imported when the gate runs."""
    limit: float
    """Seconds it may take when the stack states no `timeout`."""
    alone: bool = False
    """Measures what other gates would disturb: nothing runs beside it."""


GATES: Mapping[str, Gate] = {
    "health": Gate("deployer.gates.checks.health", limit=120),
    "build": Gate("deployer.gates.checks.build", limit=30),
    "props": Gate("deployer.gates.checks.props", limit=30),
    "models": Gate("deployer.gates.checks.models", limit=30),
    "device": Gate("deployer.gates.checks.device", limit=60),
    "auth": Gate("deployer.gates.checks.auth", limit=60),
    "errors": Gate("deployer.gates.checks.errors", limit=60),
    "chat": Gate("deployer.gates.checks.chat", limit=120),
    "json_schema": Gate("deployer.gates.checks.json_schema", limit=180),
    "thinking": Gate("deployer.gates.checks.thinking", limit=300),
    "thinking_budget": Gate("deployer.gates.checks.thinking_budget", limit=600),
    "tools": Gate("deployer.gates.checks.tools", limit=600),
    "responses_api": Gate("deployer.gates.checks.responses_api", limit=300),
    "messages_api": Gate("deployer.gates.checks.messages_api", limit=300),
    "vision": Gate("deployer.gates.checks.vision", limit=300),
    "quality": Gate("deployer.gates.checks.quality", limit=1800),
    "regression": Gate("deployer.gates.checks.regression", limit=900),
    "custom": Gate("deployer.gates.checks.custom", limit=600),
    "stream": Gate("deployer.gates.checks.stream", limit=120, alone=True),
    "metrics": Gate("deployer.gates.checks.metrics", limit=120, alone=True),
    "concurrency": Gate("deployer.gates.checks.concurrency", limit=300, alone=True),
    "speed": Gate("deployer.gates.checks.speed", limit=300, alone=True),
    "context": Gate("deployer.gates.checks.context", limit=900, alone=True),
    "memory": Gate("deployer.gates.checks.memory", limit=60, alone=True),
    "restore": Gate("deployer.gates.checks.restore", limit=900, alone=True),
}
"""Every gate in the order in which it runs and is shown: cheap and basic ones first."""


def gate_of(name: str) -> str:
    """The gate of the table that a name belongs to: `custom` for `custom.smoke`."""
    return name.partition(".")[0]
