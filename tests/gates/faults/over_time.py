"""No broken stream, counter or queue passes; each ends in the sentence it deserves."""

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
    stream,
    text,
    without,
)
from tests.gates.checking import STATED, check
from tests.gates.fake_http import Part, Reply, Request, Script
from tests.gates.fake_model import Said
from tests.gates.fake_server import chunk
from tests.gates.registry import broken

GOOD = fake.chunks(Said())
TOLD, LAST = GOOD[:-2], GOOD[-2:]
"""The deltas of the text, and the two chunks that end it."""
DONE = "[DONE]"
NO_SLOTS = http.error(501, "This server does not support slots endpoint")


@broken(
    "stream",
    ("script", "outcome", "because"),
    [
        pytest.param(stream(*GOOD), FAIL, "ended without `[DONE]`", id="no DONE"),
        pytest.param(
            stream(*GOOD, DONE, GOOD[1]), FAIL, "1 events came after", id="after DONE"
        ),
        pytest.param(stream(*GOOD, DONE, DONE), FAIL, "came after", id="DONE twice"),
        pytest.param(
            stream(*GOOD, b"data: [DONE]"), FAIL, "inside an event", id="half a frame"
        ),
        pytest.param(
            stream(*TOLD, b'data: {"choices": [{"ind'), FAIL, "inside", id="half JSON"
        ),
        pytest.param(
            stream(*TOLD, '{"choices": [', DONE), FAIL, "not JSON", id="broken JSON"
        ),
        pytest.param(
            stream(TOLD[0], b"oops\n\n", *LAST, DONE),
            FAIL,
            "no event: `oops`",
            id="noise",
        ),
        pytest.param(stream(b"\xff\n\n"), FAIL, "not UTF-8 at byte 0", id="not UTF-8"),
        pytest.param(stream(), FAIL, "the stream is empty", id="empty"),
        pytest.param(stream(DONE), FAIL, "no chunk contains a choice", id="only DONE"),
        pytest.param(
            stream(*TOLD, Part.RESET), ERROR, "the stream broke off", id="reset"
        ),
        pytest.param(stream(*TOLD, Part.CLOSE), ERROR, "broke off", id="cut"),
        pytest.param(
            stream(*TOLD, {"error": {"message": "slot lost"}}, DONE),
            FAIL,
            "event 6 is an error: slot lost",
            id="error inside",
        ),
        pytest.param(stream(*TOLD[1:], *LAST, DONE), FAIL, "role `None`", id="no role"),
        pytest.param(stream(TOLD[0], *LAST, DONE), FAIL, "no text", id="no text"),
        pytest.param(
            stream(TOLD[0], chunk({"content": ""}), *LAST, DONE),
            FAIL,
            "contains no text",
            id="empty text",
        ),
        pytest.param(
            stream(*TOLD, LAST[1], DONE), FAIL, "`finish_reason`", id="no finish"
        ),
        pytest.param(
            stream(*TOLD, *LAST, TOLD[1], DONE),
            FAIL,
            "after the `finish_reason`",
            id="text after the finish",
        ),
        pytest.param(
            stream(*TOLD, LAST[0], LAST[0], DONE), FAIL, "after the", id="two finishes"
        ),
        pytest.param(
            stream(*TOLD, chunk({}, finish="error"), DONE),
            FAIL,
            "`finish_reason` is `error`",
            id="odd finish",
        ),
        pytest.param(
            stream(*TOLD, {**TOLD[1], "id": "chatcmpl-2"}, *LAST, DONE),
            FAIL,
            "different ids",
            id="two ids",
        ),
        pytest.param(
            stream(*TOLD, chunk({"content": "x"}, index=1), *LAST, DONE),
            FAIL,
            "index 1",
            id="two answers",
        ),
        pytest.param(
            stream(without(TOLD[0], "choices"), DONE),
            FAIL,
            "`choices`",
            id="no choices",
        ),
        pytest.param(
            answers(CHAT, http.as_json(fake.completion(Said()))),
            FAIL,
            "`application/json` instead of",
            id="not a stream",
        ),
        pytest.param(answers(CHAT, http.html()), FAIL, "a web page", id="web page"),
        pytest.param(
            answers(CHAT, http.error(500, "oops")), FAIL, "HTTP 500: oops", id="500"
        ),
    ],
)
def stream_does_not_pass(script: Script, outcome: Outcome, because: str) -> None:
    check("stream", script, outcome, because)


@broken("stream")
def a_stream_that_drips_for_ever_is_an_error_in_time() -> None:
    dripping = stream(*TOLD, Part.DRIP)
    check("stream", dripping, ERROR, "not done within", timeout=0.4)


