"""Warm-up requests: from what a stack says to what is sent to llama-server."""

import base64
import errno
import mimetypes
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

Post = Callable[[str, Mapping[str, Any], float], tuple[int, Any]]
"""Sends a body to a path within so many seconds; returns status and parsed answer.

Raises OSError where no whole answer comes in time.
"""

TOKENS_A_WORD = 1.4
"""Tokens of an English word, where the model was not asked."""

_LONGEST_NAME = 40
_EXCERPT = 200
_TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}


@dataclass(frozen=True)
class Request:
    """One request before the memory is captured; a stack's defaults are these."""

    prompt: str
    image: str | None = None
    """File of an image, relative to the folder of the stack."""
    tool: bool = False
    """Offer a tool, so that what calls need is ready too."""
    tokens: int | None = None
    """Repeat the prompt up to about as many tokens; None: once."""
    max_tokens: int = 8
    seconds: float = 300.0
    """Longest time that it may take."""

    def __str__(self) -> str:
        marks = [f"image {self.image}"] if self.image else []
        marks += ["tool"] if self.tool else []
        marks += [f"{self.tokens} tokens"] if self.tokens else []
        shown = (c if c.isprintable() else ascii(c)[1:-1] for c in self.prompt)
        prompt = "".join(shown)
        if len(prompt) > _LONGEST_NAME:
            prompt = f"{prompt[: _LONGEST_NAME - 1]}…"
        return ", ".join([*marks, f"`{prompt}`"])


class WarmupError(Exception):
    """A warm-up request that was not answered as it should be."""


def warm_up(post: Post, requests: Sequence[Request], folder: Path) -> None:
    """Make every request in turn; raises WarmupError at the first that fails."""
    for number, request in enumerate(requests, start=1):
        if problem := _problem(post, request, folder):
            raise WarmupError(
                f"warm-up request {number} of {len(requests)} ({request}) failed:"
                f" {problem}"
            )


def body_of(
    request: Request, picture: str | None, tokens_a_word: float = TOKENS_A_WORD
) -> dict[str, Any]:
    """Return the body for /v1/chat/completions; ``picture`` is a data URL."""
    text = _filled(request.prompt, request.tokens, tokens_a_word)
    content: Any = text
    if picture is not None:
        shown = {"type": "image_url", "image_url": {"url": picture}}
        content = [{"type": "text", "text": text}, shown]
    body = {
        "messages": [{"role": "user", "content": content}],
        "max_tokens": request.max_tokens,
        "temperature": 0,
    }
    return {**body, "tools": [_TOOL]} if request.tool else body


def _filled(prompt: str, tokens: int | None, tokens_a_word: float) -> str:
    """Repeat the prompt up to about so many tokens."""
    words = prompt.split()
    if tokens is None or not words:
        return prompt
    wanted = int(tokens / tokens_a_word)
    times = -(-wanted // len(words))
    return " ".join((words * times)[:wanted]) if times > 1 else prompt


def _problem(post: Post, request: Request, folder: Path) -> str:
    """Make one request; return what went wrong, empty where it was answered."""
    try:
        picture = None if request.image is None else _data_url(folder / request.image)
    except OSError as error:
        return f"cannot read `{folder / str(request.image)}`: {error.strerror}"
    try:
        body = body_of(request, picture, _tokens_a_word(post, request))
        status, content = post("/v1/chat/completions", body, request.seconds)
    except TimeoutError:
        return f"no answer within {request.seconds:g} s"
    except OSError as error:
        return str(error) or type(error).__name__
    match content:
        case {"choices": [_, *_]} if status == HTTPStatus.OK:
            return ""
        case {"error": {"message": str(message)}}:
            return f"HTTP {status}: {message[:_EXCERPT]}"
        case _:
            return f"HTTP {status}"


def _tokens_a_word(post: Post, request: Request) -> float:
    """Ask how many tokens the model makes of a word of the prompt."""
    if not request.tokens:
        return TOKENS_A_WORD
    # Another time, as inside of a long text: a beginning is split otherwise.
    twice = {"content": f"{request.prompt} {request.prompt}"}
    match post("/tokenize", twice, request.seconds):
        case _, {"tokens": [*tokens]} if tokens:
            return max(1.0, len(tokens) / (2 * len(request.prompt.split())))
        case _:
            return TOKENS_A_WORD


def _data_url(picture: Path) -> str:
    if picture.exists() and not picture.is_file():  # a FIFO is not waited for
        raise OSError(errno.EINVAL, "not a regular file", str(picture))
    kind = mimetypes.guess_type(picture.name)[0] or "image/png"
    return f"data:{kind};base64,{base64.b64encode(picture.read_bytes()).decode()}"
