"""Every field of a stack: it states its effect, and costs exactly that."""

import copy
from collections.abc import Iterator, Mapping

import pytest

from deployer.engines.registry import Abilities
from deployer.planning.argv import is_word
from deployer.planning.graph import expand
from deployer.planning.plan import Action, make_plan
from deployer.planning.resources import Graph, Kind
from deployer.planning.state import State, record_of
from deployer.stack.fields.examples import ADDRESS, EXAMPLES, ONE_VALUE
from deployer.stack.fields.marks import Section, fields_of, leaves, marks_at
from deployer.stack.fields.model import Stack
from deployer.stack.fields.schema import written_below
from deployer.stack.fields.server import Drafting
from deployer.stack.fields.values import Effect, JsonValue, Marks
from deployer.testing import facts, stack
from tests.planning.checking import DROPS, KEEPS, PLAIN

EFFECTS: Mapping[str, Effect] = {
    "version": Effect.NOTE,
    "name": Effect.NOTE,
    "engine": Effect.NOTE,
    "extends": Effect.NOTE,
    "llama_cpp": Effect.BUILD,
    "llama_cpp.commit": Effect.GATE,
    "model": Effect.FETCH,
    "model.alias": Effect.SNAPSHOT,
    "model.hub_secret": Effect.NOTE,
    "gpu": Effect.SNAPSHOT,
    "server": Effect.SNAPSHOT,
    "auth": Effect.REDEPLOY,
    "auth.open": Effect.NOTE,
    "snapshot": Effect.SNAPSHOT,
    "snapshot.enabled": Effect.NOTE,
    "snapshot.prime": Effect.NOTE,
    "scaling": Effect.UPDATE,
    "scaling.max_concurrent": Effect.REDEPLOY,
    "scaling.scaleup_window": Effect.REDEPLOY,
    "scaling.target_concurrency": Effect.REDEPLOY,
    "gates": Effect.GATE,
    "rollout": Effect.NOTE,
    "ignore": Effect.NOTE,
    "local": Effect.REDEPLOY,
    "local.start_timeout": Effect.NOTE,
    "local.drain": Effect.NOTE,
    "modal": Effect.REDEPLOY,
    "modal.strategy": Effect.NOTE,
    "modal.tags": Effect.UPDATE,
    "modal.workspace": Effect.NOTE,
    "policy": Effect.NOTE,
}
"""What a change costs, by section, and by field where that differs."""


def paths(section: type[Section], prefix: str = "") -> Iterator[str]:
    """Every field that the class can have, set or not."""
    for name, field in fields_of(section).items():
        if field.section is None or field.file is not None:
            yield f"{prefix}{name}"
        if field.section is not None:
            yield from paths(field.section, f"{prefix}{name}.")


EVERY_PATH = tuple(paths(Stack))


def test_every_field_has_an_example() -> None:
    differ = {*EVERY_PATH} ^ {*EXAMPLES, *ADDRESS, *ONE_VALUE}
    assert differ == set(), "two values each: `deployer/stack/fields/examples.py`"


def test_an_option_is_the_matter_of_one_field() -> None:
    """Or of one for each type of speculative decoding; `explain flag` prints it."""
    homes: dict[tuple[str, str], set[str]] = {}
    for path in EVERY_PATH:
        for flag in marks_at(Stack, path).flags:
            for kind in flag.types or ("",):
                homes.setdefault((flag.name, kind), set()).add(path)
    assert homes
    assert {name: them for name, them in homes.items() if len(them) > 1} == {}


@pytest.mark.parametrize("path", EVERY_PATH)
def test_a_field_costs_what_its_section_says(path: str) -> None:
    around = [p for p in EFFECTS if f"{path}.".startswith(f"{p}.")]
    assert around, "state in `EFFECTS`, above, what a change of its section costs"
    nearest = max(around, key=len)
    assert marks_at(Stack, path).effect is EFFECTS[nearest]


@pytest.mark.parametrize("path", EVERY_PATH)
def test_a_field_or_its_section_states_an_effect(path: str) -> None:
    """None falls back to the strongest effect because nobody thought of it."""
    inside: type[Section] | None = Stack
    stated = []
    for name in path.split("."):
        assert inside is not None
        field = fields_of(inside)[name]
        stated.append(field.effect)
        inside = field.section
    assert any(effect is not None for effect in stated)


@pytest.mark.parametrize("path", EVERY_PATH)
def test_a_field_says_what_it_means(path: str) -> None:
    """The schema and the reference take the sentence below the field."""
    inside: type[Section] = Stack
    *sections, last = path.split(".")
    for name in sections:
        found = fields_of(inside)[name].section
        assert found is not None
        inside = found
    assert written_below(inside)[last].endswith(".")


