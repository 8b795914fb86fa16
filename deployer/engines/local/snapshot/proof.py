"""Questions that prove a restored server: asked before it is frozen, and again after.

An answer is its text and how sure the model was of each token: memory that changed
moves the second long before it moves the first.  Only the first question may be
answered from the cache; the others are read whole, as the chat that clients use and
as plain text.
"""

import http
import http.client
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

from deployer.errors import EngineError
from deployer.planning.argv import request_of
from deployer.runtime import warmup as runtime
from deployer.stack.fields.values import JsonValue, show_seconds

IDLE: Final = "--sleep-idle-seconds"
"""Option with which llama-server frees its memory when nobody asks."""
_PROPS_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class Door:
    """Where a server is asked, and with which key."""

    host: str
    port: int
    api_key: str | None = field(default=None, repr=False)
    source_address: str = ""

    def get(self, path: str, limit: float) -> tuple[int, JsonValue]:
        """Status and content of a page; raises OSError where none comes in time."""
        return self._ask("GET", path, None, limit)

    def post(
        self, path: str, body: Mapping[str, JsonValue] | list[JsonValue], limit: float
    ) -> tuple[int, JsonValue]:
        """Status and content of an answer; raises OSError where none comes in time."""
        return self._ask("POST", path, json.dumps(body), limit)

    def _ask(
        self, method: str, path: str, body: str | None, limit: float
    ) -> tuple[int, JsonValue]:
        connection = http.client.HTTPConnection(
            self.host,
            self.port,
            timeout=limit,
            source_address=(self.source_address, 0) if self.source_address else None,
        )
        headers = {"Content-Type": "application/json"}
        if self.api_key is not None:
            headers["Authorization"] = f"Bearer {self.api_key}"
        begun = time.monotonic()
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            found = answer.status, json.loads(answer.read())
        except (http.client.HTTPException, ValueError) as error:
            raise ConnectionError(f"no whole answer: {error}") from error
        finally:
            connection.close()
        if time.monotonic() - begun > limit:  # the socket counts each read by itself
            raise TimeoutError
        return found


def asleep(door: Door) -> bool:
    """Return whether a server says that it sleeps; asking does not wake it."""
    try:
        _, content = door.get("/props", _PROPS_SECONDS)
    except OSError:
        return False
    return isinstance(content, dict) and content.get("is_sleeping") is True


def warm_up(door: Door, requests: Sequence[JsonValue], folder: Path) -> None:
    """Make every request; raises EngineError at the first that is not answered."""
    stated = [request_of(it) for it in requests if isinstance(it, dict)]
    try:
        runtime.warm_up(door.post, stated, folder)
    except runtime.WarmupError as error:
        raise EngineError(
            str(error),
            hint="nothing was captured and what is live was not changed; mend"
            " that request in `snapshot.warmup`",
        ) from None


def why_no_answer(error: OSError, limit: float) -> str:
    """Say in words why a request came to nothing."""
    if isinstance(error, TimeoutError):
        return f"no answer within {show_seconds(limit)}"
    return str(error) or type(error).__name__


_CACHED: Final = "The capital of France is"
_WHOLE: Final = (
    "def area(width, height):\n    return width * height\n\n# 3 by 14, in 2026:\n",
    "Der Morgen war kühl; on the quay, «les marins» counted 1,024 boxes: red, blue",
)
_CHATS: Final = (
    "Say in one short sentence what the capital of France is.",
    "What is 17 times 3, and why?",
)
_TOKENS: Final = 8
_SECONDS: Final = 120.0
_ENOUGH_SECONDS: Final = 5.0
"""Limit of the questions together; two are asked in any case."""
_LEAST: Final = 2
_NOISE: Final = 0.001
"""Tolerance of the logarithm of a probability.  While nobody else asked it did not
differ at all; beside other requests it did by 0.14, and whole texts did, since what is
computed together decides how numbers are rounded."""
_TRIES: Final = 3


class OtherAnswerError(EngineError):
    """A restored server answers otherwise than before it was frozen."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds that an answer may take, and how often what it took before."""

    patience: float
    slower: float


@dataclass(frozen=True, slots=True)
class Asked:
    """A question, and what it was answered."""

    path: str
    body: Mapping[str, JsonValue]
    text: str
    logprobs: Sequence[float]
    seconds: float


