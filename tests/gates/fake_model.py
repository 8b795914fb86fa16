"""What the model of the server in miniature says, unless a test says otherwise."""

import base64
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Body = Mapping[str, Any]
THOUGHTS = 400
"""Words it thinks when nothing limits it."""
_ARGUMENTS = {
    "get_weather": json.dumps({"city": "Paris"}),
    "add_numbers": json.dumps({"a": 1, "b": 2}),
}
_CITY = json.dumps({"name": "Paris", "kind": "city", "rank": 1})


@dataclass(frozen=True)
class Said:
    """One answer of the model."""

    content: str = " The answer is 42."
    reasoning: str = ""
    calls: tuple[tuple[str, str], ...] = ()
    finish: str = "stop"


def usual_answer(body: Body) -> Said:
    """What a good model on a build without faults answers to a chat request."""
    last = body.get("messages", [{}])[-1]
    if last.get("role") == "tool":
        return Said(" It is 21 degrees.")
    if body.get("parallel_tool_calls"):
        return Said("", calls=tuple(_ARGUMENTS.items()), finish="tool_calls")
    if body.get("tools") and body.get("tool_choice") != "none":
        return _call(body.get("tool_choice", "auto"))
    if "response_format" in body:
        return Said(_CITY)
    if isinstance(last.get("content"), list):
        urls = [p["image_url"]["url"] for p in last["content"] if "image_url" in p]
        return Said(f" {', '.join(map(_colour, urls))}.")
    if body.get("chat_template_kwargs", {}).get("enable_thinking"):
        return _thought(body)
    return Said()


def _call(choice: str | Mapping[str, Any]) -> Said:
    name = "get_weather" if isinstance(choice, str) else choice["function"]["name"]
    return Said("", calls=((name, _ARGUMENTS[name]),), finish="tool_calls")


def _thought(body: Body) -> Said:
    count = min(body.get("thinking_budget_tokens", THOUGHTS), THOUGHTS)
    most = body.get("max_tokens", 10**6)
    if count >= most:
        return Said("", words(most), finish="length")
    return Said(reasoning=words(count))


def words(count: int) -> str:
    """So many words of thinking."""
    return " ".join(f"hm{number}" for number in range(count))


def _colour(url: str) -> str:
    """The name of the first pixel of a PNG as the gate draws it."""
    image = base64.b64decode(url.partition(",")[2])
    start = image.index(b"IDAT") + 4
    red, green, blue = zlib.decompressobj().decompress(image[start:])[1:4]
    match red > 128, green > 128, blue > 128:
        case True, True, False:
            return "yellow"
        case True, False, False:
            return "red"
        case False, True, False:
            return "green"
        case _:
            return "blue"
