"""F11: a second way to compare two stacks, written apart, that has to agree.

It knows nothing of keys, marks and graphs: it compares what is written, and a table
says by hand what a change of each field comes to.
"""

import os
import random
from collections.abc import Mapping
from functools import cache
from itertools import product

import pytest

from deployer.planning.graph import expand
from deployer.planning.plan import Action, make_plan
from deployer.planning.resources import Graph
from deployer.planning.state import State, record_of
from deployer.stack.fields.values import JsonValue
from deployer.testing import resolved, stack
from tests.planning.checking import KEEPS

pytestmark = pytest.mark.trust

PAIRS = 100_000 if os.environ.get("DEPLOYER_LONG") else 10_000
BASES = 600
Content = Mapping[str, JsonValue]

CHOICES: Mapping[str, tuple[str, tuple[JsonValue, ...]]] = {
    "llama_cpp.tag": ("build", ("b9700", "b9763", "b9800")),
    "llama_cpp.package": ("build", ("bin==1.0", "bin==1.1", "other==1.0")),
    "llama_cpp.commit": ("validate", (None, "abcdef1", "abcdef2")),
    "model.path": ("weights", ("a.gguf", "b.gguf")),
    "model.alias": ("server", (None, "tiny", "small")),
    "server.ctx_size": ("server", (None, 1024, 4096, 8192)),
    "server.parallel": ("server", (None, 1, 4)),
    "server.cache_type_k": ("server", (None, "q8_0", "f16")),
    "server.flags.keep": ("server", (None, 128, 256)),
    "auth.api_key.env": ("server", (None, "KEY", "OTHER")),
    "scaling.min_containers": ("update", (None, 0, 2)),
    "scaling.max_containers": ("update", (None, 4)),
    "gates.chat.max_tokens": ("validate", (None, 8, 16)),
    "gates.speed.ttft": ("validate", (None, "2s", "3s", "3000ms")),
    "rollout.keep": ("note", (None, 2, 5)),
}
"""What a change of a field comes to, and what it may be."""

_KEY = "auth.api_key.env"
SAME = {"3000ms": "3s"}
STRENGTH = {"note": Action.NOTE, "validate": Action.VALIDATE, "update": Action.UPDATE}


def nested(flat: Content) -> dict[str, JsonValue]:
    """A stack with these fields."""
    found: dict[str, JsonValue] = {"version": 1, "name": "demo", "engine": "modal"}
    found["snapshot"] = {"enabled": False}
    for path, value in flat.items():
        *above, last = path.split(".")
        inside = found
        for step in above:
            below = inside.setdefault(step, {})
            assert isinstance(below, dict)
            inside = below
        if value is not None:
            inside[last] = value
    if "env" not in str(found.get("auth")):
        found.pop("auth", None)
    gates = found["gates"]
    assert isinstance(gates, dict)
    found["gates"] = {name: options for name, options in gates.items() if options}
    return {name: value for name, value in found.items() if value != {}}


def compared(before: Content, after: Content) -> dict[str, tuple[Action, set[str]]]:
    """The action of each kind, and the fields that are reasons for it."""
    changed = {
        path: what
        for path, (what, _) in CHOICES.items()
        if _plain(before[path]) != _plain(after[path])
    }
    artefacts = {kind for kind in ("build", "weights") if kind in changed.values()}
    found: dict[str, tuple[Action, set[str]]] = {}
    for kind in ("build", "weights"):
        mine = {path for path in changed if _kind_of(path) == kind}
        found[kind] = (_action(kind in artefacts, mine, changed), mine)
    mine = {path for path in changed if _kind_of(path) == "server"}
    if (before[_KEY] is None) != (after[_KEY] is None):
        mine.add("gates.auth")  # a key brings its gate
    replaced = bool(artefacts) or "server" in changed.values()
    found["server"] = (_action(replaced, mine, changed), mine | artefacts)
    return found


def _action(replaced: bool, mine: set[str], changed: Mapping[str, str]) -> Action:  # noqa: FBT001
    if replaced:
        return Action.REPLACE
    return max((STRENGTH[changed[path]] for path in mine), default=Action.KEEP)


def _kind_of(path: str) -> str:
    what, _ = CHOICES[path]
    return what if what in ("build", "weights") else "server"


def _plain(value: JsonValue) -> JsonValue:
    return SAME.get(value, value) if isinstance(value, str) else value


def planned(before: Graph, after: Graph) -> dict[str, tuple[Action, set[str]]]:
    """The same from the planner."""
    live = {node.address: record_of(node, {}) for node in before.values()}
    state = State("demo", "modal", lineage="l", serial=1, live=live)
    return {
        change.kind.value: (
            change.action,
            {reason.path for reason in change.reasons if reason.path},
        )
        for change in make_plan(after, state).changes
    }


@cache
def _graph(fields: tuple[tuple[str, JsonValue], ...]) -> Graph:
    asked = stack(nested(dict(fields)))
    return expand(asked, resolved(asked), KEEPS)


def drawn(chance: random.Random) -> dict[str, JsonValue]:
    return {path: chance.choice(values) for path, (_, values) in CHOICES.items()}


def near(fields: Content, chance: random.Random) -> dict[str, JsonValue]:
    """The same but for a few fields: plans are small in real life."""
    other = drawn(chance)
    moved = chance.sample(list(CHOICES), k=chance.choice((0, 1, 1, 1, 2, 3)))
    return {path: other[path] if path in moved else fields[path] for path in CHOICES}


def test_both_agree_on_what_changes_and_why() -> None:
    chance = random.Random(11)  # noqa: S311 - the same pairs in every run
    seen: set[Action] = set()
    stacks = [drawn(chance) for _ in range(BASES)]
    stacks += [near(fields, chance) for fields in stacks for _ in range(3)]
    for _ in range(PAIRS):
        at = chance.randrange(BASES)
        before = stacks[at]
        after = chance.choice(
            (stacks[BASES + at * 3 + chance.randrange(3)], chance.choice(stacks))
        )
        graphs = [_graph(tuple(fields.items())) for fields in (before, after)]
        told = planned(*graphs)
        assert told == compared(before, after), (before, after)
        seen |= {action for action, _ in told.values()}
    expected = {Action.KEEP, Action.NOTE, Action.VALIDATE, Action.UPDATE}
    assert seen == {*expected, Action.REPLACE}


def test_both_agree_on_every_single_change() -> None:
    """Each field, from each value to each other, alone."""
    base = {path: values[-1] for path, (_, values) in CHOICES.items()}
    for path, (_, values) in CHOICES.items():
        for old, new in product(values, repeat=2):
            before, after = {**base, path: old}, {**base, path: new}
            graphs = [_graph(tuple(fields.items())) for fields in (before, after)]
            assert planned(*graphs) == compared(before, after), (path, old, new)
