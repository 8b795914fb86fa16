"""A header in the store is walked over once: bytes that come from files are counted."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import pytest

from deployer.artefacts.store import Store
from deployer.gguf.facts import Facts
from deployer.planning.facts import Pin
from deployer.stack.fields.values import JsonValue
from deployer.usecases.reading.headers import weights_facts
from tests.counting import file_bytes
from tests.gguf.files import header

KEY = "w1"
PIN = Pin("pypi", {}, {})
TOKENS = 50_000
MODEL = header(
    {
        "general.architecture": "llama",
        "llama.block_count": ("u32", 2),
        "llama.context_length": ("u32", 4096),
        "llama.embedding_length": ("u32", 64),
        "tokenizer.ggml.tokens": [f"token-{number}" for number in range(TOKENS)],
    },
    [("token_embd.weight", (64, 2), 0, 0)],
)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A store with a model of many tokens."""
    found = Store(tmp_path / "home")

    def fill(folder: Path) -> Mapping[str, JsonValue]:
        (folder / "model.gguf").write_bytes(MODEL + bytes(4096))
        return {}

    now = datetime.now(tz=UTC)
    found.publish("weights", KEY, fill, now=lambda: now, say=lambda _: None)
    return found


def test_it_is_read_once_and_says_the_same_again(store: Store) -> None:
    found: list[Facts | None] = []

    def look() -> None:
        found.append(weights_facts(PIN, KEY, store))

    assert file_bytes(look) >= len(MODEL)
    assert file_bytes(look) < 10_000
    assert found[0] is not None
    assert found[0] == found[1]


@pytest.mark.parametrize("spoil", ["code", "facts", "text", "mode"])
def test_what_is_not_ours_is_read_anew(store: Store, spoil: str) -> None:
    before = weights_facts(PIN, KEY, store)
    kept = store.home / "cache" / "headers" / f"{KEY}.json"
    content = json.loads(kept.read_text(encoding="utf-8"))
    content["facts"]["model"]["architecture"] = "planted"
    match spoil:
        case "code" | "facts":
            kept.write_text(json.dumps({**content, spoil: "other"}), encoding="utf-8")
        case "text":
            kept.write_text("{", encoding="utf-8")
        case _:
            kept.write_text(json.dumps(content), encoding="utf-8")
            kept.chmod(0o666)
    assert weights_facts(PIN, KEY, store) == before
