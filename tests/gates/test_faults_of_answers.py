"""No worse answers and no broken file of prompts pass."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from deployer.gates.harness.target import Target
from deployer.planning.events import Outcome, Verdict
from tests.gates import fake_http as http
from tests.gates.breaking import CHAT, ERROR, FAIL, UNCLEAR, answers, model
from tests.gates.checking import DATA, check, run_one
from tests.gates.fake_http import KEY, Script
from tests.gates.fake_model import Body, Said
from tests.gates.fake_server import fake_server

PASS = Outcome.PASS
SAYS = "The answer is 42."


def asked(folder: Path, *lines: object) -> Path:
    """A folder with a file of prompts."""
    text = "".join(
        f"{one if isinstance(one, str) else json.dumps(one)}\n" for one in lines
    )
    (folder / "prompts.jsonl").write_text(text, encoding="utf-8")
    return folder


def line(**expected: object) -> dict[str, object]:
    return {"prompt": "What is the answer?", **expected}


@pytest.mark.parametrize(
    ("expected", "because"),
    [
        ({"exact": "42"}, f"`{SAYS}` is not `42`"),
        ({"exact": "the answer is 42."}, "is not"),
        ({"regex": "^42"}, "does not match `^42`"),
        ({"contains": "43"}, "does not contain `43`"),
        ({"json_schema": {"type": "object"}}, "is not JSON"),
        ({"json_schema": False}, "is not JSON"),
        ({"contains": "42", "regex": "43"}, "does not match"),
    ],
)
def test_an_unexpected_answer_fails(
    expected: dict[str, object], because: str, tmp_path: Path
) -> None:
    folder = asked(tmp_path, line(contains="42"), line(**expected))
    verdict = check("quality", Script(), FAIL, "1 of 2 prompts", folder=folder)
    assert "line 2: " in verdict.because
    assert because in verdict.because
    assert verdict.figures["pass_rate"] == 0.5


@pytest.mark.parametrize(
    ("schema", "because"),
    [
        ({"type": "integer"}, "does not fit at `$`: {'a': [1]} is not of type"),
        ({"properties": {"a": {"items": {"type": "string"}}}}, "at `$.a[0]`: 1 is"),
        ({"required": ["b"]}, "'b' is a required property"),
        ({"$ref": "#/$defs/x", "$defs": {"x": {"type": "null"}}}, "not of type 'null'"),
    ],
)
def test_json_that_does_not_fit_fails(
    schema: dict[str, object], because: str, tmp_path: Path
) -> None:
    folder = asked(tmp_path, line(json_schema=schema))
    check("quality", says('{"a": [1]}'), FAIL, because, folder=folder)


def says(text: str) -> Script:
    return model(lambda _body: Said(text))


def test_json_that_fits_passes(tmp_path: Path) -> None:
    schema = {"type": "object", "required": ["a"]}
    folder = asked(tmp_path, line(json_schema=schema))
    check("quality", says(' {"a": 1}\n'), PASS, "1 of 1 prompts", folder=folder)


@pytest.mark.parametrize(("rate", "outcome"), [(0.5, PASS), (0.6, FAIL)])
def test_the_pass_rate_decides(rate: float, outcome: Outcome, tmp_path: Path) -> None:
    folder = asked(tmp_path, line(contains="42"), line(contains="43"))
    check("quality", Script(), outcome, "line 2:", folder=folder, pass_rate=rate)


@pytest.mark.parametrize(
    ("content", "because"),
    [
        ("", "contains no prompt"),
        ("\n \n", "contains no prompt"),
        ("[1]", "prompts.jsonl:1: "),
        ('{"prompt": "a"', "prompts.jsonl:1: "),
        ('\n{"prompt": "a"}', "prompts.jsonl:2: it expects nothing; add one of"),
        ('{"exact": "a"}', "`prompt`: field required"),
        ('{"prompt": "", "exact": "a"}', "`prompt`: string should have at least 1"),
        ('{"prompt": "a", "exakt": "a"}', "`exakt`: extra inputs"),
        ('{"prompt": "a", "exact": 1}', "`exact`: input should be a valid string"),
        ('{"prompt": "a", "regex": "("}', "`regex` is wrong: missing )"),
        ('{"prompt": "a", "json_schema": {"type": 1}}', "it is no JSON schema"),
        ('{"prompt": "a", "json_schema": {"pattern": "("}}', "it is no JSON schema"),
        (
            '{"prompt": "a", "json_schema": {"$ref": "https://x.test/s"}}',
            "`$ref: https://x.test/s` leads to no place in it",
        ),
        (
            '{"prompt": "a", "json_schema": {"items": {"$ref": "other"}}}',
            "`$ref: other` leads to no place",
        ),
        (
            '{"prompt": "a", "json_schema": {"anyOf": [{"$ref": "#/anyOf/7"}]}}',
            "`$ref: #/anyOf/7` leads to no place",
        ),
        ('{"prompt": "a", "exact": "a", "max_tokens": 0}', "greater than or equal"),
    ],
)
def test_a_broken_file_is_an_error(content: str, because: str, tmp_path: Path) -> None:
    check("quality", Script(), ERROR, because, folder=asked(tmp_path, content))


def test_a_file_that_is_not_text_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "prompts.jsonl").write_bytes(b'{"prompt": "\xff"}')
    check("quality", Script(), ERROR, "not UTF-8 at byte 12", folder=tmp_path)


def test_a_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    because = "`prompts.jsonl`: no such file or directory"
    check("quality", Script(), ERROR, because, folder=tmp_path)
    check("quality", Script(), ERROR, "relative to a stack", folder=None)
    check("quality", Script(), ERROR, "state `gates.quality.file`", file=None)


def test_a_refused_key_is_no_bad_answer() -> None:
    check("quality", Script(key="other"), ERROR, "line 1: the key was refused")


def test_an_error_of_the_server_is_a_bad_answer() -> None:
    failing = answers(CHAT, http.error(500, "oops"))
    check("quality", failing, FAIL, "0 of 4 prompts")


def test_the_file_is_named_by_its_digest_in_the_evidence() -> None:
    verdict = check("quality", Script(), PASS, "4 of 4")
    content = (DATA / "prompts.jsonl").read_bytes()
    assert verdict.evidence[0].request == "read prompts.jsonl"
    digest = hashlib.sha256(content).hexdigest()
    assert verdict.evidence[0].response == f"sha256 {digest}, 4 prompts"


@contextmanager
def live_and_candidate(live: Script, candidate: Script) -> Iterator[Target]:
    with fake_server(live) as old, fake_server(candidate) as new:
        before = Target(old.url, api_key=live.key)
        yield Target(new.url, api_key=KEY, live=before, folder=DATA)


def compared(
    live: Script, candidate: Script, outcome: Outcome, because: str, **options: object
) -> Verdict:
    with live_and_candidate(live, candidate) as target:
        verdict = run_one("regression", target, **options)
    assert (verdict.outcome, because in verdict.because) == (outcome, True), verdict
    return verdict


def test_the_first_release_has_nothing_to_compare_with() -> None:
    verdict = check("regression", Script(), PASS, "no live release to compare with")
    assert verdict.evidence == ()


def test_equal_answers_pass() -> None:
    verdict = compared(Script(), Script(), PASS, "in 100 % of their words, 5 of 5")
    assert verdict.figures["agreement"] == 1
    assert len(verdict.evidence) == 10


def test_other_answers_fail() -> None:
    because = "`The answer is 42.` became `I cannot say.`"
    compared(Script(), says("I cannot say."), FAIL, because)


def test_a_few_other_words_may_pass() -> None:
    almost = says("The answer is 43.")
    because = "in 75 % of their words, 0 of 5 are equal"
    compared(Script(), almost, PASS, because, agreement=0.7)
    compared(Script(), almost, FAIL, because, agreement=0.8)


def test_one_answer_that_becomes_empty_fails() -> None:
    compared(Script(), says(""), FAIL, "became `nothing`")


def test_only_empty_answers_prove_nothing() -> None:
    compared(says(""), says(" "), UNCLEAR, "all answers are empty")


def test_prompts_of_a_file_are_compared() -> None:
    def echo(body: Body) -> Said:
        return Said(body["messages"][-1]["content"])

    options = {"file": "prompts.jsonl", "agreement": 1.0}
    verdict = compared(model(echo), model(echo), PASS, "4 of 4", **options)
    assert verdict.figures["prompts"] == 4
    missing = {"file": "nothing.jsonl"}
    compared(Script(), Script(), ERROR, "no such file", **missing)


def test_a_candidate_that_fails_does_not_pass() -> None:
    failing = answers(CHAT, http.error(500, "oops"))
    compared(Script(), failing, FAIL, "France is.: answered HTTP 500: oops")


def test_a_live_release_that_fails_proves_nothing() -> None:
    failing = answers(CHAT, http.error(500, "oops"))
    compared(failing, Script(), UNCLEAR, "the live release, Say in one short")


def test_a_live_release_that_is_gone_is_an_error() -> None:
    with fake_server(Script()) as old:
        gone = old.url
    with fake_server(Script()) as new:
        target = Target(new.url, api_key=KEY, live=Target(gone))
        verdict = run_one("regression", target)
    assert verdict.outcome is ERROR
    assert verdict.because.startswith("the live release: nothing answers at")


def test_the_key_of_the_live_release_is_not_told() -> None:
    old = answers(CHAT, http.error(500, "bad key sk-old-secret"))
    with fake_server(old) as live, fake_server(Script()) as new:
        before = Target(live.url, api_key="sk-old-secret")
        verdict = run_one("regression", Target(new.url, api_key=KEY, live=before))
    assert "sk-old-secret" not in repr(verdict)
