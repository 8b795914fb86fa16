"""No broken answer of a plain request passes; each ends in the sentence it deserves."""

import json

import pytest

from deployer.planning.events import Outcome
from deployer.stack.fields.values import JsonValue
from tests.gates import fake_http as http
from tests.gates import fake_server as fake
from tests.gates.breaking import (
    CHAT,
    ERROR,
    FAIL,
    UNCLEAR,
    answers,
    choice,
    completion,
    listed,
    message,
    props,
    text,
    without,
)
from tests.gates.checking import STATED, check
from tests.gates.fake_http import KEY, Part, Reply, Request, Script
from tests.gates.fake_model import Said
from tests.gates.registry import broken


@broken(
    "health",
    ("reply", "outcome", "because"),
    [
        pytest.param(http.html(), FAIL, "not a llama-server", id="web page"),
        pytest.param(text("OK", "text/plain"), FAIL, "`OK`", id="plain text"),
        pytest.param(text(""), FAIL, "answered `nothing`", id="empty"),
        pytest.param(text('{"status": "o'), FAIL, "not a llama-server", id="cut JSON"),
        pytest.param(text('{"ok": true}'), FAIL, "not a llama", id="other JSON"),
        pytest.param(text('["ok"]'), FAIL, "not a llama-server", id="a list"),
        pytest.param(text('{"status":"no"}'), FAIL, "instead of `ok`", id="not ok"),
        pytest.param(text("[" * 100_000), FAIL, "not a llama-server", id="deep JSON"),
        pytest.param(http.error(500, "oops"), FAIL, "HTTP 500: oops", id="500"),
        pytest.param(http.html(502), ERROR, "HTTP 502 without", id="a proxy's page"),
        pytest.param(http.error(404, "File Not Found"), FAIL, "HTTP 404", id="404"),
        pytest.param(Reply((b"", Part.RESET)), ERROR, "was reset", id="reset"),
        pytest.param(Reply((b"{", Part.CLOSE)), ERROR, "broke off", id="cut body"),
        pytest.param(
            Reply((b"",), 302, headers={"Location": "/login"}),
            ERROR,
            "redirect elsewhere",
            id="redirect to a login",
        ),
        pytest.param(
            Reply((b"",), 303, headers={"Location": "http://127.0.0.2:9/x"}),
            ERROR,
            "303 to another server",
            id="303 to a stranger",
        ),
        pytest.param(
            Reply((b"",), 303, headers={"Location": "/health"}),
            ERROR,
            "303 40 times",
            id="303 for ever",
        ),
    ],
)
def health_does_not_pass(reply: Reply, outcome: Outcome, because: str) -> None:
    check("health", answers("GET /health", reply), outcome, because)


@broken("health")
def a_server_that_loads_for_ever_is_an_error_in_time() -> None:
    loading = answers("GET /health", http.error(503, "Loading model"))
    verdict = check("health", loading, ERROR, "still loading (HTTP 503)", timeout=0.6)
    assert verdict.evidence[-1].note == "HTTP 503 2 times; ran out of time"


@broken("health")
def a_proxy_that_says_503_is_told_from_a_server_that_loads() -> None:
    away = answers("GET /health", http.html(503))
    because = "still HTTP 503 after 0.6 s, not of a model that loads: `<!DOCTYPE html>"
    check("health", away, ERROR, because, timeout=0.6)


@broken("health")
def a_server_that_says_nothing_is_an_error_in_time() -> None:
    silent = answers("GET /health", Reply((b"", Part.SILENCE)))
    check("health", silent, ERROR, "not done within", timeout=0.3)


@broken(
    "build",
    ("info", "outcome", "because"),
    [
        ("b10435-7e4c0a9", FAIL, "the stack pins `b10434`"),
        ("b1-7e4c0a9", UNCLEAR, "state `llama_cpp.commit`"),
        ("b0-unknown", UNCLEAR, "state `llama_cpp.commit`"),
        ("10434", FAIL, "not `b<number>-<commit>`"),
        ("vLLM 0.9", FAIL, "not `b<number>-<commit>`"),
        (10434, FAIL, "`build_info`: input should be a valid string"),
        (None, FAIL, "`build_info`: input should be a valid string"),
    ],
)
def build_does_not_pass(info: JsonValue, outcome: Outcome, because: str) -> None:
    check("build", props(build_info=info), outcome, because)


@broken("build")
def build_without_the_field_fails() -> None:
    bare = http.as_json(without(fake.props_value(), "build_info"))
    check("build", answers("GET /props", bare), FAIL, "field required")


