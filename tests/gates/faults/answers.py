"""No worse answers and no broken file of prompts pass."""

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deployer.gates.harness.client import Target
from deployer.planning.events import Outcome, Verdict
from tests.gates import fake_http as http
from tests.gates import fake_server as fake
from tests.gates.breaking import CHAT, ERROR, FAIL, UNCLEAR, answers, model
from tests.gates.checking import DATA, check, run_one
from tests.gates.fake_http import KEY, Script
from tests.gates.fake_model import Said
from tests.gates.fake_server import fake_server
from tests.gates.registry import broken

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


@broken(
    "quality",
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
def an_unexpected_answer_fails(
    expected: dict[str, object], because: str, tmp_path: Path
) -> None:
    folder = asked(tmp_path, line(contains="42"), line(**expected))
    verdict = check("quality", Script(), FAIL, "1 of 2 prompts", folder=folder)
    assert "line 2: " in verdict.because
    assert because in verdict.because
    assert verdict.figures["pass_rate"] == 0.5


@broken(
    "quality",
    ("schema", "because"),
    [
        ({"type": "integer"}, "does not fit at `$`: {'a': [1]} is not of type"),
        ({"properties": {"a": {"items": {"type": "string"}}}}, "at `$.a[0]`: 1 is"),
        ({"required": ["b"]}, "'b' is a required property"),
        ({"$ref": "#/$defs/x", "$defs": {"x": {"type": "null"}}}, "not of type 'null'"),
    ],
)
def json_that_does_not_fit_fails(
    schema: dict[str, object], because: str, tmp_path: Path
) -> None:
    folder = asked(tmp_path, line(json_schema=schema))
    check("quality", says('{"a": [1]}'), FAIL, because, folder=folder)


def says(text: str) -> Script:
    return model(lambda _body: Said(text))


@broken(
    "quality",
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
def a_broken_file_is_an_error(content: str, because: str, tmp_path: Path) -> None:
    check("quality", Script(), ERROR, because, folder=asked(tmp_path, content))


@broken("quality")
def a_file_that_is_not_text_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "prompts.jsonl").write_bytes(b'{"prompt": "\xff"}')
    check("quality", Script(), ERROR, "not UTF-8 at byte 12", folder=tmp_path)


@broken("quality")
def a_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    because = "`prompts.jsonl`: no such file or directory"
    check("quality", Script(), ERROR, because, folder=tmp_path)
    check("quality", Script(), ERROR, "relative to a stack", folder=None)
    check("quality", Script(), ERROR, "state `gates.quality.file`", file=None)


@broken("quality")
def a_refused_key_is_no_bad_answer() -> None:
    check("quality", Script(key="other"), ERROR, "line 1: the key was refused")


@broken("quality")
def an_error_of_the_server_is_a_bad_answer() -> None:
    failing = answers(CHAT, http.error(500, "oops"))
    check("quality", failing, FAIL, "0 of 4 prompts")


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


@broken("regression")
def other_answers_fail() -> None:
    because = "`The answer is 42.` became `I cannot say.`"
    compared(Script(), says("I cannot say."), FAIL, because)


def sure(**chances: float) -> Script:
    """A server that says the same, and is so sure of each token that it could say."""
    likely = [{"token": t, "logprob": math.log(p)} for t, p in chances.items()]
    best, *_ = likely
    whole = fake.completion(Said("The answer is 42."))
    positions = [{**best, "top_logprobs": likely}] * 5
    whole["choices"][0]["logprobs"] = {"content": positions}
    return answers(CHAT, http.as_json(whole))


@broken("regression")
def the_same_words_that_were_close_calls_fail() -> None:
    because = "0.368 nats a token from the live release; the answers agree with"
    compared(sure(a=0.9, b=0.1), sure(a=0.5, b=0.5), FAIL, because, divergence=0.1)
    compared(sure(a=0.9, b=0.1), sure(a=0.5, b=0.5), FAIL, "than `divergence: 0.2`")
    compared(sure(a=0.9, b=0.1), sure(c=0.9, b=0.1), FAIL, "more than `divergence")


@broken("regression")
def log_probabilities_that_are_not_given_prove_nothing() -> None:
    because = "the servers give no log probabilities to compare"
    compared(Script(), Script(), UNCLEAR, because, divergence=0.1)
    compared(sure(a=1), Script(), UNCLEAR, because, divergence=0.1)


@broken("regression")
def one_answer_that_becomes_empty_fails() -> None:
    compared(Script(), says(""), FAIL, "became `nothing`")


@broken("regression")
def only_empty_answers_prove_nothing() -> None:
    compared(says(""), says(" "), UNCLEAR, "all answers are empty")


@broken("regression")
def a_candidate_that_fails_does_not_pass() -> None:
    failing = answers(CHAT, http.error(500, "oops"))
    compared(Script(), failing, FAIL, "France is.: answered HTTP 500: oops")


@broken("regression")
def a_live_release_that_fails_proves_nothing() -> None:
    failing = answers(CHAT, http.error(500, "oops"))
    compared(failing, Script(), UNCLEAR, "the live release, Say in one short")
