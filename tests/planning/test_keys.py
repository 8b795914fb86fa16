"""Content keys: the same on every machine, and different for everything else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployer.planning.graph import RECIPES, expand
from deployer.planning.resources import Kind, digest, key_of
from deployer.stack.fields.values import JsonValue
from deployer.testing import facts, stack
from tests.planning.checking import LOCAL, PLAIN

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)


def test_the_key_of_today_is_the_key_of_tomorrow() -> None:
    """A key that moves by itself rebuilds everything everybody has."""
    key = key_of("build", 1, {"llama_cpp.cuda": "12.8"}, {"weights": "w"})
    assert key == "830ad6e221123dcf5b3fb937623d26a5c355d969f0b02620b92a2ba7739b2223"


def test_a_key_is_of_the_kind_the_recipe_the_content_and_the_needs() -> None:
    keys = {
        key_of("build", 1, {"a": 1}, {"w": "x"}),
        key_of("server", 1, {"a": 1}, {"w": "x"}),
        key_of("build", 2, {"a": 1}, {"w": "x"}),
        key_of("build", 1, {"a": 2}, {"w": "x"}),
        key_of("build", 1, {"a": 1}, {"w": "y"}),
        key_of("build", 1, {"a": 1}, {"v": "x"}),
    }
    assert len(keys) == 6


@given(st.dictionaries(st.text(max_size=3), JSON, max_size=4))
def test_the_order_of_keys_does_not_matter(content: dict[str, JsonValue]) -> None:
    backwards = dict(reversed(content.items()))
    assert digest(content) == digest(backwards)


@given(JSON, JSON)
def test_other_content_has_another_digest(one: JsonValue, two: JsonValue) -> None:
    same = repr(one) == repr(two)
    if not same and type(one) is type(two) and one != two:
        assert digest(one) != digest(two)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_json_does_not_know_has_no_digest(value: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        digest(value)


@pytest.mark.parametrize("kind", RECIPES)
def test_a_raised_recipe_moves_the_key_of_its_kind_and_of_what_needs_it(
    kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = expand(stack(LOCAL), facts(), PLAIN)
    monkeypatch.setattr("deployer.planning.graph.RECIPES", {**RECIPES, kind: 2})
    after = expand(stack(LOCAL), facts(), PLAIN)
    moved = {n.kind for a, n in after.items() if before[a].key != n.key}
    assert moved == ({kind, Kind.SERVER} if kind is not Kind.SNAPSHOT else set())