@broken("build")
def another_commit_behind_the_right_number_fails() -> None:
    stated = {**STATED, "llama_cpp.commit": "deadbeef"}
    check("build", Script(), FAIL, "`llama_cpp.commit` says `deadbeef`", stated=stated)


@broken(
    "props",
    ("changed", "because"),
    [
        ({"total_slots": 4}, "the slots is 4, `server.parallel: 2` means 2"),
        ({"model_alias": "other"}, "the alias is `other`, `model.alias: tiny`"),
        ({"model_alias": None}, "the alias is not reported"),
        ({"default_generation_settings": {"n_ctx": 4096}}, "is 4096, `server.ctx_size"),
        ({"default_generation_settings": {}}, "`default_generation_settings.n_ctx`"),
        ({"modalities": {"vision": True}}, "vision is on, `no model.mmproj`"),
        ({"modalities": None}, "vision is not reported"),
        ({"endpoint_metrics": False}, "/metrics is off, `server.metrics: true`"),
        ({"total_slots": "2"}, "`total_slots`: input should be a valid integer"),
        ({"total_slots": float("nan")}, "`total_slots`"),
    ],
)
def props_do_not_pass(changed: dict[str, object], because: str) -> None:
    check("props", props(**changed), FAIL, because)


@broken(
    "models",
    ("reply", "outcome", "because"),
    [
        pytest.param(listed(), FAIL, "no model", id="none"),
        pytest.param(
            http.as_json({"data": [{"id": "gpt-4"}]}),
            FAIL,
            "but not `model.alias",
            id="other",
        ),
        pytest.param(
            http.as_json({"data": [{"id": ""}]}), FAIL, "data.0.id", id="no name"
        ),
        pytest.param(http.as_json({"models": []}), FAIL, "`data`: field", id="no data"),
        pytest.param(http.html(), ERROR, "a web page", id="web page"),
        pytest.param(text(b'{"data": "\xff"}'), ERROR, "not JSON", id="not UTF-8"),
    ],
)
def models_do_not_pass(reply: Reply, outcome: Outcome, because: str) -> None:
    check("models", answers("GET /v1/models", reply), outcome, because)


@broken("auth")
def a_server_that_checks_no_key_fails_auth() -> None:
    check("auth", Script(key=None), FAIL, "no key on /v1/chat/completions was let in")


@broken("auth")
def a_server_with_another_key_fails_auth() -> None:
    other = Script(key="sk-something-else")
    check("auth", other, FAIL, "the key as Bearer on /tokenize: the key was refused")


@broken("auth")
def a_server_that_checks_only_the_beginning_of_the_key_fails_auth() -> None:
    def lax(request: Request) -> Reply:
        given = request.headers.get("Authorization", "")
        if given.startswith(f"Bearer {KEY}"):
            return fake.chat(request)
        return http.error(401, "Invalid API Key")

    check("auth", answers(CHAT, lax), FAIL, "the key with a letter more")


@broken("auth")
def a_server_that_leaves_props_open_fails_auth() -> None:
    check(
        "auth", answers("GET /props", fake.props), FAIL, "no key on /props was let in"
    )


@broken("auth")
def a_refusal_other_than_401_fails_auth() -> None:
    refusing = answers(CHAT, http.error(500, "no"))
    check("auth", refusing, FAIL, "not refused with 401: answered HTTP 500")


@broken("auth")
def a_key_that_is_let_in_to_nothing_fails_auth() -> None:
    check(
        "auth", answers("POST /tokenize", text("{}")), FAIL, "`tokens`: field required"
    )


@broken("auth")
def a_stack_without_a_key_fails_auth() -> None:
    because = "the stack has no `auth.api_key`: anybody may use the server"
    check("auth", Script(), FAIL, because, key=None, key_name="")


@broken("auth")
def a_server_that_takes_the_first_key_alone_fails_auth() -> None:
    because = "the key of `SECOND` as Bearer on /tokenize: the key was refused"
    check("auth", Script(), FAIL, because, other_keys={"SECOND": "sk-2"})


@broken("auth")
def a_key_that_is_not_set_is_named() -> None:
    check("auth", Script(), ERROR, "put `API_KEY=…` into `.env`", key=None)


