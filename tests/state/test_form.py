import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from deployer.errors import StateError
from deployer.planning.resources import Kind
from deployer.planning.state import Begun, Loose, Record, Release, State
from deployer.state.files import from_json, to_json

texts = some.text(max_size=8)
numbers = some.integers(0, 10**6)
unhurried = settings(
    deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow]
)
json_values = some.recursive(
    some.none()
    | some.booleans()
    | some.integers(-(2**63), 2**63)
    | some.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: (
        some.lists(inner, max_size=3) | some.dictionaries(texts, inner, max_size=3)
    ),
    max_leaves=3,
)
flats = some.dictionaries(texts, json_values, max_size=3)
stacks = some.from_regex("[a-z][a-z0-9]{0,3}", fullmatch=True)
keys = some.from_regex("[A-Za-z0-9][A-Za-z0-9_-]{0,7}", fullmatch=True)


@some.composite
def recorded(draw: some.DrawFn) -> Record:
    kind = draw(some.sampled_from(Kind))
    return Record(
        address=f"{draw(stacks)}/{kind}",
        kind=kind,
        key=draw(keys),
        fields=draw(flats),
        needs=draw(some.dictionaries(some.sampled_from([*Kind]), keys, max_size=2)),
        spec=draw(flats),
        outputs=draw(flats),
    )


records = recorded()
by_address = some.lists(records, max_size=3).map(lambda rs: {r.address: r for r in rs})
releases = some.builds(
    Release,
    number=numbers,
    at=texts,
    cause=texts,
    records=by_address,
    gates=some.lists(flats, max_size=2).map(tuple),
)


@some.composite
def states(draw: some.DrawFn) -> State:
    kept = draw(some.lists(releases, max_size=3, unique_by=lambda r: r.number))
    kept.sort(key=lambda release: release.number)
    newest = kept[-1].number if kept else 0
    return State(
        stack=draw(stacks),
        engine=draw(stacks),
        lineage=draw(keys),
        serial=draw(numbers),
        live=draw(by_address),
        made=draw(by_address),
        loose=tuple(
            Loose(draw(some.sampled_from(Begun)), record)
            for record in draw(some.lists(records, max_size=2))
        ),
        promoting=draw(some.none() | releases),
        releases=tuple(kept),
        released=newest + draw(numbers),
        host=draw(texts),
        machine=draw(texts),
    )


@unhurried
@given(states())
def test_what_is_written_reads_back_the_same(state: State) -> None:
    text = to_json(state)
    assert from_json(text, "f") == state
    assert to_json(from_json(text, "f")) == text


@unhurried
@given(states())
def test_the_text_is_ascii_sorted_below_its_version_and_ends_a_line(
    state: State,
) -> None:
    text = to_json(state)
    found = json.loads(text)
    version = {"version": found.pop("version")}
    rest = json.loads(json.dumps(found, sort_keys=True))
    assert text.isascii()
    assert text == json.dumps({**version, **rest}, indent=2) + "\n"


def test_a_state_looks_like_this() -> None:
    assert (
        to_json(State("demo", "local", lineage="l1", serial=3))
        == """\
{
  "version": 4,
  "engine": "local",
  "file": "",
  "hold": null,
  "host": "",
  "lineage": "l1",
  "live": {},
  "loose": [],
  "machine": "",
  "made": {},
  "promoting": null,
  "released": 0,
  "releases": [],
  "serial": 3,
  "stack": "demo"
}
"""
    )


def test_the_caller_may_change_what_it_read(first: State) -> None:
    text = to_json(first)
    read = from_json(text, "f")
    fields: Any = read.loose[0].record.fields
    fields["llama_cpp.tag"] = "b1"
    assert from_json(text, "f") == first


def test_nan_is_never_written(first: State) -> None:
    record = first.loose[0].record
    spoilt = first.ready(
        Record(record.address, record.kind, "k", {"a": float("nan")}, {}, {})
    )
    with pytest.raises(ValueError, match="not JSON compliant"):
        to_json(spoilt)


def check(text: str | bytes, message: str) -> None:
    """The text is refused with exactly this message and no hint."""
    with pytest.raises(StateError) as caught:
        from_json(text, "demo.state.json")
    assert str(caught.value) == f"`demo.state.json` is damaged: {message}"
    assert caught.value.hint == ""


