"""YAML 1.2 core schema, places, and what is refused."""

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from deployer.stack.yaml12 import (
    LOADER,
    Loader,
    UnreadableError,
    dotted,
    parse,
    plain,
    resolved,
    walk,
)

LOADERS: list[Loader] = [yaml.SafeLoader, LOADER]


def values(text: str, loader: Loader = LOADER) -> object:
    table, problems = parse(text, "s.yaml", loader=loader)
    assert problems == []
    return plain(table)


def told(text: str, loader: Loader = LOADER) -> list[str]:
    try:
        _, problems = parse(text, "s.yaml", loader=loader)
    except UnreadableError as error:
        problems = [error.problem]
    return [f"{p.place.line}:{p.place.column} {p.what}" for p in problems]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("true", True),
        ("False", False),
        ("TRUE", True),
        ("tRUE", "tRUE"),
        ("on", "on"),
        ("off", "off"),
        ("yes", "yes"),
        ("n", "n"),
        ("~", None),
        ("null", None),
        ("012", 12),
        ("-3", -3),
        ("+5", 5),
        ("0o17", 15),
        ("0x1F", 31),
        ("0b1", "0b1"),
        ("1_000", "1_000"),
        ("1e3", 1000),
        (".5", 0.5),
        ("1.", 1),
        ("2.50", 2.5),
        ("22:22", "22:22"),
        ("2026-11-22", "2026-11-22"),
        ("12.8.1", "12.8.1"),
        ("=", "="),
        (".", "."),
        ("9223372036854775807", 2**63 - 1),
        ("00000000000000000000000007", 7),
    ],
)
def test_plain_scalars_follow_the_core_schema(text: str, value: object) -> None:
    found = resolved(text)
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    "text", [".inf", "-.INF", ".nan", "12e4567", "9" * 5000, "0x" + "f" * 40, "1e19"]
)
def test_numbers_without_a_use_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"number"):
        resolved(text)


@given(st.text(min_size=1))
def test_any_scalar_resolves_or_is_refused(text: str) -> None:
    try:
        found = resolved(text)
    except ValueError:
        return
    assert found is None or isinstance(found, bool | int | float | str)


@pytest.mark.parametrize("loader", LOADERS)
def test_quoted_scalars_are_texts(loader: Loader) -> None:
    text = "a: '12'\nb: \"true\"\nc: ''\nd: |\n  5\n"
    assert values(text, loader) == {"a": "12", "b": "true", "c": "", "d": "5\n"}


@pytest.mark.parametrize("loader", LOADERS)
def test_aliases_stand_for_their_value(loader: Loader) -> None:
    text = "a: &x {k: [1, 2]}\nb: *x\nc: [*x]\n"
    same = {"k": [1, 2]}
    assert values(text, loader) == {"a": same, "b": same, "c": [same]}


def test_places_are_those_of_keys_and_items() -> None:
    table, _ = parse("a:\n  b: 1\n  c:\n    - x\n    - {d: 2}\n", "s.yaml")
    found = {dotted(p): (e.place.line, e.place.column) for p, e in walk(table)}
    assert found == {
        "a": (1, 1),
        "a.b": (2, 3),
        "a.c": (3, 3),
        "a.c.0": (4, 7),
        "a.c.1": (5, 7),
        "a.c.1.d": (5, 8),
    }


def test_a_removed_key_is_absent_and_has_no_place() -> None:
    table, _ = parse("a: null\nb: {c: ~}\n", "s.yaml")
    assert plain(table) == {"b": {}}
    assert [dotted(path) for path, _ in walk(table)] == ["b"]


