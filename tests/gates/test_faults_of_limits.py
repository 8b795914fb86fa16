"""No server that cuts prompts or breaks the error contract passes."""

from dataclasses import replace

import pytest

from deployer.gates.checks.limits import CONTRACT, Errors, Refusals
from deployer.gates.harness.answers import Answer
from deployer.gates.harness.target import Loading, Process, Target
from deployer.planning.events import Outcome
from deployer.stack.fields import gate_options as asked
from tests.gates import fake_http as http
from tests.gates import fake_server as fake
from tests.gates.breaking import (
    CHAT,
    ERROR,
    FAIL,
    UNCLEAR,
    answers,
    model,
    props,
    text,
    when,
)
from tests.gates.checking import PROCESS, check
from tests.gates.fake_http import Part, Reply, Request, Script
from tests.gates.fake_model import Body, Said, usual_answer


def long(body: Body) -> bool:
    return fake.prompt_tokens(body) > 100


def over(body: Body) -> bool:
    asked = isinstance(body.get("messages"), list)
    return asked and fake.prompt_tokens(body) >= fake.CONTEXT


def on_long(reply: Reply) -> Script:
    """A server that answers a long prompt within the context so."""

    def respond(request: Request) -> Reply:
        within = long(request.body) and not over(request.body)
        return reply if within else fake.chat(request)

    return answers(CHAT, respond)


def on_over(reply: Reply) -> Script:
    """A server that answers a prompt over the context so."""
    return answers(
        CHAT, lambda request: reply if over(request.body) else fake.chat(request)
    )


def counted(tokens: int) -> Reply:
    """A good answer that counts so many tokens of the prompt."""
    return http.as_json({**fake.completion(Said()), "usage": fake.usage(5, tokens)})


@pytest.mark.parametrize(
    ("script", "outcome", "because"),
    [
        pytest.param(
            on_long(counted(900)), FAIL, "tokens was cut to 900", id="cut silently"
        ),
        pytest.param(
            when(long, Said("")), FAIL, "is answered with nothing", id="empty"
        ),
        pytest.param(
            on_long(http.error(500, "failed to find a memory slot")),
            FAIL,
            "tokens: answered HTTP 500: failed to find",
            id="no memory",
        ),
        pytest.param(
            on_long(http.as_json({}, 413)), ERROR, "answered HTTP 413", id="a proxy"
        ),
        pytest.param(
            on_long(Reply((b"", Part.RESET))), ERROR, "was reset", id="dies of it"
        ),
        pytest.param(
            answers(CHAT, counted(11)), FAIL, "does not grow", id="counts nothing"
        ),
        pytest.param(
            on_over(counted(2000)), FAIL, "is answered: it was cut", id="shifts"
        ),
        pytest.param(
            on_over(http.error(500, "oops")),
            FAIL,
            'HTTP 500 `{"error"',
            id="500 over the limit",
        ),
        pytest.param(
            on_over(http.error(400, "too long", "invalid_request_error")),
            FAIL,
            "instead of HTTP 400 `exceed_context_size_error`",
            id="another 400",
        ),
        pytest.param(
            on_over(replace(fake.too_long(2051), status=500)),
            FAIL,
            "HTTP 500",
            id="the right error with another status",
        ),
        pytest.param(
            on_over(fake.too_long(2051, n_ctx=None)),
            FAIL,
            "with `n_prompt_tokens` and `n_ctx`",
            id="no n_ctx",
        ),
        pytest.param(
            on_over(fake.too_long(2051, n_ctx=4096)),
            FAIL,
            "says 2051 tokens in a context of 4096, which is 2048",
            id="other n_ctx",
        ),
        pytest.param(
            on_over(fake.too_long(2051, n_prompt_tokens=7)),
            FAIL,
            "says 7 tokens in a context of 2048",
            id="other n_prompt_tokens",
        ),
        pytest.param(
            answers("GET /props", text("{}")), FAIL, "field required", id="no context"
        ),
        pytest.param(
            props(default_generation_settings={"n_ctx": 32}),
            UNCLEAR,
            "32 tokens is too small",
            id="tiny context",
        ),
    ],
)
def test_a_context_does_not_pass(
    script: Script, outcome: Outcome, because: str
) -> None:
    check("context", script, outcome, because)


def test_a_needle_that_is_lost_fails() -> None:
    because = "`swordfish` in the middle of"
    check("context", Script(), FAIL, because, needle="swordfish")


def test_a_needle_that_is_found_passes() -> None:
    finder = model(
        lambda body: (
            Said("It is Swordfish.")
            if "swordfish" in body["messages"][0]["content"]
            else usual_answer(body)
        )
    )
    because = "was answered and its needle was found"
    verdict = check("context", finder, Outcome.PASS, because, needle="swordfish")
    assert 1900 < verdict.figures["prompt_tokens"] < fake.CONTEXT


