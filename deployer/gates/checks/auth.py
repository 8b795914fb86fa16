"""Gate auth: no key and a wrong key are refused with 401, the right one is let in."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from deployer.gates.harness.answers import (
    Answer,
    Judgement,
    Shape,
    failed,
    passed,
    read,
    refused,
    unmeasured,
)
from deployer.gates.harness.client import Client
from deployer.gates.harness.target import Target
from deployer.stack.fields.gate_options import Auth
from deployer.stack.fields.values import JsonValue

_CHAT: Mapping[str, JsonValue] = {
    "messages": [{"role": "user", "content": "hi"}],
    "max_tokens": 1,
}
_TEXT: Mapping[str, JsonValue] = {"content": "hi"}


@dataclass(frozen=True, slots=True)
class Attempt:
    """One request with a certain key, and what came back."""

    what: str
    wanted: int
    """The status it should end in."""
    answer: Answer


@dataclass(frozen=True, slots=True)
class Measurement:
    """The attempts; none when there is no key to try."""

    attempts: tuple[Attempt, ...]


class Tokens(Shape):
    """The answer of /tokenize: proof that a request was let in."""

    tokens: tuple[int, ...]


async def measure(client: Client, _parameters: Auth, target: Target) -> Measurement:
    """Refused requests cost nothing; the ones let in only split a word into tokens."""
    key = target.api_key
    if key is None:
        return Measurement(())
    attempts = []
    for what, headers in _refusals(key):
        answer = await client.post("/v1/chat/completions", _CHAT, headers=headers)
        attempts.append(Attempt(f"{what} on /v1/chat/completions", 401, answer))
    answer = await client.get("/props", headers={})
    attempts.append(Attempt("no key on /props", 401, answer))
    for what, headers in (
        ("the key as Bearer", {"Authorization": f"Bearer {key}"}),
        ("the key as X-Api-Key", {"X-Api-Key": key}),
    ):
        answer = await client.post("/tokenize", _TEXT, headers=headers)
        attempts.append(Attempt(f"{what} on /tokenize", 200, answer))
    return Measurement(tuple(attempts))


def judge(measurement: Measurement, _parameters: Auth, target: Target) -> Judgement:
    """Every attempt has to end as it should."""
    if target.api_key is None:
        return _no_key(target)
    for attempt in measurement.attempts:
        if attempt.wanted == 200:
            tokens = read(attempt.answer, Tokens)
            if isinstance(tokens, Judgement):
                return failed(f"{attempt.what}: {tokens.because}")
        elif attempt.answer.status == 200:
            return failed(f"{attempt.what} was let in")
        elif attempt.answer.status != 401:
            because = refused(attempt.answer).because
            return failed(f"{attempt.what} was not refused with 401: {because}")
    if not measurement.attempts:
        return unmeasured("no attempt was made")
    return passed("no key and wrong keys are refused with 401, the right one is let in")


def _refusals(key: str) -> Iterator[tuple[str, Mapping[str, str]]]:
    """Keys that must not open: none, others, and one that is nearly right."""
    yield "no key", {}
    yield "a wrong key", {"Authorization": "Bearer wrong"}
    yield "a wrong X-Api-Key", {"X-Api-Key": "wrong"}
    yield "the key with a letter more", {"Authorization": f"Bearer {key}x"}


def _no_key(target: Target) -> Judgement:
    name = target.api_key_name or target.text("auth.api_key.env")
    if name:
        return unmeasured(
            f"`{name}` is not set; put `{name}=…` into `.env` or the environment"
        )
    return failed("the stack has no `auth.api_key`: anybody may use the server")