SOFT = [
    ("a: 1\nb: 2\na: 3\n", "3:1 `a` is written twice"),
    ("a: {b: 1, b: 2}\n", "1:11 `b` is written twice"),
    ("1: x\n", "1:1 expected a key that is a string, got `1`"),
    ("true: x\n", "1:1 expected a key that is a string, got `true`"),
    ("<<: {a: 1}\n", "1:1 merge keys (`<<`) are not used in stacks"),
    ("a:\nb: 1\n", "1:3 no value here"),
    ("a: .inf\n", "1:4 `.inf` is not a finite number"),
    ("a: 12e4567\n", "1:4 `12e4567` is read as a number, and is too large for one"),
    ("a: hf_abcdefghijklmnopqrstuv\n", "1:4 looks like a secret"),
    ("hf_abcdefghijklmnopqrstuv: 1\n", "1:1 looks like a secret"),
]


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize(("text", "expect"), SOFT)
def test_soft_problems_leave_the_rest_readable(
    text: str, expect: str, loader: Loader
) -> None:
    assert told(text, loader) == [expect]
    assert told(f"{text}z: 1\n", loader) == [expect]


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize(
    ("text", "expect"),
    [
        ("", "1:1 the file is empty"),
        ("# only a comment\n", "1:1 the file is empty"),
        ("---\n", "1:1 the file is empty"),
        ("- a\n", "1:1 expected `key: value` lines at the top"),
        ("text\n", "1:1 expected `key: value` lines at the top"),
        ("a: !!str x\n", "1:4 tags (`!…`) are not used in stacks"),
        ("a: !foo {b: 1}\n", "1:4 tags (`!…`) are not used in stacks"),
        (
            "a: !!python/object/apply:os.system [x]\n",
            "1:4 tags (`!…`) are not used in stacks",
        ),
        ("a: !e!x y\n", "1:4 tags (`!…`) are not used in stacks"),
        ("a: 1\n---\nb: 1\n", "2:1 a second document starts here"),
        ("{{x}}: 1\n", None),
        (": x\n", None),
        ('a: "\\q"\n', None),
        ("? [a]\n: 1\n", "1:3 expected a key, got a collection"),
        ("a: *x\n", "1:4 `*x` stands for nothing above it"),
        ("a: &x [*x]\n", "1:8 `*x` stands for nothing above it"),
        ("a: &x y\n*x : 1\n", "2:1 `*x` cannot be a key"),
        ("a: " + "[" * 50, "1:35 nested more than 32 deep"),
        ("\ta: 1\n", "1:1 a tab in the indentation"),
        ("a: @x\n", "1:4 this character cannot start a value"),
    ],
)
def test_what_ends_the_reading(text: str, expect: str | None, loader: Loader) -> None:
    found = told(text, loader)
    assert len(found) == 1
    assert expect is None or found == [expect]


def test_an_alias_bomb_is_counted_not_built() -> None:
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    for n in range(1, 9):
        refs = ", ".join([f"*a{n - 1}"] * 10)
        lines.append(f"a{n}: &a{n} [{refs}]")
    assert told("\n".join(lines)) == [
        "5:10 more than 20000 values, aliases written out"
    ]


def test_aliases_do_not_nest_deeper_than_written_text_may() -> None:
    lines = ["a0: &a0 [1]"]
    lines += [f"a{n}: &a{n} [*a{n - 1}]" for n in range(1, 60)]
    assert told("\n".join(lines)) == ["32:12 nested more than 32 deep"]


def test_many_values_are_refused() -> None:
    assert told("a: [" + "1," * 20_001 + "]")[0].endswith(
        "more than 20000 values, aliases written out"
    )


def test_every_soft_problem_is_told_at_once() -> None:
    assert told("a: 1\na: 2\n1: x\nb:\n") == [
        "2:1 `a` is written twice",
        "3:1 expected a key that is a string, got `1`",
        "4:3 no value here",
    ]


def test_a_secret_in_a_message_is_not_shown() -> None:
    secret = "hf_" + "Ab1" * 9
    for text in (f"a: {secret}\n", f"{secret}: 1\n", f"a: [{{b: '{secret}'}}]\n"):
        _, problems = parse(text, "s.yaml")
        assert [p.what for p in problems] == ["looks like a secret"]
        assert secret not in repr(problems)