@pytest.mark.parametrize("path", EXAMPLES)
def test_the_keys_move_exactly_with_the_fields_that_replace(path: str) -> None:
    """Equal facts: what the lock file stands for moves nothing by itself."""
    for abilities in (PLAIN, KEEPS, DROPS):
        before, after = (_graph(path, value, abilities) for value in EXAMPLES[path])
        moved = {n.kind for a, n in after.items() if before[a].key != n.key}
        assert moved == _replaced(path, abilities)


@pytest.mark.parametrize("path", EXAMPLES)
def test_a_change_of_a_field_is_planned_with_that_field_as_a_reason(path: str) -> None:
    before, after = (_graph(path, value, KEEPS) for value in EXAMPLES[path])
    live = {address: record_of(node, {}) for address, node in before.items()}
    plan = make_plan(after, State("demo", "local", lineage="f00d", serial=1, live=live))
    reasons = [r for change in plan.changes for r in change.reasons]
    blamed = {r.path for r in reasons if r.path == path or r.path.startswith(path)}
    assert len(blamed) == 1
    called_for = max(r.calls_for for r in reasons if r.path in blamed)
    assert called_for is _action(marks_at(Stack, path))


@pytest.mark.parametrize("path", EXAMPLES)
def test_both_examples_are_seen_as_they_were_written(path: str) -> None:
    first, second = (_stack(path, value) for value in EXAMPLES[path])
    found = [
        {leaf.path: leaf.value for leaf in leaves(it) if leaf.path.startswith(path)}
        for it in (first, second)
    ]
    assert found[0]
    assert found[0] != found[1]


def test_a_word_of_the_command_line_is_part_of_what_runs() -> None:
    """An option with a weaker effect would change the argv and not the server."""
    for path, values in EXAMPLES.items():
        for leaf in leaves(_stack(path, values[1])):
            assert not is_word(leaf) or leaf.marks.effect is Effect.SNAPSHOT


def _replaced(path: str, abilities: Abilities) -> set[Kind]:
    """Kinds whose key moves with a field; every example asks for snapshots."""
    marks = marks_at(Stack, path)
    runs = {Kind.SNAPSHOT, Kind.SERVER} if abilities.snapshots else {Kind.SERVER}
    match marks.effect:
        case Effect.BUILD | Effect.FETCH if marks.locked:
            return set()
        case Effect.BUILD:
            return {Kind.BUILD, *runs}
        case Effect.FETCH:
            return {Kind.WEIGHTS, *runs}
        case Effect.SNAPSHOT if (
            path.startswith("snapshot.") and not marks.flags and not abilities.snapshots
        ):
            return set()
        case Effect.SNAPSHOT:
            return runs
        case Effect.REDEPLOY:
            return runs if abilities.restart_drops_snapshot else {Kind.SERVER}
        case _:
            return set()


def _action(marks: Marks) -> Action:
    """With equal facts, what is locked is only written down."""
    if marks.locked:
        return Action.NOTE
    match marks.effect:
        case Effect.NOTE:
            return Action.NOTE
        case Effect.GATE:
            return Action.VALIDATE
        case Effect.UPDATE:
            return Action.UPDATE
        case _:
            return Action.REPLACE


def _graph(path: str, value: JsonValue, abilities: Abilities) -> Graph:
    found = _stack(path, value)
    beside = dict.fromkeys([*found.model.sources][1:], "the same")
    return expand(found, facts(beside=beside), abilities)


def _stack(path: str, value: JsonValue) -> Stack:
    """A stack in which one field has a value, on the engine that it is for."""
    content: dict[str, JsonValue] = {
        "version": 1,
        "name": "demo",
        "engine": marks_at(Stack, path).only or "local",
        "llama_cpp": {"tag": "b9763"},
        "model": {},
        "snapshot": {},
        "auth": {"api_key": {"env": "KEY"}},
    }
    place = content = copy.deepcopy(content)
    *sections, last = path.split(".")
    for name in sections:
        inner = place.setdefault(name, {})
        assert isinstance(inner, dict)
        place = inner
    if sections == ["server", "speculative"] and last != "type":
        place["type"] = _type_that_reads(last)
    place[last] = value
    return stack(content)


def _type_that_reads(name: str) -> str:
    """A type of speculative decoding that an option belongs to."""
    types = [it for flag in fields_of(Drafting)[name].flags for it in flag.types]
    return types[0]
