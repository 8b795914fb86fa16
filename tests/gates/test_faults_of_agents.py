"""No broken answer of the routes that agents use passes."""

from collections.abc import Sequence

import pytest

from deployer.planning.events import Outcome
from tests.gates import fake_agents as fake
from tests.gates import fake_http as http
from tests.gates.breaking import ERROR, FAIL, answers, template
from tests.gates.checking import check
from tests.gates.fake_http import Part, Reply, Request, Script
from tests.gates.fake_model import Body

RESPONSES, MESSAGES = "POST /v1/responses", "POST /v1/messages"
EVENTS = fake.response_events()
DELTA = EVENTS[1]
START, OPEN, PIECE = fake.message_events()[:3]
CLOSE, END, STOP = fake.message_events()[-3:]


def kind_of(body: Body) -> str:
    """Which of a gate's requests this is."""
    history = body.get("messages", body.get("input"))
    if body.get("stream"):
        return "stream"
    if "tools" not in body:
        return "plain"
    return "result" if isinstance(history, list) and len(history) > 1 else "tools"


def only(route: str, kind: str, reply: Reply) -> Script:
    """A server that answers one kind of request otherwise."""
    usual = fake.responses if route == RESPONSES else fake.messages

    def respond(request: Request) -> Reply:
        return reply if kind_of(request.body) == kind else usual(request)

    return answers(route, respond)


def item(**changed: object) -> Reply:
    """A function call with other values."""
    return http.as_json(fake.response({**fake.CALL, **changed}))


@pytest.mark.parametrize(
    ("kind", "reply", "outcome", "because"),
    [
        ("plain", http.error(404, "File Not Found"), FAIL, "plain: answered HTTP 404"),
        ("plain", http.html(), ERROR, "plain: answered with a web page"),
        ("plain", http.as_json({"status": "failed", "output": []}), FAIL, "`failed`"),
        ("plain", http.as_json({"status": "completed"}), FAIL, "`output`: field"),
        ("plain", http.as_json(fake.response(fake.text_item(""))), FAIL, "is empty"),
        ("plain", http.as_json(fake.response(fake.text_item("<think>"))), FAIL, "raw"),
        ("tools", http.as_json(fake.response(fake.text_item())), FAIL, "no function"),
        ("tools", item(name="rm"), FAIL, "tools: `rm` is called"),
        ("tools", item(arguments="{"), FAIL, "is called with `{`"),
        ("tools", item(arguments='{"x": 1}'), FAIL, "`city`: field required"),
        ("tools", item(call_id=""), FAIL, "no `call_id`"),
        ("result", http.error(400, "item type"), FAIL, "result: answered HTTP 400"),
        ("result", item(), FAIL, "result: the answer is empty"),
    ],
)
def test_responses_do_not_pass(
    kind: str, reply: Reply, outcome: Outcome, because: str
) -> None:
    check("responses_api", only(RESPONSES, kind, reply), outcome, because)


@pytest.mark.parametrize(
    ("events", "outcome", "because"),
    [
        (EVENTS[1:], FAIL, "first event is not `response.created`"),
        (EVENTS[:-1], FAIL, "last event is `response.output_text.delta`"),
        ([EVENTS[0], EVENTS[-1]], FAIL, "contains no text"),
        ([*EVENTS[:-1], DELTA, EVENTS[-1]], FAIL, "not that of `response.completed`"),
        ([*EVENTS[:-1], {"type": "response.failed"}], FAIL, "is `response.failed`"),
        ([*EVENTS[:-1], {"type": "error", "message": "x"}], FAIL, "is `error`"),
        ([*EVENTS[:-1], {**EVENTS[-1], "response": {}}], FAIL, "does not fit"),
        ([*EVENTS[:-1], {"type": "x", "delta": 1}], FAIL, "does not fit"),
        ([], FAIL, "the stream is empty"),
    ],
)
def test_a_stream_of_responses_does_not_pass(
    events: Sequence[Body], outcome: Outcome, because: str
) -> None:
    named = [
        {"type": "none", **event} if "kind" not in event else event for event in events
    ]
    parts = tuple(
        http.named_events(event).parts[0]
        if "type" in event
        else b'event: x\ndata: {"kind": 1}\n\n'
        for event in named
    )
    reply = Reply(parts, content_type="text/event-stream")
    check("responses_api", only(RESPONSES, "stream", reply), outcome, because)


@pytest.mark.parametrize(
    ("route", "gate"), [(RESPONSES, "responses_api"), (MESSAGES, "messages_api")]
)
def test_events_have_to_be_named_by_their_type(route: str, gate: str) -> None:
    nameless = http.events(*(EVENTS if route == RESPONSES else fake.message_events()))
    check(gate, only(route, "stream", nameless), FAIL, "event 1 is named `message`")


