"""The routes that agents use, of the server in miniature."""

import json
from typing import Any

from tests.gates.fake_http import Reply, Request, as_json, named_events
from tests.gates.fake_model import Body

TEXT = " The answer is 42."
CALL = {
    "type": "function_call",
    "call_id": "call_1",
    "name": "get_weather",
    "arguments": json.dumps({"city": "Paris"}),
}
USE = {
    "type": "tool_use",
    "id": "toolu_1",
    "name": "get_weather",
    "input": {"city": "Paris"},
}


def responses(request: Request) -> Reply:
    if request.body.get("stream"):
        return named_events(*response_events())
    asked = request.body["input"]
    calls = "tools" in request.body and isinstance(asked, str)
    return as_json(response(CALL if calls else text_item()))


def text_item(text: str = TEXT) -> dict[str, Any]:
    part = {"type": "output_text", "text": text}
    return {"type": "message", "role": "assistant", "content": [part]}


def response(item: Body) -> dict[str, Any]:
    return {"id": "resp_1", "status": "completed", "output": [dict(item)]}


def response_events() -> list[dict[str, Any]]:
    deltas = [f" {word}" for word in TEXT.split()]
    return [
        {"type": "response.created", "response": {"status": "in_progress"}},
        *({"type": "response.output_text.delta", "delta": delta} for delta in deltas),
        {"type": "response.completed", "response": response(text_item())},
    ]


def messages(request: Request) -> Reply:
    if request.body.get("stream"):
        return named_events(*message_events())
    calls = "tools" in request.body and len(request.body["messages"]) == 1
    return as_json(message(USE, "tool_use") if calls else message(text_block()))


def text_block(text: str = TEXT) -> dict[str, Any]:
    return {"type": "text", "text": text}


def message(block: Body, stop_reason: str = "end_turn") -> dict[str, Any]:
    return {
        "type": "message",
        "role": "assistant",
        "content": [dict(block)],
        "stop_reason": stop_reason,
        "usage": {"input_tokens": 11, "output_tokens": 5},
    }


def message_events() -> list[dict[str, Any]]:
    deltas = [{"type": "text_delta", "text": f" {word}"} for word in TEXT.split()]
    block = "content_block_delta"
    return [
        {"type": "message_start", "message": {}},
        {"type": "content_block_start", "index": 0, "content_block": text_block("")},
        *({"type": block, "index": 0, "delta": delta} for delta in deltas),
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}},
        {"type": "message_stop"},
    ]


def count_tokens(_request: Request) -> Reply:
    return as_json({"input_tokens": 17})
