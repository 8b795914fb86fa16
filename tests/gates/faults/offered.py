"""No broken answer of what only some servers offer passes."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from deployer.planning.events import Outcome
from tests.gates import fake_http as http
from tests.gates import fake_more as more
from tests.gates import fake_server as fake
from tests.gates.breaking import CHAT, ERROR, FAIL, UNCLEAR, answers, text
from tests.gates.checking import STATED, check, coming_back
from tests.gates.fake_http import Reply, Request, Script
from tests.gates.fake_model import Said
from tests.gates.registry import broken

EMBEDDINGS, RERANK = "POST /v1/embeddings", "POST /v1/rerank"
OFF = http.error(501, "This server does not support it", "not_supported_error")


def vectors(change: Callable[[int, str], list[float]]) -> Script:
    """A server whose vectors are changed, by their number and text."""

    def respond(request: Request) -> Reply:
        texts = more.texts(request)
        return more.embedded(*(change(n, it) for n, it in enumerate(texts)))

    return answers(EMBEDDINGS, respond)


def backwards(number: int, words: str) -> list[float]:
    return more.vector(f"far {number}" if number % 3 == 1 else words)


def shaky() -> Script:
    asked: list[str] = []

    def change(_number: int, words: str) -> list[float]:
        asked.append(words)
        return more.vector(words + " again" * asked.count(words))

    return vectors(change)


def alone_too_long(request: Request) -> Reply:
    if any(len(it) > 500 for it in more.texts(request)):
        return http.error(500, "input (802 tokens) is too large to process")
    return more.embeddings(request)


@broken(
    "embeddings",
    ("script", "outcome", "because"),
    [
        pytest.param(answers(EMBEDDINGS, OFF), FAIL, "is off", id="off"),
        pytest.param(vectors(lambda *_: [0.0] * 8), FAIL, "zero in all", id="zeros"),
        pytest.param(vectors(lambda *_: [1.0, 0.0]), FAIL, "same vector", id="one"),
        pytest.param(
            vectors(lambda _n, it: [9 * x for x in more.vector(it)]),
            FAIL,
            "has the length 9",
            id="no unit length",
        ),
        pytest.param(
            vectors(lambda n, it: more.vector(it)[: 60 + n]), FAIL, "length", id="cut"
        ),
        pytest.param(
            vectors(lambda _n, it: [math.nan, *more.vector(it)[1:]]),
            FAIL,
            "finite number",
            id="NaN",
        ),
        pytest.param(vectors(backwards), FAIL, "is not nearer to", id="backwards"),
        pytest.param(shaky(), FAIL, "with itself", id="another one each time"),
        pytest.param(
            answers(EMBEDDINGS, alone_too_long),
            FAIL,
            "set `server.ubatch_size`",
            id="batch below context",
        ),
        pytest.param(
            answers(EMBEDDINGS, lambda _r: more.embedded(more.vector("a"))),
            FAIL,
            "6 texts were sent, and 1 vectors came",
            id="too few",
        ),
        pytest.param(answers(EMBEDDINGS, text("{")), ERROR, "not JSON", id="cut JSON"),
    ],
)
def embeddings_do_not_pass(script: Script, outcome: Outcome, because: str) -> None:
    check("embeddings", script, outcome, because)


@broken("embeddings")
def another_dimension_fails() -> None:
    check("embeddings", Script(), FAIL, "`dimension: 768`", dimension=768)


def scores(change: Callable[[str, str], float]) -> Script:
    """A server that scores differently, by question and text."""

    def respond(request: Request) -> Reply:
        body = request.body
        return more.ranking(*(change(body["query"], it) for it in body["documents"]))

    return answers(RERANK, respond)


def in_place(request: Request) -> Reply:
    return more.ranking(*range(len(request.body["documents"]), 0, -1))


def unordered(request: Request) -> Reply:
    body = request.body
    rows = [
        {"index": n, "relevance_score": more.score(body["query"], it)}
        for n, it in enumerate(body["documents"])
    ]
    return http.as_json({"results": sorted(rows, key=lambda it: it["relevance_score"])})


@broken(
    "rerank",
    ("script", "outcome", "because"),
    [
        pytest.param(answers(RERANK, OFF), FAIL, "is off", id="off"),
        pytest.param(
            scores(lambda q, d: -more.score(q, d)), FAIL, "is scored", id="backwards"
        ),
        pytest.param(scores(lambda *_: 0.5), FAIL, "both texts", id="all the same"),
        pytest.param(scores(lambda *_: math.nan), FAIL, "finite number", id="NaN"),
        pytest.param(answers(RERANK, in_place), FAIL, "its place", id="by place"),
        pytest.param(answers(RERANK, unordered), FAIL, "not ordered", id="unordered"),
        pytest.param(
            answers(RERANK, more.ranking(0.9)), FAIL, "1 scores came", id="top one"
        ),
        pytest.param(answers(RERANK, http.html(502)), ERROR, "HTTP 502", id="gateway"),
    ],
)
def rerank_does_not_pass(script: Script, outcome: Outcome, because: str) -> None:
    check("rerank", script, outcome, because)


@broken("rerank")
def an_own_question_that_is_ranked_backwards_fails(tmp_path: Path) -> None:
    line = '{"query": "red apple", "better": "a blue sea", "worse": "a red apple"}\n'
    (tmp_path / "own.jsonl").write_text(line, encoding="utf-8")
    because = "`red apple`: `a blue sea` is scored"
    check("rerank", Script(), FAIL, because, file="own.jsonl", folder=tmp_path)


@broken("rerank")
def a_file_with_another_line_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "own.jsonl").write_text('{"query": "red"}\n', encoding="utf-8")
    because = "own.jsonl:1: `better`: field required"
    check("rerank", Script(), ERROR, because, file="own.jsonl", folder=tmp_path)


def drawing(**changed: Any) -> Script:
    """A server with other samplers than its stack states."""

    def respond(request: Request) -> Reply:
        return http.as_json(more.story(request.body, **changed))

    return answers("POST /completion", respond)


def shortened(most: int) -> Script:
    """A server that ends every answer after so many tokens."""

    def respond(request: Request) -> Reply:
        return http.as_json(more.story({**request.body, "n_predict": most}))

    return answers("POST /completion", respond)


def unseeded() -> Script:
    said = iter("abcdefghijklmnop")

    def respond(request: Request) -> Reply:
        found = {"content": next(said), **more.story(request.body)}
        return http.as_json(found)

    return answers("POST /completion", respond)


@broken(
    "sampling",
    ("script", "changed", "outcome", "because"),
    [
        pytest.param(
            drawing(top_k=5),
            {},
            FAIL,
            "5 tokens can be drawn, `server.top_k: 3`",
            id="more tokens",
        ),
        pytest.param(
            drawing(heat=1.0),
            {},
            FAIL,
            "at 1.00, `server.temperature: 0.8`",
            id="hotter",
        ),
        pytest.param(
            drawing(heat=0.2),
            {},
            FAIL,
            "at 0.20, `server.temperature: 0.8`",
            id="colder",
        ),
        pytest.param(
            Script(),
            {"temperature": 0},
            FAIL,
            "3 tokens can be drawn",
            id="greedy is not",
        ),
        pytest.param(
            Script(), {"min_p": 0.9}, FAIL, "`server.min_p: 0.9`", id="below min_p"
        ),
        pytest.param(
            unseeded(), {"seed": 7}, FAIL, "`server.seed: 7` does not repeat", id="seed"
        ),
        pytest.param(drawing(top_k=1), {}, UNCLEAR, "one token alone", id="one token"),
        pytest.param(
            drawing(chance=0.0),
            {},
            FAIL,
            "the likeliest token was drawn 32 of 32 times",
            id="draws the likeliest alone",
        ),
        pytest.param(
            drawing(chance=0.99),
            {},
            FAIL,
            "the likeliest token was drawn 0 of 32 times",
            id="draws the least likely alone",
        ),
        pytest.param(
            shortened(1),
            {},
            UNCLEAR,
            "ends after 1 tokens",
            id="draws no more than one",
        ),
        pytest.param(
            answers("POST /completion", http.error(404, "File Not Found")),
            {},
            FAIL,
            "HTTP 404",
            id="no route",
        ),
        pytest.param(
            answers("POST /completion", http.as_json({"content": "x"})),
            {},
            FAIL,
            "`completion_probabilities`",
            id="no probabilities",
        ),
    ],
)
def sampling_does_not_pass(
    script: Script, changed: dict[str, float], outcome: Outcome, because: str
) -> None:
    stated = {**STATED, **{f"server.{it}": value for it, value in changed.items()}}
    check("sampling", script, outcome, because, stated=stated)


@broken("sampling")
def a_stack_that_states_no_sampler_has_none_to_prove() -> None:
    stated = {it: value for it, value in STATED.items() if it[:8] != "server.t"}
    because = "the stack states no sampler"
    verdict = check("sampling", Script(), UNCLEAR, because, stated=stated)
    assert not verdict.applicable


def same(request: Request) -> Reply:
    drawn = more.drawn({**request.body, "lora": []})
    return http.as_json({"completion_probabilities": [drawn]})


def restless() -> Script:
    heats = iter((0.0, 0.1, 0.3, 0.9))

    def respond(request: Request) -> Reply:
        drawn = more.drawn(request.body)
        moved = next(heats)
        for one in drawn["top_logprobs"]:
            one["logprob"] -= moved * one["id"]
        return http.as_json({"completion_probabilities": [drawn]})

    return answers("POST /completion", respond)


ADAPTERS = "GET /lora-adapters"


@broken(
    "lora",
    ("script", "outcome", "because"),
    [
        pytest.param(answers(ADAPTERS, http.as_json([])), FAIL, "is empty", id="none"),
        pytest.param(
            answers(
                ADAPTERS, http.as_json([{"id": 0, "path": more.LORA, "scale": 0.0}])
            ),
            FAIL,
            "`tone.gguf`: every scale is 0",
            id="scale 0",
        ),
        pytest.param(
            answers("POST /completion", same), FAIL, "change nothing", id="no effect"
        ),
        pytest.param(restless(), UNCLEAR, "differently twice", id="restless"),
        pytest.param(answers(ADAPTERS, OFF), FAIL, "HTTP 501", id="off"),
        pytest.param(
            answers(ADAPTERS, http.as_json({"id": 0})), FAIL, "does not fit", id="shape"
        ),
        pytest.param(
            answers("POST /completion", http.error(500, "no slot")),
            FAIL,
            "with its adapters: answered HTTP 500",
            id="500",
        ),
    ],
)
def lora_does_not_pass(script: Script, outcome: Outcome, because: str) -> None:
    check("lora", script, outcome, because)


def clocked(
    drafted: int, accepted: int, *, speed: float = 1.0, without: float = 1.0
) -> Script:
    """A server whose drafts are counted so, and whose speeds are these."""

    def respond(request: Request) -> Reply:
        off = "speculative.n_max" in request.body
        rate = without if off else speed
        timings = {
            "prompt_n": 5,
            "prompt_ms": 1.0,
            "predicted_n": 96,
            "predicted_ms": 96 / rate,
        }
        if not off:
            timings |= {"draft_n": drafted, "draft_n_accepted": accepted}
        return http.as_json({**fake.completion(Said()), "timings": timings})

    return answers(CHAT, respond)


@broken(
    "speculative",
    ("script", "outcome", "because"),
    [
        pytest.param(clocked(0, 0), FAIL, "the draft is never used", id="unused"),
        pytest.param(clocked(100, 0), FAIL, "less than `acceptance", id="never right"),
        pytest.param(clocked(100, 9), FAIL, "18 of 200 drafted", id="seldom right"),
        pytest.param(clocked(10, 50), FAIL, "which cannot be", id="miscounted"),
        pytest.param(clocked(50, 40, speed=0.5), FAIL, "it is slower", id="slower"),
        pytest.param(Script(timings=False), UNCLEAR, "no timings", id="no clock"),
        pytest.param(
            answers(CHAT, http.error(500, "draft")), FAIL, "HTTP 500", id="500"
        ),
    ],
)
def speculative_does_not_pass(script: Script, outcome: Outcome, because: str) -> None:
    check("speculative", script, outcome, because)


def cached(tokens: int | None, *, says: tuple[str, ...] = ("a",)) -> Script:
    """A server that counts so many cached tokens, and says these in turn."""
    asked: list[int] = []

    def respond(request: Request) -> Reply:
        asked.append(1)
        said = says[min(len(asked), len(says)) - 1]
        whole = fake.completion(Said(said))
        prompt = fake.prompt_tokens(request.body)
        whole["usage"] = fake.usage(5, prompt)
        if tokens is not None:
            whole["usage"]["prompt_tokens_details"] = {"cached_tokens": tokens}
        return http.as_json(whole)

    return answers(CHAT, respond)


@broken(
    "prompt_cache",
    ("script", "outcome", "because"),
    [
        pytest.param(cached(0), FAIL, "0 of 100 tokens", id="nothing cached"),
        pytest.param(cached(45), FAIL, "less than `at_least: 0.9`", id="half of it"),
        pytest.param(cached(1000), FAIL, "which cannot be", id="miscounted"),
        pytest.param(cached(None), UNCLEAR, "do not count cached", id="uncounted"),
        pytest.param(
            cached(99, says=("a", "a", "b")), FAIL, "the answer differs", id="other"
        ),
        pytest.param(
            answers(CHAT, http.error(500, "oops")), FAIL, "read cold: answ", id="500"
        ),
    ],
)
def prompt_cache_does_not_pass(script: Script, outcome: Outcome, because: str) -> None:
    check("prompt_cache", script, outcome, because)


@broken("prompt_cache")
def a_restore_that_lost_the_prompt_fails(tmp_path: Path) -> None:
    """The server in miniature has not read the file before it came back."""
    (tmp_path / "agent.md").write_text("be terse " * 90, encoding="utf-8")
    because = "0 of 190 tokens of the prompt were read from the cache"
    check("prompt_cache", Script(), FAIL, because, file="agent.md", folder=tmp_path)


@broken("prompt_cache")
def a_cold_start_is_no_restore_of_a_prompt(tmp_path: Path) -> None:
    (tmp_path / "agent.md").write_text("be terse", encoding="utf-8")
    with fake.fake_server(Script()) as server:
        back = coming_back(server.url, really=False)
        because = "it was no restore: the image was damaged"
        check(
            "prompt_cache",
            Script(),
            FAIL,
            because,
            file="agent.md",
            folder=tmp_path,
            bring_back=back,
        )


@broken("prompt_cache")
def a_prompt_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    because = "agent.md`: No such file or directory"
    check("prompt_cache", Script(), ERROR, because, file="agent.md", folder=tmp_path)


SLOT = "/slots/0?action="


def no_effect(request: Request) -> Reply:
    """The bug of builds with a sliding window: counted, and not there."""
    server = request.server
    return http.as_json({"id_slot": 0, "n_restored": len(server.saved.split())})


def other_words(request: Request) -> Reply:
    reply = more.completion(request)
    if request.server.saved:
        return Reply((reply.parts[0].replace(b" sea", b" sky"),))  # type: ignore[union-attr]
    return reply


@broken(
    "slots",
    ("script", "outcome", "because"),
    [
        pytest.param(
            answers(f"POST {SLOT}restore", no_effect), FAIL, "has no effect", id="none"
        ),
        pytest.param(
            answers(f"POST {SLOT}save", http.as_json({"n_saved": 0})),
            FAIL,
            "saved with no token",
            id="empty",
        ),
        pytest.param(
            answers(f"POST {SLOT}restore", http.as_json({"n_restored": 3})),
            FAIL,
            "92 tokens were saved, 3 restored",
            id="a part",
        ),
        pytest.param(
            answers(f"POST {SLOT}restore", http.error(400, "Unable to restore slot")),
            FAIL,
            "Unable to restore slot",
            id="refused",
        ),
        pytest.param(
            answers(f"POST {SLOT}erase", http.error(500, "oops")),
            FAIL,
            "is not emptied",
            id="not emptied",
        ),
        pytest.param(
            answers("POST /completion", other_words), FAIL, "differently", id="changed"
        ),
        pytest.param(answers(f"POST {SLOT}save", OFF), UNCLEAR, "no `slot-", id="off"),
    ],
)
def slots_do_not_pass(script: Script, outcome: Outcome, because: str) -> None:
    check("slots", script, outcome, because)


@broken("slots")
def slots_that_are_stated_and_off_fail() -> None:
    stated = {**STATED, "server.flags.slot-save-path": "/srv/slots"}
    off = answers(f"POST {SLOT}save", OFF)
    check("slots", off, FAIL, "HTTP 501", stated=stated)


def after_long(reply: Reply, *, dead: bool = False) -> Script:
    """A server that answers a long prompt so, and may be dead then."""
    died: list[int] = []

    def respond(request: Request) -> Reply:
        if fake.prompt_tokens(request.body) >= fake.CONTEXT:
            died.append(1)
            return reply
        return http.error(500, "oops") if dead and died else fake.chat(request)

    return answers(CHAT, respond)


@broken(
    "limits",
    ("script", "outcome", "because"),
    [
        pytest.param(
            after_long(http.as_json(fake.completion(Said()))),
            FAIL,
            "with HTTP 200",
            id="cut in silence",
        ),
        pytest.param(
            after_long(http.error(500, "assertion")), FAIL, "HTTP 500", id="500"
        ),
        pytest.param(
            after_long(replace(text("no"), status=400)),
            FAIL,
            "refused without a reason",
            id="no reason",
        ),
        pytest.param(
            after_long(Reply((b"", http.Part.RESET))), ERROR, "was reset", id="died"
        ),
        pytest.param(
            after_long(fake.too_long(9000), dead=True),
            FAIL,
            "after that: answered HTTP 500",
            id="broken after it",
        ),
        pytest.param(
            answers("GET /health", http.error(500, "oops")),
            FAIL,
            "/health answers 500",
            id="ill after it",
        ),
    ],
)
def limits_do_not_pass(script: Script, outcome: Outcome, because: str) -> None:
    check("limits", script, outcome, because)


def heard(said: str, tokens: int) -> Script:
    def respond(request: Request) -> Reply:
        listens = isinstance(request.body["messages"][-1]["content"], list)
        whole = fake.completion(Said(said))
        whole["usage"] = fake.usage(5, 10 + tokens * listens)
        return http.as_json(whole)

    return answers(CHAT, respond)


@broken(
    "audio",
    ("script", "outcome", "because"),
    [
        pytest.param(heard("A tone.", 0), FAIL, "was not read", id="ignored"),
        pytest.param(heard("A tone.", 2), FAIL, "it adds 2 tokens", id="two tokens"),
        pytest.param(heard(" ", 50), FAIL, "answered with nothing", id="silent"),
        pytest.param(
            answers(CHAT, http.error(500, "audio input is not supported: mmproj")),
            FAIL,
            "state `model.mmproj`",
            id="no projector",
        ),
        pytest.param(answers(CHAT, text("{")), ERROR, "not JSON", id="cut JSON"),
        pytest.param(
            answers(CHAT, http.error(400, "Failed to load image or audio file")),
            FAIL,
            "HTTP 400",
            id="refused",
        ),
    ],
)
def audio_does_not_pass(script: Script, outcome: Outcome, because: str) -> None:
    check("audio", script, outcome, because)
