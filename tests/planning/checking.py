"""One `check` for all plans: deploy a stack, ask for another, compare the text."""

from collections.abc import Mapping
from dataclasses import replace

from deployer.diagnostics import Place
from deployer.engines.registry import Abilities
from deployer.planning.facts import Facts
from deployer.planning.graph import expand
from deployer.planning.plan import Action, Drift, Plan, make_plan
from deployer.planning.resources import Graph
from deployer.planning.state import Release, State, record_of
from deployer.show.text import plan_text
from deployer.testing import resolved, stack

PLAIN = Abilities(snapshots=False)
KEEPS = Abilities(snapshots=True)
"""Takes snapshots, and restarts a server from the one there is."""
DROPS = Abilities(snapshots=True, restart_drops_snapshot=True)

LOCAL = """\
version: 1
name: demo
engine: local
llama_cpp: {tag: b9763, package: llama-bin==1.0}
model: {path: tiny.gguf, alias: tiny}
server:
  ctx_size: 4096
"""

MODAL = """\
version: 1
name: demo
engine: modal
llama_cpp: {tag: b9763, cuda: "12.8.1"}
model: {repo: some/model-GGUF, quant: Q4_K_M}
gpu: L4
server: {ctx_size: 4096}
auth: {api_key: {env: KEY}}
scaling: {min_containers: 0, scaledown_window: 300}
"""

SNAPSHOT = MODAL + "snapshot: {enabled: true}\n"


def but(text: str, old: str, new: str) -> str:
    """The text with one thing changed that it does hold."""
    assert text.count(old) == 1
    return text.replace(old, new)


def planned(
    before: str | None,
    after: str | None,
    *,
    abilities: Abilities = PLAIN,
    facts_before: Facts | None = None,
    facts_after: Facts | None = None,
    state: State | None = None,
    drift: tuple[Drift, ...] = (),
) -> Plan:
    """The plan for ``after`` where ``before`` is live; None: nothing is."""
    known = state or deployed(before, abilities=abilities, facts=facts_before)
    wanted: Graph = {}
    if after is not None:
        asked = stack(after)
        wanted = expand(asked, facts_after or resolved(asked), abilities)
    plan = make_plan(wanted, known, drift=drift)
    for change in plan.changes:
        assert (change.action is Action.KEEP) == (change.reasons == ())
    return plan


def deployed(
    text: str | None, *, abilities: Abilities = PLAIN, facts: Facts | None = None
) -> State:
    """A state in which a stack is live as its first release."""
    if text is None:
        return State("demo", "local", lineage="f00d")
    asked = stack(text)
    graph = expand(asked, facts or resolved(asked), abilities)
    live = {a: record_of(n, {"made": n.key[:8]}) for a, n in graph.items()}
    release = Release(1, "2026-11-01T12:00:00+00:00", "apply", live)
    empty = State("demo", asked.engine, lineage="f00d", serial=7)
    return replace(empty, live=live, releases=(release,), released=1)


def check(
    before: str | None,
    after: str | None,
    expected: str,
    *,
    abilities: Abilities = PLAIN,
    facts_before: Facts | None = None,
    facts_after: Facts | None = None,
    state: State | None = None,
    drift: tuple[Drift, ...] = (),
    places: Mapping[str, Place] | None = None,
) -> None:
    """Compare the text of a plan, less its heading, its costs, what is unchanged."""
    plan = planned(
        before,
        after,
        abilities=abilities,
        facts_before=facts_before,
        facts_after=facts_after,
        state=state,
        drift=drift,
    )
    heading, body = plan_text(plan, places or {}).split("\n\n", 1)
    assert heading.startswith("demo on ")
    left_out = ("  ✔", "  $ costs")
    lines = [it for it in body.splitlines() if it and not it.startswith(left_out)]
    assert "\n".join(lines) + "\n" == expected