def answers_of(door: Door) -> list[JsonValue]:
    """Ask a server that is about to be frozen; raises EngineError without an answer.

    A question that this server does not take is left out, but for the first.
    """
    first, *others = _questions()
    _ask(door, *first, _SECONDS)  # from here on the cache holds it, as after a restore
    found = [_ask(door, *first, _SECONDS)]
    for path, body in others:
        enough = sum(it.seconds for it in found) > _ENOUGH_SECONDS
        if enough and len(found) >= _LEAST:
            break
        try:
            found.append(_ask(door, path, body, _SECONDS))
        except EngineError:
            continue
    return [asdict(it) for it in found]


def prove(
    door: Door, recorded: JsonValue, limits: Limits, disturbed: Callable[[], bool]
) -> None:
    """Ask again; raises OtherAnswerError where an answer is another one.

    Raises EngineError where there is none, or where others who ask at the same moment
    (``disturbed``) may be why it is another one.
    """
    for known in _read(recorded):
        limit = limits.patience + limits.slower * known.seconds
        others = False
        for _ in range(_TRIES):
            if _same(known, _ask(door, known.path, known.body, limit)):
                break
            others |= disturbed()
        else:
            if others:
                raise EngineError(
                    "clients asked it already, so its answers could not be compared"
                )
            raise OtherAnswerError("it gives another answer than before it was frozen")


def is_complete(recorded: JsonValue) -> bool:
    """Return whether there is anything to prove a server by."""
    return any(_read(recorded))


def _questions() -> Iterator[tuple[str, dict[str, JsonValue]]]:
    greedy: dict[str, JsonValue] = {"temperature": 0, "seed": 1}
    plain = {**greedy, "n_predict": _TOKENS, "n_probs": 1}
    chat = {**greedy, "max_tokens": _TOKENS, "logprobs": True, "cache_prompt": False}
    yield "/completion", {**plain, "prompt": _CACHED}
    for prompt, said in zip(_WHOLE, _CHATS, strict=True):
        messages: JsonValue = [{"role": "user", "content": said}]
        yield "/v1/chat/completions", {**chat, "messages": messages}
        yield "/completion", {**plain, "prompt": prompt, "cache_prompt": False}


def _ask(door: Door, path: str, body: Mapping[str, JsonValue], limit: float) -> Asked:
    begun = time.monotonic()
    try:
        status, content = door.post(path, body, limit)
    except OSError as error:
        why = why_no_answer(error, limit)
        raise EngineError(f"it does not answer: {why}") from error
    took = round(time.monotonic() - begun, 3)
    if status != http.HTTPStatus.OK:
        raise EngineError(f"it answers {path} with HTTP {status}")
    match content:
        case {"content": str(text)}:
            return Asked(path, body, text, list(_logprobs(content)), took)
        case {"choices": [{"message": {"content": said, **message}} as choice]}:
            text = f"{message.get('reasoning_content') or ''}\n{said or ''}"
            return Asked(path, body, text, list(_logprobs(choice)), took)
        case _:
            raise EngineError(f"its answer to {path} contains no text")


def _logprobs(answer: object) -> Iterator[float]:
    """How sure the model was of each token, as both kinds of answers say it."""
    match answer:
        case {"completion_probabilities": [*tokens]}:
            pass
        case {"logprobs": {"content": [*tokens]}}:
            pass
        case _:
            return
    for token in tokens:
        match token:
            case {"logprob": float(value) | int(value)}:
                yield float(value)
            case _:
                yield 0.0


def _same(then: Asked, now: Asked) -> bool:
    return (
        then.text == now.text
        and len(then.logprobs) == len(now.logprobs)
        and all(
            abs(a - b) <= _NOISE
            for a, b in zip(then.logprobs, now.logprobs, strict=True)
        )
    )


def _read(recorded: JsonValue) -> Iterator[Asked]:
    """The questions of a manifest; one that is not ours holds none."""
    for known in recorded if isinstance(recorded, list) else ():
        match known:
            case {
                "path": str(path),
                "body": dict(body),
                "text": str(text),
                "logprobs": [*logprobs],
                "seconds": float(seconds) | int(seconds),
            }:
                numbers = [float(it) for it in logprobs if isinstance(it, float | int)]
                yield Asked(path, body, text, numbers, seconds)
            case _:
                continue
