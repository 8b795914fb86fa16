"""One way to run one gate against one server, and to say what should come out."""

from collections.abc import Mapping

from deployer.core import gate_options
from deployer.core.values import JsonValue
from deployer.core.verdict import Outcome, Verdict
from deployer.gates.runner import GateRequest, run_gates
from deployer.gates.target import Target
from tests.gates.fake_http import KEY, Script
from tests.gates.fake_server import fake_server

STATED: Mapping[str, JsonValue] = {
    "llama_cpp.tag": "b10434",
    "server.ctx_size": 4096,
    "server.parallel": 2,
    "server.metrics": True,
    "model.alias": "tiny",
    "model.path": "tiny.gguf",
}


def section(gate: str, **options: object) -> gate_options.Gate:
    """The parameters of a gate, as a stack would give them."""
    given = gate_options.Gates.model_validate({gate: options})
    found = getattr(given, gate)
    assert isinstance(found, gate_options.Gate)
    return found


def run_one(gate: str, target: Target, **options: object) -> Verdict:
    (verdict,) = run_gates(
        [GateRequest(gate, section(gate, **options))], target, say=lambda _event: None
    )
    return verdict


def check(
    gate: str,
    script: Script,
    outcome: Outcome,
    because: str,
    *,
    stated: Mapping[str, JsonValue] = STATED,
    key: str | None = KEY,
    key_name: str = "API_KEY",
    **options: object,
) -> Verdict:
    """Run one gate against the server in miniature; `because` is part of the reason."""
    with fake_server(script) as server:
        target = Target(server.url, api_key=key, api_key_name=key_name, expects=stated)
        verdict = run_one(gate, target, **options)
    assert (verdict.outcome, because in verdict.because) == (outcome, True), verdict
    return verdict
