"""No server that cuts prompts or breaks the error contract passes."""

from dataclasses import replace

import pytest

from deployer.gates.harness.client import Loading, Process
from deployer.planning.events import Outcome
from tests.gates import fake_http as http
from tests.gates import fake_server as fake
from tests.gates.breaking import (
    CHAT,
    ERROR,
    FAIL,
    UNCLEAR,
    answers,
    props,
    text,
    when,
)
from tests.gates.checking import PROCESS, check
from tests.gates.fake_http import Part, Reply, Request, Script
from tests.gates.fake_model import Body, Said
from tests.gates.registry import broken


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


@broken(
    "context",
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
def a_context_does_not_pass(script: Script, outcome: Outcome, because: str) -> None:
    check("context", script, outcome, because)


@broken("context")
def a_needle_that_is_lost_fails() -> None:
    because = "`swordfish` in the middle of"
    check("context", Script(), FAIL, because, needle="swordfish")


def refused(status: int, kind: str) -> Reply:
    return http.error(status, "no", kind)


@broken(
    "errors",
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
def an_error_contract_does_not_pass(
    script: Script, outcome: Outcome, because: str
) -> None:
    check("errors", script, outcome, because)


LOADS = '{"error": {"message": "Loading model", "type": "unavailable_error"}}'


def loading(status: int, body: str) -> Process:
    return replace(PROCESS, loading=Loading(status, body))


@broken(
    "errors",
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
def another_answer_while_loading_fails(status: int, body: str) -> None:
    because = f"loading: {status} `{body[:20]}"
    check("errors", Script(), FAIL, because, process=loading(status, body))