def test_a_shorter_prompt_can_be_asked_for() -> None:
    verdict = check("context", Script(), Outcome.PASS, "of a slot", tokens=512)
    assert 400 < verdict.figures["prompt_tokens"] < 512


def refused(status: int, kind: str) -> Reply:
    return http.error(status, "no", kind)


@pytest.mark.parametrize(
    ("script", "outcome", "because"),
    [
        pytest.param(
            Script(broken_json=refused(400, "invalid_request_error")),
            FAIL,
            "broken JSON: 400",
            id="another build's",
        ),
        pytest.param(
            Script(broken_json=http.html(500)),
            FAIL,
            "instead of 500 `server_error`",
            id="a page",
        ),
        pytest.param(
            Script(broken_json=counted(5)), FAIL, "broken JSON: 200", id="accepted"
        ),
        pytest.param(
            answers(CHAT, counted(5)), FAIL, "no messages: 200", id="accepts everything"
        ),
        pytest.param(
            answers("GET /v1/no-such-route", http.html()),
            FAIL,
            "an unknown route: 200",
            id="a page for every route",
        ),
        pytest.param(
            answers("GET /v1/no-such-route", refused(404, "server_error")),
            FAIL,
            "instead of 404 `not_found_error`",
            id="another error",
        ),
        pytest.param(Script(key=None), FAIL, "no key: 200", id="open"),
        pytest.param(
            on_over(refused(500, "server_error")),
            FAIL,
            "a prompt over the context: 500",
            id="over-long",
        ),
        pytest.param(
            answers(CHAT, Reply((b"", Part.RESET))), ERROR, "reset", id="dies of it"
        ),
    ],
)
def test_an_error_contract_does_not_pass(
    script: Script, outcome: Outcome, because: str
) -> None:
    check("errors", script, outcome, because)


@pytest.mark.parametrize(
    ("build", "status", "outcome"),
    [
        (8672, 500, Outcome.PASS),
        (10434, 500, Outcome.PASS),
        (10434, 400, FAIL),
        (10900, 500, Outcome.PASS),
        (10900, 400, Outcome.PASS),
        (11434, 400, Outcome.PASS),
        (11434, 500, FAIL),
        (None, 400, Outcome.PASS),
        (None, 404, FAIL),
    ],
)
def test_the_contract_is_that_of_the_build(
    build: int | None, status: int, outcome: Outcome
) -> None:
    """Broken JSON is the row that a build changed."""
    kind = {400: "invalid_request_error", 500: "server_error"}.get(status, "other")
    body = b'{"error": {"message": "no", "type": "%s"}}' % kind.encode()
    attempt = (CONTRACT[0], Answer(status, "application/json", body, 0.01))
    gate = Errors(asked.Errors(), Target("http://127.0.0.1:1", build=build))
    judged = gate.judgement(Refusals((attempt,)))
    assert judged.outcome is outcome


def test_without_a_key_none_is_asked_for() -> None:
    open_server = Script(key=None)
    verdict = check("errors", open_server, Outcome.PASS, "an unknown route", key=None)
    assert "no key" not in verdict.because


LOADS = '{"error": {"message": "Loading model", "type": "unavailable_error"}}'


def loading(status: int, body: str) -> Process:
    return replace(PROCESS, loading=Loading(status, body))


def test_a_refusal_while_loading_that_was_seen_is_judged() -> None:
    verdict = check(
        "errors",
        Script(),
        Outcome.PASS,
        "refused as documented: loading, broken JSON",
        process=loading(503, LOADS),
        loading=True,
    )
    assert verdict.evidence[0].request == "GET /health"
    assert (
        verdict.evidence[0].note == "seen by the engine while it waited for the server"
    )


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (500, LOADS),
        (404, '{"error": {"message": "File Not Found", "type": "not_found_error"}}'),
        (503, "<html>Service Unavailable</html>"),
        (503, '{"error": {"message": "Loading model", "type": "server_error"}}'),
        (503, ""),
        (502, "{}"),
    ],
)
def test_another_answer_while_loading_fails(status: int, body: str) -> None:
    because = f"loading: {status} `{body[:20]}"
    check("errors", Script(), FAIL, because, process=loading(status, body))


def test_a_refusal_while_loading_that_nobody_saw_is_said_to_be_so() -> None:
    unseen = "how it refuses while it loads was not seen"
    check("errors", Script(), Outcome.PASS, unseen)
    check("errors", Script(), UNCLEAR, unseen, loading=True)
