"""What the server in miniature answers beside chat: vectors, ranks, slots, adapters."""

import itertools
import math
from typing import Any

from tests.gates.fake_http import Reply, Request, as_json, error

SIZE = 64
TOO_LARGE = 3000
"""Words of a text that is refused."""


def vector(text: str) -> list[float]:
    """A direction for each word, and their sum."""
    found = [0.0] * SIZE
    for word in text.casefold().replace(".", "").replace("?", "").split():
        seed = sum(ord(letter) * (at + 7) for at, letter in enumerate(word))
        for at in range(SIZE):
            found[at] += math.sin(seed * (at + 1))
    norm = math.sqrt(sum(x * x for x in found)) or 1.0
    return [x / norm for x in found]


def embedded(*vectors: list[float]) -> Reply:
    data = [{"index": n, "embedding": one} for n, one in enumerate(vectors)]
    return as_json({"object": "list", "data": data})


def texts(request: Request) -> list[str]:
    given = request.body["input"]
    return [given] if isinstance(given, str) else list(given)


def embeddings(request: Request) -> Reply:
    if any(len(text.split()) > TOO_LARGE for text in texts(request)):
        return error(500, "input (3001 tokens) is too large to process")
    return embedded(*map(vector, texts(request)))


def score(query: str, document: str) -> float:
    return sum(a * b for a, b in zip(vector(query), vector(document), strict=True))


def ranking(*scores: float) -> Reply:
    rows = [{"index": n, "relevance_score": it} for n, it in enumerate(scores)]
    rows.sort(key=lambda row: -row["relevance_score"])
    return as_json({"object": "list", "results": rows})


def rerank(request: Request) -> Reply:
    body = request.body
    return ranking(*(score(body["query"], it) for it in body["documents"]))


LOGPROBS = (-1.0, -1.5, -2.0, -2.5, -3.0, -3.5)
LORA = "/srv/adapters/tone.gguf"


def adapters(_request: Request) -> Reply:
    return as_json([{"id": 0, "path": LORA, "scale": 1.0}])


def drawn(
    body: Any, *, heat: float = 0.8, top_k: int = 3, chance: float = 0.0
) -> dict[str, Any]:
    """One token with its candidates: without samplers, or after those of the server.

    `chance`, from 0 to 1, is the luck of the draw.
    """
    shift = 0.0 if body.get("lora") else 0.25
    raw = [it - shift * n for n, it in enumerate(LOGPROBS)]
    if not body.get("post_sampling_probs"):
        top = [{"id": n, "logprob": it} for n, it in enumerate(raw)]
        return {"id": 0, "logprob": raw[0], "top_logprobs": top}
    weights = [math.exp(it / heat) for it in raw[:top_k]]
    probs = [it / sum(weights) for it in weights]
    top = [{"id": n, "prob": it} for n, it in enumerate(probs)]
    sums = itertools.accumulate(probs)
    took = next((n for n, it in enumerate(sums) if chance < it), len(probs) - 1)
    return {"id": took, "prob": probs[took], "top_probs": top}


def story(body: Any, **changed: Any) -> dict[str, Any]:
    """All tokens of an answer; where they are one, the likeliest."""
    times = int(body.get("n_predict", 1))
    lucks = ({"chance": (n + 0.5) / times} if times > 1 else {} for n in range(times))
    steps = [drawn(body, **{**luck, **changed}) for luck in lucks]
    return {"completion_probabilities": steps}


def completion(request: Request) -> Reply:
    """/completion, with probabilities and a slot that remembers."""
    body, server = request.body, request.server
    known = server.slot if body.get("cache_prompt", True) else ""
    whole = len(str(body["prompt"]).split())
    cached = whole - 1 if known == body["prompt"] else 0
    if "id_slot" in body:
        server.slot = str(body["prompt"])
    timings = {"cache_n": cached, "prompt_n": whole - cached}
    found: dict[str, Any] = {"content": " sea", "timings": timings}
    if body.get("n_probs"):
        found |= story(body)
    return as_json(found)


def slot_save(request: Request) -> Reply:
    server = request.server
    server.saved = server.slot
    return as_json({"id_slot": 0, "n_saved": len(server.saved.split())})


def slot_erase(request: Request) -> Reply:
    erased, request.server.slot = request.server.slot, ""
    return as_json({"id_slot": 0, "n_erased": len(erased.split())})


def slot_restore(request: Request) -> Reply:
    server = request.server
    server.slot = server.saved
    return as_json({"id_slot": 0, "n_restored": len(server.saved.split())})


ROUTES = {
    "POST /v1/embeddings": embeddings,
    "POST /v1/rerank": rerank,
    "POST /completion": completion,
    "GET /lora-adapters": adapters,
    "POST /slots/0?action=save": slot_save,
    "POST /slots/0?action=erase": slot_erase,
    "POST /slots/0?action=restore": slot_restore,
}
