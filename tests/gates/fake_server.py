"""A llama-server in miniature on loopback, whose answers can be broken one by one.

Left alone it answers as llama-server b10434 does, as far as gates look; a test breaks
one thing by replacing the answer of one route, or what the model says.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from tests.gates import fake_agents, fake_more
from tests.gates.fake_http import (
    FakeServer,
    Reply,
    Request,
    Responder,
    Script,
    as_json,
    error,
    events,
)
from tests.gates.fake_model import Body, Said

COMMIT = "7e4c0a9"
CONTEXT = 2048
"""Tokens of one slot."""
_FIXED_TOKENS, _IMAGE_TOKENS = 7, 50


@contextmanager
def fake_server(script: Script, port: int = 0) -> Iterator[FakeServer]:
    """A server that runs until the block ends."""
    with FakeServer(script, ROUTES, port).running() as server:
        yield server


def health(_request: Request) -> Reply:
    return as_json({"status": "ok"})


def props(request: Request) -> Reply:
    return as_json(props_value(request.server.script.slots))


def props_value(slots: int = 2) -> dict[str, Any]:
    return {
        "build_info": f"b10434-{COMMIT}",
        "total_slots": slots,
        "model_alias": "tiny",
        "default_generation_settings": {"n_ctx": CONTEXT},
        "modalities": {"vision": False, "audio": False},
        "endpoint_slots": True,
        "endpoint_metrics": True,
        "chat_template": "{% if enable_thinking %}",
        "chat_template_caps": {"supports_tools": True, "supports_tool_calls": True},
    }


def models(_request: Request) -> Reply:
    return as_json({"object": "list", "data": [{"id": "tiny", "aliases": ["tiny"]}]})


def tokenize(_request: Request) -> Reply:
    return as_json({"tokens": [352, 353]})


def apply_template(request: Request) -> Reply:
    kind = request.body["response_format"]["type"]
    because = f'response_format type must be one of "text", but got: {kind}'
    return error(400, because, "invalid_request_error")


def metrics(request: Request) -> Reply:
    server = request.server
    return metrics_text(server.prompt_tokens, server.predicted_tokens)


def metrics_text(prompt: float | str, predicted: float | str) -> Reply:
    text = "".join(
        f"# HELP {name} tokens\n# TYPE {name} counter\n{name} {value}\n"
        for name, value in (
            ("llamacpp:prompt_tokens_total", prompt),
            ("llamacpp:tokens_predicted_total", predicted),
        )
    )
    return Reply((text.encode(),), content_type="text/plain; version=0.0.4")


def slots(request: Request) -> Reply:
    server = request.server
    return as_json(
        [
            {"id": n, "is_processing": n < server.busy}
            for n in range(server.script.slots)
        ]
    )


def chat(request: Request) -> Reply:
    server, body = request.server, request.body
    if wrong := refusal(body):
        return wrong
    prompt = prompt_tokens(body)
    said = server.script.says(body)
    told = f"{said.reasoning} {said.content}".split()
    tokens = min(len(told) + 1, body.get("max_tokens", 10**6))
    with server.room:
        worked = _work(
            server, server.script.busy_seconds if body.get("ignore_eos") else 0
        )
    with server.lock:
        server.prompt_tokens += prompt
        server.predicted_tokens += tokens
    clock = timings(tokens, worked) if server.script.timings else {}
    if clock and "speculative.n_max" not in body:
        clock["timings"] |= {"draft_n": 10, "draft_n_accepted": 8}
    read = str(body["messages"])
    cached = prompt - 1 if read in server.read and body.get("cache_prompt", True) else 0
    server.read.add(read)
    counted = {"usage": {**usage(tokens, prompt), "prompt_tokens_details": {}}}
    counted["usage"]["prompt_tokens_details"] = {"cached_tokens": cached}
    if body.get("stream"):
        found = chunks(said, tokens)
        found[-1] |= {**counted, **clock}
        if body.get("timings_per_token"):
            found = [one | timings(n, worked) for n, one in enumerate(found)]
        return events(*found, "[DONE]")
    return as_json({**completion(said, tokens), **counted, **clock})


def refusal(body: Body) -> Reply | None:
    """The answer to a request that is wrong; None to one that is not."""
    choice = body.get("tool_choice")
    if not isinstance(body.get("messages"), list):
        return error(400, "Expected 'messages' to be an array", "invalid_request_error")
    if isinstance(choice, str) and choice not in {"auto", "required", "none"}:
        return error(400, f"Invalid tool_choice: {choice}", "invalid_request_error")
    if (tokens := prompt_tokens(body)) >= CONTEXT:
        return too_long(tokens)
    return None


def too_long(tokens: int, **changed: object) -> Reply:
    """The refusal of a prompt over the context."""
    detail = {
        "code": 400,
        "message": f"request ({tokens} tokens) exceeds the available context size",
        "type": "exceed_context_size_error",
        "n_prompt_tokens": tokens,
        "n_ctx": CONTEXT,
    }
    return as_json({"error": {**detail, **changed}}, 400)


def prompt_tokens(body: Body) -> int:
    """A token for each word, and some for each picture."""
    contents = [message.get("content") or "" for message in body["messages"]]
    parts = [part for one in contents if isinstance(one, list) for part in one]
    texts = [one for one in contents if isinstance(one, str)]
    texts += [part["text"] for part in parts if part["type"] == "text"]
    pictures = len([part for part in parts if part["type"] != "text"])
    words = sum(len(str(text).split()) for text in texts)
    return _FIXED_TOKENS + words + _IMAGE_TOKENS * pictures


def _work(server: FakeServer, seconds: float) -> float:
    """Keep a slot busy; returns for how long."""
    begun = time.monotonic()
    with server.lock:
        server.busy += 1
    server.stopped.wait(seconds)
    with server.lock:
        server.busy -= 1
    return max(0.001, time.monotonic() - begun)


def timings(tokens: int, seconds: float) -> dict[str, Any]:
    """llama-server's own clock for one answer."""
    return {
        "timings": {
            "prompt_n": 11,
            "prompt_ms": 0.1,
            "predicted_n": tokens,
            "predicted_ms": 1000 * seconds,
        }
    }


