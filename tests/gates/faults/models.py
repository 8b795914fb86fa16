"""No model or parser that breaks a promise passes; each ends in its sentence."""

import json
from collections.abc import Callable
from dataclasses import replace

import pytest

from deployer.planning.events import Outcome
from tests.gates import fake_http as http
from tests.gates import fake_server as fake
from tests.gates.breaking import (
    CHAT,
    ERROR,
    FAIL,
    UNCLEAR,
    answers,
    model,
    template,
    text,
    when,
)
from tests.gates.checking import check
from tests.gates.fake_http import Part, Reply, Request, Script
from tests.gates.fake_model import Body, Said, usual_answer, words
from tests.gates.registry import broken


def thinks_on(body: Body) -> bool:
    return bool(body["chat_template_kwargs"]["enable_thinking"])


@broken(
    "thinking",
    ("script", "outcome", "because"),
    [
        pytest.param(
            model(lambda _body: Said()), FAIL, "no reasoning came", id="never thinks"
        ),
        pytest.param(
            model(lambda _body: Said(reasoning="hm")),
            FAIL,
            "thinks although `enable_thinking` is false",
            id="always thinks",
        ),
        pytest.param(
            when(thinks_on, Said("<think>hm</think> 42")),
            FAIL,
            "`<think>` of the chat template",
            id="thinking in the answer",
        ),
        pytest.param(
            model(lambda body: usual_answer(body) if thinks_on(body) else Said("")),
            FAIL,
            "without thinking is empty",
            id="empty without",
        ),
        pytest.param(
            model(
                lambda body: (
                    usual_answer(body) if thinks_on(body) else Said("<channel|>4")
                )
            ),
            FAIL,
            "`<channel|>` of the chat template",
            id="end tag leaks",
        ),
        pytest.param(
            replace(template("{{ messages }}"), says=lambda _body: Said()),
            UNCLEAR,
            "cannot think",
            id="cannot think",
        ),
        pytest.param(
            answers(CHAT, http.error(500, "oops")), FAIL, "HTTP 500: oops", id="500"
        ),
    ],
)
def thinking_does_not_pass(script: Script, outcome: Outcome, because: str) -> None:
    check("thinking", script, outcome, because)


def budgeted(body: Body) -> bool:
    return "thinking_budget_tokens" in body


def zero(body: Body) -> bool:
    return body.get("thinking_budget_tokens") == 0


@broken(
    "thinking_budget",
    ("script", "outcome", "because"),
    [
        pytest.param(
            when(budgeted, Said(reasoning=words(200))),
            FAIL,
            "budget 0: thought 200 tokens, as much as without a budget; builds b8665",
            id="ignored",
        ),
        pytest.param(
            model(
                lambda body: (
                    Said(reasoning=words(30)) if zero(body) else usual_answer(body)
                )
            ),
            FAIL,
            "budget 0: thought 30 tokens;",
            id="zero ignored",
        ),
        pytest.param(
            model(
                lambda body: (
                    Said(reasoning=words(9))
                    if budgeted(body) and not zero(body)
                    else usual_answer(body)
                )
            ),
            UNCLEAR,
            "budget 64 is not proved",
            id="short by itself",
        ),
        pytest.param(
            model(lambda body: Said() if budgeted(body) else usual_answer(body)),
            FAIL,
            "budget 64: no reasoning at all",
            id="turned off instead",
        ),
        pytest.param(
            when(zero, Said("<channel|> 42")), FAIL, "`<channel|>`", id="end tag leaks"
        ),
        pytest.param(when(zero, Said("")), FAIL, "no answer followed", id="no answer"),
        pytest.param(
            when(zero, Said(words(40))), FAIL, "came as the answer", id="thinks aloud"
        ),
        pytest.param(
            model(lambda _body: Said()), UNCLEAR, "nothing to limit", id="never thinks"
        ),
        pytest.param(
            replace(template("{{ messages }}"), says=lambda _body: Said()),
            UNCLEAR,
            "the chat template of this model cannot think",
            id="no thinking in the template",
        ),
        pytest.param(
            model(lambda body: Said(reasoning=words(0 if zero(body) else 20))),
            UNCLEAR,
            "budget 64 is not proved: thinking ended by itself, after 20 tokens",
            id="thinks little",
        ),
        pytest.param(
            answers(CHAT, http.error(500, "Failed to parse input at pos 13")),
            FAIL,
            "Failed to parse",
            id="500",
        ),
    ],
)
def a_budget_does_not_pass(script: Script, outcome: Outcome, because: str) -> None:
    check("thinking_budget", script, outcome, because)


@broken("thinking_budget")
def an_error_with_one_budget_names_it() -> None:
    def failing(request: http.Request) -> http.Reply:
        parsing = http.error(500, "Failed to parse input")
        return parsing if zero(request.body) else fake.chat(request)

    check(
        "thinking_budget", answers(CHAT, failing), FAIL, "budget 0: answered HTTP 500"
    )