@broken("stream")
def a_first_token_beyond_the_limit_fails() -> None:
    check("stream", Script(), FAIL, "more than the 0 ms of `ttft`", ttft="0.001ms")


def counters(*pairs: tuple[float | str, float | str]) -> Script:
    """/metrics that shows these in turn, and then the last of them for ever."""
    left = list(pairs)

    def respond(_request: Request) -> Reply:
        return fake.metrics_text(*(left.pop(0) if len(left) > 1 else left[0]))

    return answers("GET /metrics", respond)


@broken(
    "metrics",
    ("script", "outcome", "because"),
    [
        pytest.param(
            answers("GET /metrics", http.error(501, "no metrics")),
            FAIL,
            "set `server.metrics: true`",
            id="off",
        ),
        pytest.param(counters((5, "NaN")), FAIL, "total` is nan", id="NaN"),
        pytest.param(counters((1, 1), (12, "NaN")), FAIL, "is nan", id="NaN later"),
        pytest.param(counters((5, "+Inf")), FAIL, "total` is inf", id="infinite"),
        pytest.param(counters((-1, 5)), FAIL, "total` is -1", id="negative"),
        pytest.param(counters((5, "many")), FAIL, "not Prometheus text", id="a word"),
        pytest.param(counters((9, 9), (0, 0)), FAIL, "went back", id="restarted"),
        pytest.param(
            answers("GET /metrics", text("", "text/plain")),
            FAIL,
            "contains no",
            id="empty",
        ),
        pytest.param(
            answers("GET /metrics", text("vllm:tokens 1\n", "text/plain")),
            FAIL,
            "contains no `llamacpp:prompt_tokens_total`",
            id="another server's",
        ),
        pytest.param(
            answers("GET /metrics", http.html()), FAIL, "a web page", id="web page"
        ),
        pytest.param(
            answers("GET /metrics", text(b"a 1\xff\n", "text/plain")),
            FAIL,
            "not Prometheus text",
            id="not UTF-8",
        ),
        pytest.param(
            answers(CHAT, http.error(500, "oops")), FAIL, "500: oops", id="no answer"
        ),
    ],
)
def metrics_do_not_pass(script: Script, outcome: Outcome, because: str) -> None:
    check("metrics", script, outcome, because)


@broken(
    "metrics",
    ("pairs", "because"),
    [
        (((9, 9),), "tokens_predicted_total` grew by 0"),
        (((9, 9), (20, 11)), "grew by 2 over an answer of 4 tokens"),
        (((9, 9), (9, 14)), "prompt_tokens_total` did not grow"),
    ],
)
def counters_that_do_not_move_fail(
    pairs: tuple[tuple[float, float], ...], because: str
) -> None:
    check("metrics", counters(*pairs), FAIL, because)


def one_at_a_time(script: Script) -> Script:
    """Two slots on paper, and one behind the door: a proxy that queues."""
    return replace(script, slots=1, routes={**script.routes, "GET /props": two_slots})


def two_slots(_request: Request) -> Reply:
    return http.as_json(fake.props_value(slots=2))


def every(other: Callable[[Request], Reply], turn: int) -> Script:
    """Every `turn`-th chat is answered otherwise."""
    asked: list[None] = []

    def respond(request: Request) -> Reply:
        asked.append(None)
        return other(request) if len(asked) % turn == 0 else fake.chat(request)

    return answers(CHAT, respond)


def failing(_request: Request) -> Reply:
    return http.error(500, "out of memory")


def resetting(_request: Request) -> Reply:
    return Reply((b"{", Part.RESET))


@broken(
    "concurrency",
    ("script", "because"),
    [
        pytest.param(one_at_a_time(Script()), "at most 1 of 2", id="a queue"),
        pytest.param(every(failing, 2), "HTTP 500: out of memory", id="one fails"),
        pytest.param(every(resetting, 2), "was reset", id="one is reset"),
    ],
)
def concurrency_fails(script: Script, because: str) -> None:
    check("concurrency", script, FAIL, because)


@broken("concurrency")
def more_requests_than_slots_fail() -> None:
    check("concurrency", Script(), FAIL, "the server has 2 slots", requests=4)


@broken("concurrency")
def concurrency_without_a_witness_is_inconclusive() -> None:
    blind = replace(answers("GET /slots", NO_SLOTS), timings=False)
    check("concurrency", blind, UNCLEAR, "set `server.slots: true`")


@broken("concurrency")
def slots_nobody_can_count_are_no_pass() -> None:
    stated = without(STATED, "server.parallel")
    unknown = answers("GET /props", http.error(404, "File Not Found"))
    check("concurrency", unknown, FAIL, "HTTP 404", stated=stated)
    none = answers("GET /props", http.as_json({"total_slots": 0}))
    check("concurrency", none, UNCLEAR, "reports no slots", stated=stated)
