"""Gate errors: wrong requests are refused with the documented status and error.

The contract is what llama-server does, measured on b8672, b10434 and b11434; where a
build between two of these changed it, either answer is accepted of the builds between.
HTTP 503 while loading cannot be asked for, because a server that is judged has loaded:
the engine hands on what it saw while it waited, and the verdict says where nobody saw.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from deployer.gates.checks.context import PATH, REFUSAL, ContextProps
from deployer.gates.harness.answers import (
    Answer,
    ErrorAnswer,
    Judgement,
    excerpt,
    failed,
    passed,
    read,
    read_error,
    unclear,
)
from deployer.gates.harness.client import Client
from deployer.gates.harness.target import Target
from deployer.planning.verdict import Exchange
from deployer.stack.fields.gate_options import Errors

_NEWEST: Final = 10**9


@dataclass(frozen=True, slots=True)
class Refusal:
    """How a wrong request is refused by the builds of a range, both ends included."""

    status: int
    type: str
    since: int = 0
    until: int = _NEWEST


@dataclass(frozen=True, slots=True)
class Row:
    """One wrong request, and how builds refuse it."""

    what: str
    method: str
    path: str
    content: bytes
    refusals: tuple[Refusal, ...]
    keyed: bool = True
    """Whether the request carries the key."""


_BAD_REQUEST: Final = (Refusal(400, "invalid_request_error"),)
CONTRACT: Final = (
    Row(
        "broken JSON",
        "POST",
        PATH,
        b'{"messages": [',
        (
            Refusal(500, "server_error", until=11433),
            Refusal(400, "invalid_request_error", since=10435),
        ),
    ),
    Row("no messages", "POST", PATH, b"{}", _BAD_REQUEST),
    Row("messages that are a number", "POST", PATH, b'{"messages": 42}', _BAD_REQUEST),
    Row(
        "an unknown tool_choice",
        "POST",
        PATH,
        b'{"messages": [{"role": "user", "content": "hi"}], "tools": [], '
        b'"tool_choice": "sometimes", "max_tokens": 1}',
        _BAD_REQUEST,
    ),
    Row(
        "an unknown route",
        "GET",
        "/v1/no-such-route",
        b"",
        (Refusal(404, "not_found_error"),),
    ),
    Row(
        "no key",
        "GET",
        "/props",
        b"",
        (Refusal(401, "authentication_error"),),
        keyed=False,
    ),
)
_TOO_LONG: Final = Row(
    "a prompt over the context", "POST", PATH, b"", (Refusal(400, REFUSAL),)
)


LOADING: Final = Row(
    "loading", "GET", "/health", b"", (Refusal(503, "unavailable_error"),)
)
"""While the model is not loaded, on every route and without a key too."""
_UNSEEN: Final = (
    "how it refuses while it loads was not seen: it had loaded when it was first asked"
)


@dataclass(frozen=True, slots=True)
class Attempt:
    """A wrong request, and what came back."""

    row: Row
    answer: Answer


@dataclass(frozen=True, slots=True)
class Measurement:
    """All attempts, or why the last one could not be made."""

    attempts: tuple[Attempt, ...]
    unknown: Judgement | None = None


async def measure(client: Client, _parameters: Errors, target: Target) -> Measurement:
    """Make every wrong request; none of them reaches the model."""
    attempts = [*_seen_loading(client, target)]
    attempts += [
        Attempt(row, await _asked(client, row))
        for row in CONTRACT
        if row.keyed or target.api_key is not None
    ]
    props = read(await client.get("/props"), ContextProps)
    if isinstance(props, Judgement):
        return Measurement(tuple(attempts), props)
    # A word is a token at least.
    words = "x " * (props.default_generation_settings.n_ctx + 8)
    body = b'{"messages": [{"role": "user", "content": "%s"}]}' % words.encode()
    attempts.append(Attempt(_TOO_LONG, await client.post_bytes(PATH, body)))
    return Measurement(tuple(attempts))


def judge(measurement: Measurement, parameters: Errors, target: Target) -> Judgement:
    """Every refusal has to be one that the build is known to give."""
    problems = list(_problems(measurement, target.build))
    if problems:
        return failed("; ".join(problems))
    if measurement.unknown is not None:
        return measurement.unknown
    refused = ", ".join(one.row.what for one in measurement.attempts)
    if any(one.row is LOADING for one in measurement.attempts):
        return passed(f"refused as documented: {refused}")
    if parameters.loading:
        return unclear(f"{_UNSEEN}; `deployer stop` and `start` let it be seen")
    return passed(f"refused as documented: {refused}; {_UNSEEN}")


def _problems(measurement: Measurement, build: int | None) -> Iterator[str]:
    for attempt in measurement.attempts:
        allowed = [
            refusal
            for refusal in attempt.row.refusals
            if build is None or refusal.since <= build <= refusal.until
        ]
        error = read_error(attempt.answer, ErrorAnswer)
        given = None if error is None else (attempt.answer.status, error.error.type)
        if given not in {(one.status, one.type) for one in allowed}:
            wanted = " or ".join(f"{one.status} `{one.type}`" for one in allowed)
            said = f"{attempt.answer.status} `{excerpt(attempt.answer.body, 60)}`"
            yield f"{attempt.row.what}: {said} instead of {wanted}"


def _seen_loading(client: Client, target: Target) -> Iterator[Attempt]:
    """Yield what the engine heard while it waited for the server."""
    seen = target.process.loading
    if seen is not None:
        note = "seen by the engine while it waited for the server"
        client.keep(Exchange("GET /health", seen.status, seen.body, 0.0, note))
        answer = Answer(seen.status, "application/json", seen.body.encode(), 0.0)
        yield Attempt(LOADING, answer)


async def _asked(client: Client, row: Row) -> Answer:
    if row.method == "POST":
        return await client.post_bytes(row.path, row.content)
    return await client.get(row.path, headers=None if row.keyed else {})
