"""The gates of `stacks/gemma4-prod.yaml`, with its own limits, can pass."""

from dataclasses import replace
from pathlib import Path

from deployer.engines.contract import Endpoint
from deployer.engines.place import Keys
from deployer.gates.harness.client import Comeback
from deployer.gates.harness.runner import run_gates
from deployer.planning.events import Outcome
from deployer.planning.plan import gates_of
from deployer.planning.resources import Kind
from deployer.stack.fields.gate_options import Gates
from deployer.stack.fields.values import Flat, JsonValue
from deployer.stack.load import load
from deployer.usecases.check import requests_of, target_of
from tests.engines.modal.lowering import PRODUCTION, graph_of
from tests.gates import fake_http as http
from tests.gates import fake_server as fake
from tests.gates.fake_http import KEY, FakeServer, Script
from tests.gates.fake_model import Body, Said, usual_answer, words
from tests.gates.faults.tools import RAW

TEMPLATE = Path(__file__).parents[1] / "models" / "gemma4.jinja"


def as_gemma(body: Body) -> Said:
    """A sound answer on b11434, which leaves tools in the prompt with `none`."""
    if body.get("tool_choice") == "none":
        return Said(RAW)
    if body.get("ignore_eos"):
        return Said(words(body["max_tokens"]))
    return usual_answer(body)


def gemma(expects: Flat) -> FakeServer:
    """A server of that kind as the stack states it: alias, slots, context, template."""
    alias, slots = str(expects["model.alias"]), expects["server.parallel"]
    context = expects["server.ctx_size"]
    assert isinstance(slots, int)
    assert isinstance(context, int)
    props = {
        **fake.props_value(slots),
        "build_info": f"{expects['llama_cpp.tag']}-{'0' * 7}",
        "model_alias": alias,
        "default_generation_settings": {"n_ctx": context // slots},
        "modalities": {"vision": True, "audio": False},
        "chat_template": TEMPLATE.read_text(encoding="utf-8"),
    }
    listed = {"object": "list", "data": [{"id": alias, "aliases": [alias]}]}
    routes = {
        "GET /props": lambda _request: http.as_json(props),
        "GET /v1/models": lambda _request: http.as_json(listed),
    }
    return FakeServer(Script(slots=slots, says=as_gemma), {**fake.ROUTES, **routes})


def test_every_gate_of_the_flagship_passes_on_a_sound_server_of_its_kind() -> None:
    """With the restores that it asks for, each within its limit."""
    stack = load(PRODUCTION).stack
    nodes = {node.kind: node for node in graph_of(stack).values()}
    fields: dict[str, JsonValue] = {}
    for node in nodes.values():
        fields.update(node.fields)
    idle: list[float] = []

    def bring_back(seconds: float) -> Comeback:
        idle.append(seconds)
        return Comeback(really=True, seconds=9.0, detail="restored", url=server.url)

    names = gates_of(nodes[Kind.SERVER].fields)
    with gemma(fields).running() as server:
        there = Endpoint(server.url, ("LLAMA_API_KEY",))
        target = target_of(there, Keys({"LLAMA_API_KEY": KEY}), fields)
        target = replace(target, folder=PRODUCTION.parent, bring_back=bring_back)
        verdicts = run_gates(
            requests_of(names, nodes[Kind.SERVER].fields), target, say=lambda _: None
        )
    failed = {it.gate: it.because for it in verdicts if it.outcome is not Outcome.PASS}
    assert failed == {}
    assert {it.gate for it in verdicts} == set(names)
    assert isinstance(stack.gates, Gates)
    assert set(names) == stack.gates.model_fields_set
    assert idle == [90.0] * 20