@broken(
    "chat",
    ("script", "outcome", "because"),
    [
        pytest.param(message(content=""), FAIL, "is empty", id="empty"),
        pytest.param(message(content=" \n"), FAIL, "is empty", id="blank"),
        pytest.param(message(content=None), FAIL, "is empty", id="null"),
        pytest.param(
            message(content="", reasoning_content="hm"),
            FAIL,
            "only thinking came within 64 tokens",
            id="only thinking",
        ),
        pytest.param(message(content=42), FAIL, "valid string", id="a number"),
        pytest.param(message(role="user"), FAIL, "role is `user`", id="wrong role"),
        pytest.param(choice(finish_reason=None), FAIL, "finish_reason", id="no finish"),
        pytest.param(choice(finish_reason="x"), FAIL, "`x`, neither", id="odd finish"),
        pytest.param(completion(choices=[]), FAIL, "`choices`", id="no choices"),
        pytest.param(completion(usage=None), FAIL, "`usage`", id="no usage"),
        pytest.param(completion(usage=fake.usage(0)), FAIL, "counts 0", id="0 tokens"),
        pytest.param(completion(usage=fake.usage(65)), FAIL, "at most 64", id="lots"),
        pytest.param(
            completion(usage={**fake.usage(5), "total_tokens": 5}),
            FAIL,
            "not the sum",
            id="wrong sum",
        ),
        pytest.param(
            answers(CHAT, http.as_json({"error": {"message": "no slot"}})),
            FAIL,
            "HTTP 200 with an error inside: no slot",
            id="200 with an error",
        ),
        pytest.param(
            answers(CHAT, http.error(500, "failed to parse")),
            FAIL,
            "HTTP 500: failed to parse",
            id="500",
        ),
        pytest.param(answers(CHAT, http.html(504)), ERROR, "HTTP 504", id="gateway"),
        pytest.param(answers(CHAT, text("{")), ERROR, "not JSON", id="cut JSON"),
        pytest.param(
            answers(CHAT, Reply((b'{"choices"', Part.RESET))),
            ERROR,
            "was reset",
            id="reset in the answer",
        ),
        pytest.param(
            answers(CHAT, Reply((b"x" * 2**20,) * 17)),
            ERROR,
            "longer than 16 MiB",
            id="endless",
        ),
    ],
)
def chat_does_not_pass(script: Script, outcome: Outcome, because: str) -> None:
    check("chat", script, outcome, because)


ECHO = "Say in one short sentence what the capital of France is."
LEAKED = "…the capital of the United States is.<|im_end|>\n<|im_start|>admin"


@broken(
    "chat",
    ("said", "outcome", "because"),
    [
        pytest.param(Said(ECHO), FAIL, "repeats the question", id="echo"),
        pytest.param(
            Said(f"say in one short sentence,\n*what* the {ECHO[37:]} {ECHO}"),
            FAIL,
            "repeats the question",
            id="echo in other marks",
        ),
        pytest.param(Said(LEAKED), FAIL, "`<|im_start|>` of the chat", id="ChatML"),
        pytest.param(Said("Paris<end_of_turn>"), FAIL, "`<end_of_turn>`", id="Gemma 3"),
        pytest.param(Said("Paris<turn|>"), FAIL, "`<turn|>` of the", id="Gemma 4"),
        pytest.param(Said("Paris.</s>"), FAIL, "`</s>` of the chat", id="Llama 2"),
        pytest.param(
            Said("It is…", finish="length"), UNCLEAR, "end within 64", id="cut"
        ),
        pytest.param(Said("Paris.\n" * 9), UNCLEAR, "repeats `Paris.`", id="loop"),
        pytest.param(
            Said("Well. I know. I know. I know. I kn"),
            UNCLEAR,
            "repeats `I know.` without an end",
            id="a loop that is cut",
        ),
    ],
)
def what_is_no_answer_does_not_pass_chat(
    said: Said, outcome: Outcome, because: str
) -> None:
    check("chat", Script(says=lambda _body: said), outcome, because)


@broken("chat")
def a_refused_key_is_an_error_of_chat() -> None:
    check("chat", Script(key="another"), ERROR, "the key was refused: HTTP 401")


@broken("chat")
def an_answer_without_the_wanted_text_fails_chat() -> None:
    silly = Script(says=lambda _body: Said("London."))
    check("chat", silly, FAIL, "does not contain `Paris`", contains="Paris")


@broken("chat")
def nan_in_json_is_not_a_number() -> None:
    broken = json.dumps({**fake.completion(Said()), "usage": float("nan")})
    check("chat", answers(CHAT, text(broken)), FAIL, "`usage`")
