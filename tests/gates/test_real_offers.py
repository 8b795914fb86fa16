"""The gates of what few servers offer, against the real llama-server b10434."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from deployer.gates.harness.client import Target
from deployer.planning.events import Outcome
from tests.gates.checking import run_one
from tests.gates.real_server import KEY, serving
from tests.models import encoders
from tests.models.adapter import write_lora

pytestmark = pytest.mark.real
BATCH = ("--batch-size", "2048", "--ubatch-size", "2048")


def judged(gate: str, url: str, stated: Mapping[str, int | float]) -> tuple[str, str]:
    expects = {f"server.{name}": value for name, value in stated.items()}
    target = Target(url, api_key=KEY, api_key_name="KEY", expects=expects)
    verdict = run_one(gate, target)
    return verdict.outcome.value, verdict.because


@pytest.mark.parametrize(
    ("options", "zero", "outcome", "because"),
    [
        (BATCH, False, Outcome.PASS, "vectors of 64 numbers"),
        ((), False, Outcome.FAIL, "set `server.ubatch_size`"),
        (BATCH, True, Outcome.FAIL, "same vector"),
    ],
    ids=["sound", "batch below the context", "zeros"],
)
def test_embeddings_of_a_real_server(
    llama_server: Path,
    tmp_path: Path,
    options: tuple[str, ...],
    outcome: Outcome,
    because: str,
    *,
    zero: bool,
) -> None:
    encoders.write_embedder(tmp_path / "bert.gguf", zero=zero)
    ask = ("--embeddings", "--pooling", "mean", "-c", "2048", "-np", "1", *options)
    with serving(llama_server, tmp_path / "bert.gguf", *ask) as url:
        found = judged("embeddings", url, {})
    assert (found[0], because in found[1]) == (outcome.value, True), found


@pytest.mark.parametrize("backwards", [False, True])
def test_ranks_of_a_real_server(
    llama_server: Path, tmp_path: Path, *, backwards: bool
) -> None:
    encoders.write_ranker(tmp_path / "bert.gguf", backwards=backwards)
    ask = ("--reranking", "-c", "2048", "-np", "1", *BATCH)
    with serving(llama_server, tmp_path / "bert.gguf", *ask) as url:
        outcome, because = judged("rerank", url, {})
    assert outcome == ("fail" if backwards else "pass"), because


def test_samplers_and_drafts_of_a_real_server(
    llama_server: Path, real_model: Path, tmp_path: Path
) -> None:
    """The samplers show; slots of a model with a sliding window are not restored."""
    stated = {"temperature": 0.7, "top_k": 5}
    ask = ("--temp", "0.7", "--top-k", "5", "--min-p", "0", "-c", "1024", "-np", "1")
    more = ("--spec-type", "ngram-simple", "--slot-save-path", str(tmp_path))
    with serving(llama_server, real_model, *ask, *more) as url:
        assert judged("sampling", url, stated)[0] == "pass"
        hotter = judged("sampling", url, {**stated, "temperature": 1.4})
        assert hotter == (
            "fail",
            "tokens are drawn at 0.70, `server.temperature: 1.4`",
        )
        slots = judged("slots", url, {})
        assert "drafted tokens were accepted" in judged("speculative", url, {})[1]
    assert slots[0] == "fail"
    assert "the restore has no effect" in slots[1]


@pytest.mark.parametrize(
    ("weight", "outcome", "because"),
    [
        (0.1, "pass", "`a.gguf` change what the model says, by "),
        (0.0, "fail", "`a.gguf` change nothing: at scale 0 it says the same"),
    ],
)
def test_an_adapter_of_a_real_server(
    llama_server: Path,
    real_model: Path,
    tmp_path: Path,
    weight: float,
    outcome: str,
    because: str,
) -> None:
    sides = (640, 4 * 256)  # of the queries of Gemma 3 270M
    adapter = tmp_path / "a.gguf"
    write_lora(adapter, architecture="gemma3", weight=weight, sides=sides)
    ask = ("--lora", str(adapter), "-c", "512", "-np", "1")
    with serving(llama_server, real_model, *ask) as url:
        found = judged("lora", url, {})
    assert (found[0], because in found[1]) == (outcome, True), found


def test_a_server_behind_a_prefix_is_asked_there(
    llama_server: Path, tiny_model: Path
) -> None:
    """`--api-prefix` moves every route; `--url` names it, with or without `/v1`."""
    with serving(llama_server, tiny_model, "--api-prefix", "/v2", "-c", "512") as url:
        for gate in ("health", "models", "auth", "chat"):
            assert judged(gate, f"{url}/v2", {})[0] == "pass"
        assert judged("models", f"{url}/v2/v1/", {})[0] == "pass"
        assert judged("health", url, {})[0] != "pass"
