"""One way to run one gate against one server, and to say what should come out."""

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from deployer.gates.harness.client import Comeback, Process, Target
from deployer.gates.harness.runner import GateRequest, run_gates
from deployer.planning.events import Outcome, Verdict
from deployer.stack.fields import gate_options
from deployer.stack.fields.values import JsonValue
from tests.gates.fake_http import KEY, Script
from tests.gates.fake_server import fake_server

STATED: Mapping[str, JsonValue] = {
    "llama_cpp.tag": "b10434",
    "server.ctx_size": 4096,
    "server.parallel": 2,
    "server.metrics": True,
    "model.alias": "tiny",
    "model.path": "tiny.gguf",
    "server.temperature": 0.8,
    "server.top_k": 3,
}
DATA = Path(__file__).parent / "data"
SOUND: Mapping[str, Mapping[str, object]] = {
    "quality": {"file": "prompts.jsonl"},
    "custom": {"command": (sys.executable, "verdict.py")},
}
"""What has to be stated of a gate; files are in the folder `DATA`."""


@dataclass(frozen=True)
class Case:
    """One answer of a server in miniature, and what a gate made of it."""

    test: str
    verdict: Verdict


CASES: list[Case] = []
"""All that was looked at in this run: what `--fault-table` prints."""
PROCESS = Process(pid=os.getpid(), memory=123_000_000)


def section(gate: str, **options: object) -> gate_options.Gate:
    """The parameters of a gate, as a stack would give them."""
    stated = {**SOUND.get(gate, {}), **options}
    if gate == "custom":
        custom = gate_options.Gates.model_validate({gate: {"mine": stated}}).custom
        assert custom is not None
        return custom["mine"]
    found = getattr(gate_options.Gates.model_validate({gate: stated}), gate)
    assert isinstance(found, gate_options.Gate)
    return found


def coming_back(url: str, *, really: bool = True) -> Callable[[float], Comeback]:
    """An engine whose server is back at once, and answers at the address."""
    return lambda _idle: Comeback(really, 0.25, "the image was damaged", url)


def run_one(gate: str, target: Target, **options: object) -> Verdict:
    (verdict,) = run_gates(
        [GateRequest(gate, section(gate, **options))], target, say=lambda _event: None
    )
    CASES.append(Case(os.environ["PYTEST_CURRENT_TEST"], verdict))
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
    other_keys: Mapping[str, str | None] = MappingProxyType({}),
    process: Process = PROCESS,
    folder: Path | None = DATA,
    bring_back: Callable[[float], Comeback] | None = None,
    **options: object,
) -> Verdict:
    """Run one gate against the server in miniature; `because` is part of the reason."""
    with fake_server(script) as server:
        target = Target(
            server.url,
            api_key=key,
            api_key_name=key_name,
            other_keys=other_keys,
            expects=stated,
            build=10434,
            process=process,
            folder=folder,
            bring_back=bring_back or coming_back(server.url),
        )
        verdict = run_one(gate, target, **options)
    assert (verdict.outcome, because in verdict.because) == (outcome, True), verdict
    return verdict


def check_not_passed(gate: str, script: Script, **options: object) -> None:
    """Run one gate against the server in miniature beside a sound live release."""
    with fake_server(script) as server, fake_server(Script()) as sound:
        target = Target(
            server.url,
            api_key=KEY,
            api_key_name="API_KEY",
            expects=STATED,
            build=10434,
            process=PROCESS,
            folder=DATA,
            live=Target(sound.url, api_key=KEY),
            bring_back=coming_back(server.url),
        )
        verdict = run_one(gate, target, **options)
    assert verdict.outcome is not Outcome.PASS, verdict
