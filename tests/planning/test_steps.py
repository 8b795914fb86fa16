"""From a plan to its steps: what is shown is what is run, in this order."""

from dataclasses import replace

from deployer.engines.registry import Abilities
from deployer.planning.graph import expand
from deployer.planning.plan import Drift, make_plan
from deployer.planning.resources import Graph
from deployer.planning.state import Begun, Loose, State
from deployer.planning.steps import Note, Retire, steps_of
from deployer.show.text import step_text
from deployer.testing import resolved, stack
from tests.applying import OTHER_BUILD, REPLACE, SERVER, WIDER, WIDER_REPLACE
from tests.planning.checking import (
    KEEPS,
    LOCAL,
    MODAL,
    PLAIN,
    SNAPSHOT,
    but,
    deployed,
)

CAPTURED = LOCAL + "snapshot: {enabled: true}\n"
EMPTY = State("demo", "local", lineage="f00d")


def wanted(text: str, abilities: Abilities = PLAIN) -> Graph:
    asked = stack(text)
    return expand(asked, resolved(asked), abilities)


def steps(state: State, graph: Graph, *drift: str) -> list[str]:
    """The steps of a plan, without the keys of what they are about."""
    seen = tuple(Drift(f"demo/{kind}", "seen") for kind in drift)
    told = [*map(step_text, steps_of(make_plan(graph, state, drift=seen)))]
    for key in (it.key for things in (graph.values(), state.serving) for it in things):
        told = [line.replace(f" {key[:8]}", "") for line in told]
    return told


ROLLOUT = [
    "stage demo/server",
    "check demo/server: health",
    "promote demo/server",
    "retire demo/server",
]


def test_nothing_to_do_is_no_step() -> None:
    assert steps(deployed(LOCAL), wanted(LOCAL)) == []
    assert steps(EMPTY, {}) == []


def test_a_candidate_is_proven_before_it_takes_over_and_the_old_one_goes_last() -> None:
    assert steps(deployed(LOCAL), wanted(WIDER)) == ROLLOUT
    new = ["build demo/build, fetch demo/weights", *ROLLOUT[:-1]]
    assert steps(EMPTY, wanted(LOCAL)) == new
    assert steps(deployed(LOCAL), wanted(OTHER_BUILD)) == ["build demo/build", *ROLLOUT]


def test_where_memory_holds_one_server_the_live_one_stops_first() -> None:
    stop = "stop demo/server to make room"
    state = deployed(REPLACE)
    assert steps(state, wanted(WIDER_REPLACE)) == [stop, *ROLLOUT]
    assert stop not in steps(EMPTY, wanted(REPLACE))
    # What needs no candidate stops nothing.
    gated = wanted(REPLACE + "gates: {chat: {}}\n")
    assert steps(state, gated) == ["validate demo/server: health, chat"]


def test_a_snapshot_that_is_gone_is_made_again_with_room_where_it_needs_it() -> None:
    state, graph = deployed(CAPTURED, abilities=KEEPS), wanted(CAPTURED, KEEPS)
    note = "note demo/build, demo/weights, demo/snapshot, demo/server"
    assert steps(state, graph, "snapshot") == ["snapshot demo/snapshot", note]
    assert steps(state, graph, "snapshot", "server") == [
        "snapshot demo/snapshot",
        "start demo/server",
        note,
    ]
    text = CAPTURED + "rollout: {strategy: replace}\n"
    state, graph = deployed(text, abilities=KEEPS), wanted(text, KEEPS)
    roomy = [
        "stop demo/server to make room",
        "snapshot demo/snapshot",
        "start demo/server",
        note,
    ]
    assert steps(state, graph, "snapshot") == roomy
    assert steps(state, graph, "snapshot", "server") == roomy
    assert steps(state, graph, "server") == ["start demo/server"]


def test_an_artefact_that_is_gone_is_made_again_beside_what_runs() -> None:
    state = deployed(LOCAL)
    note = "note demo/build, demo/weights, demo/server"
    assert steps(state, wanted(LOCAL), "build") == ["build demo/build", note]
    assert steps(state, wanted(LOCAL), "server") == ["start demo/server"]


def test_what_changes_in_place_is_named_field_by_field() -> None:
    state = deployed(MODAL)
    scaled = but(MODAL, "min_containers: 0", "min_containers: 2") + "local: {}\n"
    update = "update demo/server in place: scaling.min_containers"
    note = "note demo/build, demo/weights, demo/server"
    assert steps(state, wanted(scaled)) == [update, note]
    gated = scaled + "gates: {chat: {}}\n"
    validate = "validate demo/server: health, chat, auth"
    assert steps(state, wanted(gated)) == [update, validate]


def test_what_is_only_written_down_touches_nothing() -> None:
    state = deployed(LOCAL)
    graph = wanted(LOCAL + "local: {drain: 5s}\n")
    assert steps(state, graph) == ["note demo/build, demo/weights, demo/server"]
    (note,) = steps_of(make_plan(graph, state))
    assert note == Note(tuple(graph.values()))


def test_only_a_server_is_retired_and_then_nothing_is_live() -> None:
    state = deployed(SNAPSHOT, abilities=KEEPS)
    gone = ["retire demo/server", "forget what was live"]
    assert steps(state, {}) == gone
    (retire, _) = steps_of(make_plan({}, state))
    assert retire == Retire(state.live[SERVER])
    # A snapshot that is no longer asked for goes without a word to the server's state.
    guarded = [step.replace(": health", ": health, auth") for step in ROLLOUT]
    assert steps(state, wanted(MODAL)) == guarded


def test_an_unfinished_promotion_ends_first_or_goes() -> None:
    live = deployed(LOCAL)
    state = replace(live, promoting=live.releases[-1], releases=(), live={})
    left = replace(state, loose=(Loose(Begun.STAGED, live.live[SERVER]),))
    assert steps(left, wanted(LOCAL))[0] == "finish promoting release 1"
    gone = ["retire demo/server", "forget what was live"]
    assert steps(left, {}) == gone
    assert steps(state, {}) == gone
    (retire, _) = steps_of(make_plan({}, state))
    assert isinstance(retire, Retire)
    assert retire.record.key == live.live[SERVER].key
    (left_over,) = make_plan({}, state).unfinished
    assert (left_over.begun, left_over.record.key) == (
        Begun.STAGED,
        live.live[SERVER].key,
    )
