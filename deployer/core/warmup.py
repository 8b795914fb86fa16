"""Warm-up requests: from what a stack says to what is sent to llama-server."""

from collections.abc import Mapping

from deployer.core.render.words import printable
from deployer.core.values import JsonValue

LIMIT = 300.0
"""Seconds a request may take where the stack states no time-out."""

_MAX_TOKENS = 8
_LONGEST_NAME = 40
TOKENS_A_WORD = 1.4
"""Of English text, where the model was not asked."""
_TOOL: JsonValue = {
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


def body_of(
    request: Mapping[str, JsonValue],
    picture: str | None,
    tokens_a_word: float = TOKENS_A_WORD,
) -> dict[str, JsonValue]:
    """The body for /v1/chat/completions; ``picture`` is a data URL."""
    text = _filled(str(request["prompt"]), request.get("tokens"), tokens_a_word)
    content: JsonValue = text
    if picture is not None:
        shown: JsonValue = {"type": "image_url", "image_url": {"url": picture}}
        content = [{"type": "text", "text": text}, shown]
    body: dict[str, JsonValue] = {
        "messages": [{"role": "user", "content": content}],
        "max_tokens": request.get("max_tokens") or _MAX_TOKENS,
        "temperature": 0,
    }
    if request.get("tool"):
        body["tools"] = [_TOOL]
    return body


def name_of(request: Mapping[str, JsonValue]) -> str:
    """What to call a request: what is special about it, and how it begins."""
    marks = [f"image {request['image']}"] if request.get("image") else []
    marks += ["tool"] if request.get("tool") else []
    marks += [f"{request['tokens']} tokens"] if request.get("tokens") else []
    prompt = printable(str(request["prompt"]))
    if len(prompt) > _LONGEST_NAME:
        prompt = f"{prompt[: _LONGEST_NAME - 1]}…"
    return ", ".join([*marks, f"`{prompt}`"])


def _filled(prompt: str, tokens: JsonValue, tokens_a_word: float) -> str:
    """The prompt again and again, up to about so many tokens."""
    words = prompt.split()
    if not isinstance(tokens, int) or not words:
        return prompt
    wanted = int(tokens / tokens_a_word)
    times = -(-wanted // len(words))
    return " ".join((words * times)[:wanted]) if times > 1 else prompt
