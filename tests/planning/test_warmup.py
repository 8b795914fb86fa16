"""Warm-up requests as they are sent, and as they are called."""

import json

from deployer.planning.argv import request_of
from deployer.runtime.warmup import Request, body_of
from deployer.stack.fields.values import Flat


def test_a_prompt_alone_is_a_short_greedy_chat() -> None:
    assert body_of(Request("Hello"), None) == {
        "messages": [{"role": "user", "content": "Hello"}],
        "max_tokens": 8,
        "temperature": 0,
    }


def test_a_picture_is_sent_behind_the_text() -> None:
    body = body_of(Request("Colour?", max_tokens=2), "data:image/png;base64,AA")
    assert body["messages"] == [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "Colour?"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}},
            ],
        }
    ]
    assert body["max_tokens"] == 2


def test_a_tool_is_offered() -> None:
    body = json.dumps(body_of(Request("Weather?", tool=True), None))
    assert json.loads(body)["tools"][0]["function"]["name"] == "get_weather"


def test_a_long_prompt_is_the_prompt_again_and_again() -> None:
    def length(tokens: int, tokens_a_word: float) -> int:
        body = body_of(Request("a b c", tokens=tokens), None, tokens_a_word)
        sent = json.loads(json.dumps(body))
        return len(sent["messages"][0]["content"].split())

    assert length(300, 1.0) == 300
    assert length(300, 3.0) == 100
    assert length(1, 1.0) == 3


def test_a_request_is_called_by_what_is_special_about_it() -> None:
    assert str(Request("Hello")) == "`Hello`"
    assert str(Request("x" * 50, tool=True, tokens=9)) == (
        f"tool, 9 tokens, `{'x' * 39}…`"
    )
    assert str(Request("a\nb", image="red.png")) == "image red.png, `a\\nb`"


def test_what_a_stack_states_is_what_is_asked() -> None:
    stated: Flat = {"prompt": "Hi", "tool": True, "tokens": 9, "timeout": "2m"}
    assert request_of(stated) == Request("Hi", tool=True, tokens=9, seconds=120.0)
    assert request_of({"prompt": "Hi", "image": None}) == Request("Hi")
