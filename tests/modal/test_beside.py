"""Weights beside the model on the emulated Modal: found where the server is started."""

import json
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.cli.project import LIMIT
from tests.modal.conftest import VOLUME
from tests.modal.project import KEY, STACK, Project, served
from tests.models.adapter import write_lora

BESIDE = """\
  alias: tiny
  draft: {url: MODEL, sha256: SHA256}
  lora: [{url: ADAPTER, scale: 0.5}]
"""


def test_a_draft_and_an_adapter_are_found_in_the_container(
    ready: Project, tmp_path: Path
) -> None:
    """The same file in two roles is one folder of the Volume, and fetched once."""
    write_lora(tmp_path / "adapters" / "a.gguf")
    with served(tmp_path / "adapters") as site:
        text = STACK.replace("  alias: tiny\n", BESIDE)
        text = text.replace("ADAPTER", f"{site}/a.gguf")
        text = text.replace("  fit: off\n", "  fit: off\n  speculative: {type: TYPE}\n")
        ready.write(text.replace("TYPE", "draft-simple, n_max: 4"))
        said = ready.apply().out
    assert "  + draft" in said
    assert "  + lora-0" in said
    server = ready.live()
    volume = ready.cloud.volume(VOLUME) / "weights"
    keys = {server["needs"][role] for role in ("weights", "draft", "lora-0")}
    assert {it.name for it in volume.iterdir()} == keys
    assert len(keys) == 2
    assert (volume / server["needs"]["lora-0"] / "a.gguf").is_file()
    log = ready.run("logs", "stacks/tiny.yaml", "--lines", "2000").out
    assert f"/store/weights/{server['needs']['lora-0']}/a.gguf:0.5" in log
    assert ready.ask(server["outputs"]["url"])["choices"]


def test_an_adapter_and_a_key_are_exchanged_and_rolled_back(
    ready: Project, tmp_path: Path
) -> None:
    """What the container is started with is what it finds on the Volume."""
    write_lora(tmp_path / "adapters" / "a.gguf")
    write_lora(tmp_path / "adapters" / "b.gguf", alpha=2.0)
    write_lora(tmp_path / "adapters" / "c.gguf", alpha=3.0)
    ready.cloud.secret("llama-next", {"NEXT_KEY": "sk-next"})
    with served(tmp_path / "adapters") as site:
        beside = (
            f"  alias: tiny\n  lora: [{{url: {site}/a.gguf}}, {{url: {site}/b.gguf}}]\n"
        )
        first = STACK.replace("  alias: tiny\n", beside)
        ready.write(first)
        ready.apply()
        assert applied(ready) == ["a.gguf", "b.gguf"]

        second = first.replace("b.gguf", "c.gguf").replace(
            "  api_key: {secret: llama-api-key, env: LLAMA_API_KEY}\n",
            "  api_keys:\n    next: {secret: llama-next, env: NEXT_KEY}\n"
            "    now: {secret: llama-api-key, env: LLAMA_API_KEY}\n",
        )
        ready.write(second)
        said = ready.apply().out
    assert "± lora-1" in said
    assert "auth.api_keys.next.secret   unset → llama-next" in said
    assert (
        "those of LLAMA_API_KEY are let in; not set here, and not tried: NEXT_KEY"
        in (" ".join(said.split()))
    )
    assert applied(ready) == ["a.gguf", "c.gguf"]
    url = ready.live()["outputs"]["url"]
    assert ready.ask(url)["choices"]
    assert ready.ask(url, "sk-next")["choices"]

    done = ready.run("rollback", "stacks/tiny.yaml", "--yes")
    assert done.code == 0, done.out + done.err
    assert applied(ready) == ["a.gguf", "b.gguf"]
    with pytest.raises(urllib.error.HTTPError, match="401"):
        ready.ask(ready.live()["outputs"]["url"], "sk-next")


def applied(project: Project) -> list[str]:
    """The adapters that the live server applies; each is a file of the Volume."""
    request = urllib.request.Request(
        f"{project.live()['outputs']['url']}/lora-adapters",
        headers={"Authorization": f"Bearer {KEY}"},
    )
    with urllib.request.urlopen(request, timeout=LIMIT) as answer:
        found = json.load(answer)
    paths = [it["path"].partition("/weights/")[2] for it in found]
    volume = project.cloud.volume(VOLUME) / "weights"
    assert all((volume / path).is_file() for path in paths)
    return [Path(path).name for path in paths]