def edited(state: State, edit: Callable[[Any], object]) -> str:
    """The text of a state after somebody edited it."""
    content = json.loads(to_json(state))
    edit(content)
    return json.dumps(content)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not JSON at line 1, column 1"),
        ('{\n  "version": 1,\n<<<<<<< HEAD\n', "not JSON at line 3, column 1"),
        ("[]", "the file is a list, expected a mapping"),
        ("7", "the file is the number 7, expected a mapping"),
        ("{}", "`version` is null, expected an integer from 0"),
        (
            '{"version": "1"}',
            "`version` is the string `1`, expected an integer from 0",
        ),
        ('{"version": true}', "`version` is true, expected an integer"),
        ('{"version": 0}', "there is no version 0"),
        ('{"version": 1}', "the file has no `engine`"),
        ('{"version": NaN}', "`NaN` is not a number in JSON"),
        ('{"version": -Infinity}', "`-Infinity` is not a number in JSON"),
        ('{"version": 1e999}', "the number 1e999 is too large"),
        ('{"version": 1, "version": 1}', "the key `version` is given twice"),
        ("[" * 200_000, "nested too deeply"),
        ("9" * 5000, "a number has too many digits"),
        (b'{"version": "\xff"}', "not UTF-8 at byte 13"),
    ],
)
def test_a_damaged_text_is_refused(text: str | bytes, message: str) -> None:
    with pytest.raises(StateError, match=re.escape(message)):
        from_json(text, "f")


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda c: c.pop("live"), "the file has no `live`"),
        (lambda c: c.update(colour=1), "the file has an unknown key `colour`"),
        (
            lambda c: c.update(serial=-1),
            "`serial` is the number -1, expected an integer from 0",
        ),
        (
            lambda c: c.update(serial=1.0),
            "`serial` is the number 1.0, expected an integer from 0",
        ),
        (lambda c: c.update(stack=None), "`stack` is null, expected a string"),
        (lambda c: c.update(loose={}), "`loose` is a mapping, expected a list"),
        (
            lambda c: c["loose"][0].update(begun="gone"),
            f"`loose[0].begun` is `gone`, expected one of {', '.join(Begun)}",
        ),
        (
            lambda c: c["loose"][0]["record"].update(kind="fridge"),
            (
                "`loose[0].record.kind` is `fridge`, "
                "expected one of build, weights, snapshot, server"
            ),
        ),
        (
            lambda c: c["loose"][0]["record"].update(needs={"build": 1}),
            "`loose[0].record.needs.build` is the number 1, expected a string",
        ),
        (
            lambda c: c["loose"][0]["record"].pop("outputs"),
            "`loose[0].record` has no `outputs`",
        ),
        (
            lambda c: c["live"].update({"demo/x": c["loose"][0]["record"]}),
            "`live` contains `demo/build` under `demo/x`",
        ),
        (
            lambda c: c.update(releases=[release(2), release(2)], released=2),
            "the numbers of `releases` do not grow",
        ),
        (
            lambda c: c.update(releases=[release(2)], released=1),
            "`released` is 1, below the newest release",
        ),
    ],
)
def test_a_state_of_another_form_is_refused(
    first: State, edit: Callable[[Any], object], message: str
) -> None:
    check(edited(first, edit), message)


def release(number: int) -> dict[str, object]:
    return {"number": number, "at": "", "cause": "", "records": {}, "gates": []}


def test_every_key_of_a_state_is_needed(first: State) -> None:
    for key in json.loads(to_json(first)):
        if key != "version":
            content = json.loads(to_json(first))
            del content[key]
            check(json.dumps(content), f"the file has no `{key}`")


def test_a_newer_state_asks_for_an_upgrade_whatever_its_form() -> None:
    with pytest.raises(StateError) as caught:
        from_json('{"version": 5, "things": []}', "demo.state.json")
    assert str(caught.value) == (
        "`demo.state.json` was written by a newer deployer "
        "(state version 5, this one reads 4)"
    )
    assert caught.value.hint == "upgrade deployer"


@unhurried
@given(some.data())
def test_any_text_is_read_or_refused_with_a_message(data: some.DataObject) -> None:
    text = to_json(State("demo", "local", lineage="l1", serial=3))
    start = data.draw(some.integers(0, len(text)))
    end = data.draw(some.integers(start, len(text)))
    spoilt = text[:start] + data.draw(some.text(max_size=5)) + text[end:]
    try:
        from_json(spoilt, "f")
    except StateError as error:
        assert error.message.startswith("`f` ")  # noqa: PT017 -- either is fine
