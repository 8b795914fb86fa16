"""The client of the gates: keys, redirects, waiting, and the evidence it leaves."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import httpx2
import pytest

from deployer.errors import UsageError
from deployer.gates.harness.client import Client, Target, Unanswered, connected, why
from tests.gates import fake_http as http
from tests.gates import fake_server as fake
from tests.gates.breaking import answers
from tests.gates.fake_http import KEY, Reply, Request, Script
from tests.gates.fake_server import fake_server

T = TypeVar("T")


def ask(script: Script, act: Callable[[Client], Awaitable[T]]) -> tuple[T, Client]:
    async def run(target: Target) -> tuple[T, Client]:
        async with connected(target) as http:
            client = Client(http, target)
            return await act(client), client

    with fake_server(script) as server:
        return asyncio.run(run(Target(server.url, api_key=KEY)))


def echo(request: Request) -> Reply:
    """An answer that gives the key away."""
    return http.as_json({"key": request.headers.get("Authorization"), "x": KEY})


def test_the_key_is_sent_and_never_kept() -> None:
    answer, client = ask(answers("GET /echo", echo), lambda c: c.get("/echo"))
    (exchange,) = client.evidence
    assert KEY.encode() in answer.body
    assert KEY not in repr(exchange)
    assert "Bearer ***" in exchange.response


def test_other_headers_replace_the_key() -> None:
    answer, _ = ask(answers("GET /echo", echo), lambda c: c.get("/echo", headers={}))
    assert b'"key": null' in answer.body


def test_the_target_does_not_show_its_key() -> None:
    assert KEY not in repr(Target("http://127.0.0.1:1", api_key=KEY))


def test_a_303_is_followed_with_get() -> None:
    seen: list[str] = []

    def waiting(_request: Request) -> Reply:
        seen.append("POST")
        return Reply((b"",), 303, headers={"Location": "/health?call=1"})

    def ready(_request: Request) -> Reply:
        seen.append("GET")
        if len(seen) < 4:
            return Reply((b"",), 303, headers={"Location": "/health?call=1"})
        return http.as_json({"done": True})

    script = Script(routes={"POST /slow": waiting, "GET /health?call=1": ready})
    answer, client = ask(script, lambda c: c.post("/slow", {"a": 1}))
    assert (answer.status, answer.body) == (200, b'{"done": true}')
    assert seen == ["POST", "GET", "GET", "GET"]
    assert len(client.evidence) == 1


def test_loading_is_waited_for_and_noted() -> None:
    seen: list[None] = []

    def loading(request: Request) -> Reply:
        seen.append(None)
        busy = len(seen) < 3
        return http.error(503, "Loading model") if busy else fake.health(request)

    answer, client = ask(answers("GET /health", loading), lambda c: c.get("/health"))
    assert answer.status == 200
    assert client.evidence[0].note == "HTTP 503 2 times"


def test_long_evidence_is_cut() -> None:
    script = answers("GET /long", Reply((b"x" * 5000,)))
    answer, client = ask(script, lambda c: c.get("/long"))
    assert len(answer.body) == 5000
    assert len(client.evidence[0].response) == 400


def test_a_peek_leaves_no_evidence() -> None:
    _, client = ask(Script(), lambda c: c.peek("/health"))
    assert client.evidence == []


def test_requests_come_from_the_stated_address() -> None:
    addresses: list[str] = []

    async def run(target: Target) -> None:
        async with connected(target) as http:
            await Client(http, target).get("/health")

    with fake_server(Script(peer=addresses.append)) as server:
        asyncio.run(run(Target(server.url, source_address="127.0.0.9")))
    assert addresses == ["127.0.0.9"]


def test_an_address_of_another_machine_cannot_be_used() -> None:
    async def run() -> None:
        target = Target("http://127.0.0.1:9", source_address="192.0.2.1")
        async with connected(target) as http:
            await Client(http, target).get("/health")

    with pytest.raises(Unanswered, match="nothing answers at"):
        asyncio.run(run())


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (httpx2.ConnectTimeout(""), "no connection to `http://x` within 10 s"),
        (httpx2.ConnectError("refused"), "nothing answers at `http://x`: refused"),
        (httpx2.ReadTimeout(""), "not a byte came for 600 s"),
        (httpx2.WriteTimeout(""), "the request could not be sent in time"),
        (httpx2.RemoteProtocolError("eof"), "the connection broke off: eof"),
        (httpx2.ReadError(""), "the connection was reset"),
        (httpx2.DecodingError("gzip"), "the body cannot be decoded: gzip"),
        (httpx2.TooManyRedirects(""), "the request failed (TooManyRedirects)"),
        (httpx2.InvalidURL("idna"), "the request failed: idna"),
    ],
)
def test_errors_of_the_transport_are_sentences(error: Exception, sentence: str) -> None:
    assert why(error, "http://x") == sentence


def test_a_url_that_only_the_client_finds_wrong_is_unanswered() -> None:
    async def run() -> None:
        target = Target("http://xn--a.example:80")
        async with connected(target) as http:
            await Client(http, target).get("/health")

    with pytest.raises(Unanswered):
        asyncio.run(run())


@pytest.mark.parametrize(
    ("url", "base"),
    [
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("http://127.0.0.1:8080/", "http://127.0.0.1:8080"),
        ("https://x.modal.run/v1", "https://x.modal.run"),
        ("https://x.modal.run/v1/", "https://x.modal.run"),
        ("https://x.example/llm", "https://x.example/llm"),
    ],
)
def test_the_base_of_a_url(url: str, base: str) -> None:
    assert Target(url).base == base


@pytest.mark.parametrize(
    ("url", "what"),
    [
        ("127.0.0.1:8080", "is not an http or https URL"),
        ("ftp://x", "is not an http or https URL"),
        ("http://", "is not an http or https URL"),
        ("http://x:99999", "is not a URL"),
        ("http://x:port", "is not a URL"),
        ("http://[::1", "is not a URL"),
        ("http://me:secret@x", "contains a user name or a password"),
        ("http://x/?key=1", "has a query"),
        ("http://x/ y", "is not an http or https URL"),
    ],
)
def test_a_url_that_cannot_be_asked_is_refused(url: str, what: str) -> None:
    with pytest.raises(UsageError, match=what) as caught:
        Target(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("key", ["", "a\nb", "schlüssel", " padded", "padded "])
def test_a_key_that_no_header_can_carry_is_refused(key: str) -> None:
    with pytest.raises(UsageError, match="`MY_KEY`"):
        Target("http://127.0.0.1:1", api_key=key, api_key_name="MY_KEY")
