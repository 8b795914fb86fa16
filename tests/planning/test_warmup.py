"""Warm-up requests as they are sent, and as they are called."""

import json
from pathlib import Path

import pytest

from deployer.planning.argv import request_of
from deployer.runtime.warmup import Request, WarmupError, body_of, warm_up
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


TOOL = {"type": "function", "function": {"name": "look"}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "agent.md").write_text("Be terse.", encoding="utf-8")
    (tmp_path / "tools.json").write_text(json.dumps([TOOL]), encoding="utf-8")
    return tmp_path


def test_a_file_is_how_the_conversation_begins(folder: Path) -> None:
    request = Request(file="agent.md", tools="tools.json")
    assert body_of(request, None, folder=folder) == {
        "messages": [
            {"role": "system", "content": "Be terse."},
            {"role": "user", "content": "Hello"},
        ],
        "max_tokens": 8,
        "temperature": 0,
        "tools": [TOOL],
    }


def test_a_file_in_the_role_of_a_user_begins_its_message(folder: Path) -> None:
    """Templates refuse two messages of a user in a row."""
    request = Request("Go", file="agent.md", role="user")
    sent = body_of(request, None, folder=folder)["messages"]
    assert sent == [{"role": "user", "content": "Be terse.\n\nGo"}]
    sent = body_of(request, "data:image/png;base64,AA", folder=folder)["messages"]
    assert [it["type"] for it in sent[0]["content"]] == ["text", "text", "image_url"]


def test_a_file_that_is_not_there_is_said_before_anything_is_sent(
    folder: Path,
) -> None:
    sent = list[str]()

    def post(path: str, _body: object, _seconds: float) -> tuple[int, object]:
        sent.append(path)
        return 200, {"choices": [{}]}

    (folder / "tools.json").write_text("{}", encoding="utf-8")
    for request, what in (
        (
            Request(file="gone.md"),
            r"file gone.md\) failed: cannot read `.*gone.md`: No",
        ),
        (Request("Hi", tools="tools.json"), r"tools.json, `Hi`\) failed: expected a l"),
    ):
        with pytest.raises(WarmupError, match=what):
            warm_up(post, [request], folder)
    assert sent == []


def test_what_a_stack_states_is_what_is_asked() -> None:
    stated: Flat = {"prompt": "Hi", "tool": True, "tokens": 9, "timeout": "2m"}
    assert request_of(stated) == Request("Hi", tool=True, tokens=9, seconds=120.0)
    assert request_of({"prompt": "Hi", "image": None}) == Request("Hi")