@pytest.mark.parametrize(
    ("route", "gate"), [(RESPONSES, "responses_api"), (MESSAGES, "messages_api")]
)
def test_a_stream_that_is_reset_is_an_error(route: str, gate: str) -> None:
    reset = http.events(b"event: x\n", Part.RESET)
    check(gate, only(route, "stream", reset), ERROR, "stream: the stream broke off")


def message(
    block: Body, stop_reason: str | None = "end_turn", **changed: object
) -> Reply:
    whole = {**fake.message(block), "stop_reason": stop_reason, **changed}
    return http.as_json(whole)


TEXT = fake.text_block()


@pytest.mark.parametrize(
    ("kind", "reply", "outcome", "because"),
    [
        ("plain", http.error(404, "File Not Found"), FAIL, "plain: answered HTTP 404"),
        ("plain", http.html(), ERROR, "plain: answered with a web page"),
        ("plain", message(TEXT, type="completion"), FAIL, "`completion of assistant`"),
        ("plain", message(TEXT, role="user"), FAIL, "`message of user`"),
        ("plain", message(TEXT, None), FAIL, "`stop_reason` is `None`"),
        ("plain", message(TEXT, usage={"input_tokens": 1}), FAIL, "output_tokens"),
        (
            "plain",
            message(TEXT, usage={"input_tokens": 1, "output_tokens": 0}),
            FAIL,
            "counts 0 tokens",
        ),
        ("plain", message(fake.text_block("")), FAIL, "is empty"),
        ("plain", message(fake.text_block("</think>")), FAIL, "raw `</think>`"),
        ("tools", message(TEXT), FAIL, "no tool is used"),
        ("tools", message(fake.USE), FAIL, "`end_turn`, not `tool_use`"),
        ("tools", message({**fake.USE, "id": ""}, "tool_use"), FAIL, "has no id"),
        ("tools", message({**fake.USE, "name": "rm"}, "tool_use"), FAIL, "`rm` is"),
        ("tools", message({**fake.USE, "input": {}}, "tool_use"), FAIL, "`city`"),
        ("tools", message({**fake.USE, "input": None}, "tool_use"), FAIL, "`null`"),
        ("result", message(fake.USE, "tool_use"), FAIL, "result: `stop_reason`"),
    ],
)
def test_messages_do_not_pass(
    kind: str, reply: Reply, outcome: Outcome, because: str
) -> None:
    check("messages_api", only(MESSAGES, kind, reply), outcome, because)


@pytest.mark.parametrize(
    ("events", "because"),
    [
        ([OPEN, PIECE, CLOSE, END, STOP], "not in the order"),
        ([START, OPEN, PIECE, CLOSE, STOP], "not in the order"),
        ([START, OPEN, PIECE, CLOSE, END], "not in the order"),
        ([START, PIECE, CLOSE, END, STOP], "not in the order"),
        ([START, OPEN, PIECE, END, STOP], "not in the order"),
        ([START, OPEN, OPEN, PIECE, CLOSE, END, STOP], "not in the order"),
        ([START, OPEN, {**PIECE, "index": 1}, CLOSE, END, STOP], "not in the order"),
        ([START, OPEN, PIECE, {**CLOSE, "index": 1}, END, STOP], "not in the order"),
        ([START, {**OPEN, "index": 1}, PIECE, CLOSE, END, STOP], "not in the order"),
        ([START, END, STOP], "not in the order"),
        ([START, OPEN, CLOSE, END, STOP], "contains no text"),
        ([START, {"type": "error", "error": {"message": "x"}}], "event 2 is an error"),
    ],
)
def test_a_stream_of_messages_does_not_pass(
    events: Sequence[Body], because: str
) -> None:
    reply = http.named_events(*events)
    check("messages_api", only(MESSAGES, "stream", reply), FAIL, because)


def test_pings_are_no_fault() -> None:
    pinged = http.named_events(START, {"type": "ping"}, OPEN, PIECE, CLOSE, END, STOP)
    check("messages_api", only(MESSAGES, "stream", pinged), Outcome.PASS, "streamed")


def test_a_server_that_cannot_count_does_not_pass() -> None:
    route = "POST /v1/messages/count_tokens"
    check("messages_api", answers(route, http.as_json({})), FAIL, "count: the answer")
    nothing = answers(route, http.as_json({"input_tokens": 0}))
    check("messages_api", nothing, FAIL, "counts 0 tokens")


@pytest.mark.parametrize("gate", ["responses_api", "messages_api"])
def test_tools_are_left_out_where_the_template_knows_none(gate: str) -> None:
    because = "its chat template knows no tools"
    check(gate, template("", tools=False), Outcome.PASS, because)
