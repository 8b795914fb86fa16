"""Weights beside the model on the emulated Modal: found where the server is started."""

from pathlib import Path

from tests.modal.conftest import VOLUME
from tests.modal.project import STACK, Project, served
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
