"""Warm-up requests: from what a stack says to what is sent to llama-server."""

import base64
import json
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

_GREETING = "Hello"
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

    prompt: str = ""
    """Empty: a greeting, behind the text of `file`."""
    image: str | None = None
    """File of an image, relative to the folder of the stack."""
    tool: bool = False
    """Offer a tool, so that what calls need is ready too."""
    tokens: int | None = None
    """Repeat the prompt up to about as many tokens; None: once."""
    max_tokens: int = 8
    seconds: float = 300.0
    """Longest time that it may take."""
    file: str | None = None
    """File of a text that every request of a client begins with."""
    role: str = "system"
    """Role of the message with that text."""
    tools: str | None = None
    """JSON file with the tools to offer."""

    def __str__(self) -> str:
        marks = [f"file {self.file}"] if self.file else []
        marks += [f"tools {self.tools}"] if self.tools else []
        marks += [f"image {self.image}"] if self.image else []
        marks += ["tool"] if self.tool else []
        marks += [f"{self.tokens} tokens"] if self.tokens else []
        shown = (c if c.isprintable() else ascii(c)[1:-1] for c in self.prompt)
        prompt = "".join(shown)
        if len(prompt) > _LONGEST_NAME:
            prompt = f"{prompt[: _LONGEST_NAME - 1]}…"
        return ", ".join([*marks, f"`{prompt}`"] if prompt else marks)


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
    request: Request,
    picture: str | None,
    tokens_a_word: float = TOKENS_A_WORD,
    folder: Path | None = None,
) -> dict[str, Any]:
    """Return the body for /v1/chat/completions; ``picture`` is a data URL.

    Raises ValueError for a file that cannot be read, is no text or contains no tools.
    """
    text = _filled(request.prompt, request.tokens, tokens_a_word)
    content: str | list[dict[str, Any]] = text
    if picture is not None:
        shown = {"type": "image_url", "image_url": {"url": picture}}
        content = [{"type": "text", "text": text}, shown]
    messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
    around = folder or Path()
    if request.file is not None:
        messages = begun_with(
            text_in(_read(around / request.file)), request.role, content or _GREETING
        )
    body = {"messages": messages, "max_tokens": request.max_tokens, "temperature": 0}
    if request.tools is not None:
        return {**body, "tools": tools_in(_read(around / request.tools))}
    return {**body, "tools": [_TOOL]} if request.tool else body


def begun_with(
    text: str, role: str, content: str | list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Return the messages of a request that begins with a text."""
    if role == "system":
        return [{"role": role, "content": text}, {"role": "user", "content": content}]
    # Templates refuse two messages of a user in a row.
    if isinstance(content, str):
        return [{"role": "user", "content": f"{text}\n\n{content}"}]
    return [{"role": "user", "content": [{"type": "text", "text": text}, *content]}]


def text_in(data: bytes) -> str:
    """Return the text of a file; raises ValueError where it is none."""
    try:
        return data.decode()
    except ValueError:
        raise ValueError("expected UTF-8") from None


def tools_in(data: bytes) -> list[Any]:
    """Return the tools of a file; raises ValueError where it contains none."""
    try:
        found = json.loads(data)
    except ValueError as error:
        raise ValueError(f"expected JSON: {error}") from None
    if isinstance(found, list) and found and all(map(_is_tool, found)):
        return found
    what = 'a list of tools, each `{"type": "function", "function": {"name": …}}`'
    raise ValueError(f"expected {what}")


def _is_tool(value: object) -> bool:
    match value:
        case {"type": str(), "function": {"name": str()}}:
            return True
        case _:
            return False


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
        body = body_of(request, picture, _tokens_a_word(post, request), folder)
        status, content = post("/v1/chat/completions", body, request.seconds)
    except ValueError as error:
        return str(error)
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
    if not request.tokens or not request.prompt.split():
        return TOKENS_A_WORD
    # Another time, as inside of a long text: a beginning is split otherwise.
    twice = {"content": f"{request.prompt} {request.prompt}"}
    match post("/tokenize", twice, request.seconds):
        case _, {"tokens": [*tokens]} if tokens:
            return max(1.0, len(tokens) / (2 * len(request.prompt.split())))
        case _:
            return TOKENS_A_WORD


def _data_url(picture: Path) -> str:
    kind = mimetypes.guess_type(picture.name)[0] or "image/png"
    return f"data:{kind};base64,{base64.b64encode(_read(picture)).decode()}"


def _read(file: Path) -> bytes:
    if file.exists() and not file.is_file():  # a FIFO is not waited for
        raise ValueError(f"cannot read `{file}`: not a regular file")
    try:
        return file.read_bytes()
    except OSError as error:
        raise ValueError(f"cannot read `{file}`: {error.strerror}") from error