@broken(
    "json_schema",
    ("said", "because"),
    [
        pytest.param(Said("Paris is a city."), "invalid JSON", id="prose"),
        pytest.param(Said(""), "`nothing` does not fit", id="empty"),
        pytest.param(Said('```json\n{"name": "P"}\n```'), "invalid JSON", id="fenced"),
        pytest.param(
            Said('{"name": "P", "kind": "city"}'), "`rank`", id="field missing"
        ),
        pytest.param(
            Said('{"name": "P", "kind": "town", "rank": 1}'), "`kind`", id="not in enum"
        ),
        pytest.param(
            Said('{"name": "P", "kind": "city", "rank": "1"}'),
            "`rank`",
            id="wrong type",
        ),
        pytest.param(
            Said('{"name": "P", "kind": "city", "rank": 1, "x": 1}'), "`x`", id="more"
        ),
        pytest.param(
            Said('{"name": "P", "kind": "city", "rank": 1}', finish="length"),
            "did not come to an end",
            id="cut",
        ),
    ],
)
def a_schema_does_not_pass(said: Said, because: str) -> None:
    check("json_schema", model(lambda _body: said), FAIL, because)


def pictures(count: int) -> Callable[[Body], bool]:
    """Whether a request shows so many."""

    def applies(body: Body) -> bool:
        parts = body["messages"][-1]["content"]
        return len([part for part in parts if "image_url" in part]) == count

    return applies


def on_pictures(count: int, reply: Reply) -> Script:
    """A server that answers so to a request with so many pictures."""
    applies = pictures(count)

    def respond(request: Request) -> Reply:
        return reply if applies(request.body) else fake.chat(request)

    return answers(CHAT, respond)


@broken(
    "vision",
    ("script", "outcome", "because"),
    [
        pytest.param(
            model(lambda _body: Said("Red.")), FAIL, "a blue image", id="always red"
        ),
        pytest.param(
            model(lambda _body: Said("Red or blue.")), FAIL, "a red image", id="hedges"
        ),
        pytest.param(model(lambda _body: Said("")), FAIL, "`nothing`", id="empty"),
        pytest.param(
            answers(CHAT, http.error(500, "image input is not supported - mmproj")),
            FAIL,
            "state `model.mmproj`",
            id="no projector",
        ),
        pytest.param(
            answers(CHAT, text("{}", "text/plain")), FAIL, "`choices`", id="no choices"
        ),
        pytest.param(answers(CHAT, http.html(413)), ERROR, "HTTP 413", id="too large"),
        pytest.param(
            when(pictures(2), Said("")), FAIL, "answered with nothing", id="empty pair"
        ),
        pytest.param(
            on_pictures(2, http.error(500, "GGML_ASSERT failed")),
            FAIL,
            "two images in one request: answered HTTP 500",
            id="error with a pair",
        ),
        pytest.param(
            on_pictures(2, Reply((b"", Part.RESET))), ERROR, "reset", id="dies"
        ),
        pytest.param(
            on_pictures(
                2, http.as_json({**fake.completion(Said()), "usage": fake.usage(5, 75)})
            ),
            FAIL,
            "only one was read: the second adds",
            id="second one ignored",
        ),
    ],
)
def vision_does_not_pass(script: Script, outcome: Outcome, because: str) -> None:
    check("vision", script, outcome, because)


@broken("vision")
def a_large_picture_that_is_not_seen_fails() -> None:
    def blurred(body: Body) -> Said:
        url = json.dumps(body["messages"][-1]["content"])
        return Said("Blue.") if len(url) > 8000 else usual_answer(body)

    because = "a large green image is answered with `blue.`"
    check("vision", model(blurred), FAIL, because, large=True)


@broken(
    "speed",
    ("script", "outcome", "because"),
    [
        pytest.param(Script(timings=False), ERROR, "no `timings`", id="no clock"),
        pytest.param(model(lambda _body: Said("")), FAIL, "no text", id="no text"),
        pytest.param(answers(CHAT, http.html(502)), ERROR, "HTTP 502", id="gateway"),
    ],
)
def speed_does_not_pass(script: Script, outcome: Outcome, because: str) -> None:
    check("speed", script, outcome, because)


@broken("speed")
def a_late_first_token_fails_speed() -> None:
    check("speed", Script(), FAIL, "more than `ttft: 0 ms`", ttft="0.001ms")


@broken("speed")
def slow_tokens_fail_speed() -> None:
    slow, limit = Script(busy_seconds=0.3), 1000
    because = "less than `tokens_per_second: 1000`"
    check("speed", slow, FAIL, because, tokens_per_second=limit)


@broken(
    "speed",
    ("reply", "outcome", "because"),
    [
        (http.error(500, "oops"), FAIL, "2 streams at once: answered HTTP 500: oops"),
        (Reply((b"{", Part.RESET)), ERROR, "was reset"),
        (http.events(Part.RESET), ERROR, "2 streams at once: the stream broke off"),
    ],
)
def a_slot_that_does_not_answer_beside_others_fails_speed(
    reply: Reply, outcome: Outcome, because: str
) -> None:
    def respond(request: Request) -> Reply:
        second = "story 1" in json.dumps(request.body)
        return reply if second else fake.chat(request)

    check("speed", answers(CHAT, respond), outcome, because)


@broken("thinking_budget")
def a_template_that_could_think_is_not_said_to_lack_it() -> None:
    verdict = check(
        "thinking_budget", model(lambda _body: Said()), UNCLEAR, "nothing to limit"
    )
    assert verdict.applicable