def usage(tokens: int, prompt: int = 11) -> dict[str, int]:
    return {
        "prompt_tokens": prompt,
        "completion_tokens": tokens,
        "total_tokens": prompt + tokens,
    }


def completion(said: Said, tokens: int = 5) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": said.content}
    if said.reasoning:
        message["reasoning_content"] = said.reasoning
    if said.calls:
        message["tool_calls"] = [
            {"id": f"c{n}", "type": "function", "function": _function(call)}
            for n, call in enumerate(said.calls)
        ]
    choice = {"index": 0, "message": message, "finish_reason": said.finish}
    return {"id": "chatcmpl-1", "choices": [choice], "usage": usage(tokens)}


def chunks(said: Said, tokens: int = 5) -> list[dict[str, Any]]:
    """The stream of an answer, as llama-server cuts it."""
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": None}]
    deltas += [{"reasoning_content": word} for word in _pieces(said.reasoning)]
    deltas += [{"content": word} for word in _pieces(said.content)]
    for n, call in enumerate(said.calls):
        head = {"index": n, "id": f"c{n}", "type": "function"}
        function = {"name": call[0], "arguments": ""}
        deltas.append({"tool_calls": [{**head, "function": function}]})
        tail = {"index": n, "function": {"arguments": call[1]}}
        deltas.append({"tool_calls": [tail]})
    found = [chunk(delta) for delta in deltas]
    found.append(chunk({}, finish=said.finish))
    found.append({"id": "chatcmpl-1", "choices": [], "usage": usage(tokens)})
    return found


def chunk(delta: Body, *, finish: str | None = None, index: int = 0) -> dict[str, Any]:
    choice = {"index": index, "delta": dict(delta), "finish_reason": finish}
    return {"id": "chatcmpl-1", "choices": [choice]}


def _pieces(text: str) -> list[str]:
    return [f" {word}" for word in text.split()]


def _function(call: tuple[str, str]) -> dict[str, str]:
    return {"name": call[0], "arguments": call[1]}


ROUTES: Mapping[str, Responder] = {
    "GET /health": health,
    "GET /props": props,
    "GET /v1/models": models,
    "POST /tokenize": tokenize,
    "POST /apply-template": apply_template,
    "GET /metrics": metrics,
    "GET /slots": slots,
    "POST /v1/chat/completions": chat,
    **fake_more.ROUTES,
    "POST /v1/responses": fake_agents.responses,
    "POST /v1/messages": fake_agents.messages,
    "POST /v1/messages/count_tokens": fake_agents.count_tokens,
}
