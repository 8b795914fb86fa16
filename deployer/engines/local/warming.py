"""Requests to a server that is to be frozen, or was just brought back."""

import base64
import http.client
import json
import mimetypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from deployer.core.units import seconds, show_seconds
from deployer.core.values import JsonValue
from deployer.core.warmup import LIMIT, TOKENS_A_WORD, body_of, name_of
from deployer.errors import EngineError
from deployer.regular import read_regular

IDLE: Final = "--sleep-idle-seconds"
"""Option with which llama-server frees its memory when nobody asks."""
PROBE: Final = "The capital of France is"
_PROBE_TOKENS: Final = 4
_PROPS_SECONDS: Final = 5.0
_EXCERPT: Final = 200


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
        self, path: str, body: Mapping[str, JsonValue], limit: float
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
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        except (http.client.HTTPException, ValueError) as error:
            raise ConnectionError(f"no whole answer: {error}") from error
        finally:
            connection.close()


def asleep(door: Door) -> bool:
    """Whether a server says that it sleeps; asking does not wake it."""
    try:
        _, content = door.get("/props", _PROPS_SECONDS)
    except OSError:
        return False
    return isinstance(content, dict) and content.get("is_sleeping") is True


def warm_up(door: Door, requests: Sequence[JsonValue], folder: Path) -> None:
    """Make every request; raises EngineError at the first that is not answered."""
    for number, request in enumerate(requests, start=1):
        if not isinstance(request, dict):
            continue
        problem = _problem(door, request, folder)
        if problem:
            raise EngineError(
                f"warm-up request {number} of {len(requests)} ({name_of(request)})"
                f" failed: {problem}",
                hint="nothing was captured and what is live was left alone; mend"
                f" `snapshot.warmup`, request {number}",
            )


def probe(door: Door, limit: float) -> str:
    """A greedy answer that is the same every time; raises EngineError without one."""
    body: dict[str, JsonValue] = {
        "prompt": PROBE,
        "n_predict": _PROBE_TOKENS,
        "temperature": 0,
        "seed": 1,
    }
    try:
        status, content = door.post("/completion", body, limit)
    except OSError as error:
        raise EngineError(f"it does not answer: {_why(error, limit)}") from error
    match content:
        case {"content": str(text)} if status == http.HTTPStatus.OK:
            return text
        case _:
            raise EngineError(f"it answers a completion with HTTP {status}")


def _problem(door: Door, request: Mapping[str, JsonValue], folder: Path) -> str:
    """What went wrong with a request; empty where it was answered."""
    stated = request.get("timeout")
    limit = LIMIT if stated is None else seconds(stated)
    image = request.get("image")
    try:
        picture = None if image is None else _data_url(folder / str(image))
    except OSError as error:
        return f"cannot read `{folder / str(image)}`: {error.strerror}"
    try:
        body = body_of(request, picture, _tokens_a_word(door, request, limit))
        status, content = door.post("/v1/chat/completions", body, limit)
    except OSError as error:
        return _why(error, limit)
    match content:
        case {"choices": [_, *_]} if status == http.HTTPStatus.OK:
            return ""
        case {"error": {"message": str(message)}}:
            return f"HTTP {status}: {message[:_EXCERPT]}"
        case _:
            return f"HTTP {status}"


def _tokens_a_word(door: Door, request: Mapping[str, JsonValue], limit: float) -> float:
    """How many tokens the model makes of a word of the prompt."""
    prompt = str(request["prompt"])
    if not request.get("tokens"):
        return TOKENS_A_WORD
    # Another time, as inside of a long text: a beginning is split otherwise.
    twice = {"content": f"{prompt} {prompt}"}
    match door.post("/tokenize", twice, limit):
        case _, {"tokens": [*tokens]} if tokens:
            return max(1.0, len(tokens) / (2 * len(prompt.split())))
        case _:
            return TOKENS_A_WORD


def _why(error: OSError, limit: float) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer within {show_seconds(limit)}"
    return str(error) or type(error).__name__


def _data_url(picture: Path) -> str:
    kind = mimetypes.guess_type(picture.name)[0] or "image/png"
    return f"data:{kind};base64,{base64.b64encode(read_regular(picture)).decode()}"
