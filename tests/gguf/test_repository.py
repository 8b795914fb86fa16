"""Headers of a repository on the hub: read at the pinned commit, kept when locked."""

import json
import os
import shutil
from pathlib import Path

import pytest

from deployer.gguf.facts import Model
from deployer.planning.progress import unwatched
from deployer.usecases.artefacts import lock
from deployer.usecases.context.settings import Settings
from deployer.usecases.reading.inspect_model import look
from tests.gguf.conftest import FileServer

COMMIT = "c" * 40
STACK = """\
version: 1
name: hub
engine: local
llama_cpp: {tag: b10434, binary: llama-server}
model: {repo: owner/tiny, quant: F16, mmproj: F16}
"""


@pytest.fixture
def settings(served: FileServer, tiny_model: Path, tmp_path: Path) -> Settings:
    """The environment that makes `served` the hub, with one repository."""
    names = {"tiny-F16.gguf": tiny_model.name, "mmproj-F16.gguf": "mmproj.gguf"}
    siblings = []
    for name, source in names.items():
        body = tiny_model.with_name(source).read_bytes()
        file = served.folder / "owner/tiny/resolve" / COMMIT / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(body)
        lfs = {"size": len(body), "sha256": "0" * 64, "pointerSize": 1}
        siblings.append({"rfilename": name, "size": len(body), "lfs": lfs})
    answer = {"id": "owner/tiny", "sha": COMMIT, "siblings": siblings}
    file = served.folder / "api/models/owner/tiny"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps({**answer, "tags": [], "downloads": 0}))
    environment = {**os.environ, "HF_ENDPOINT": served.url("")[:-1], "HF_TOKEN": "hf_x"}
    return Settings(environment, tmp_path / "home")


def test_a_repository_by_name_and_quantisation(
    settings: Settings, served: FileServer
) -> None:
    (found,) = look("owner/tiny:F16", settings, sizes_only=False, say=unwatched)
    assert isinstance(found.thing, Model)
    assert found.thing.architecture == "gemma4"
    assert served.counts.tokens[-1] == "Bearer hf_x"


def test_the_lock_file_keeps_what_the_headers_say(
    settings: Settings, tmp_path: Path, llama_server: Path
) -> None:
    (tmp_path / "hub.yaml").write_text(STACK)
    shutil.copy(llama_server, tmp_path / "llama-server")
    assert lock(tmp_path / "hub.yaml", settings, None, upgrade=False).changed
    about = json.loads((tmp_path / "hub.lock.json").read_text())["weights"]["about"]
    assert about["gguf"]["model"]["embedding_length"] == 256
    assert about["gguf"]["mmproj"] == {
        "size": 562_752,
        "kinds": ["gemma4v"],
        "projection": 256,
        "image_size": 224,
        "patch_size": 16,
    }


def test_a_hub_that_serves_no_parts_is_no_reason_not_to_lock(
    settings: Settings, served: FileServer, tmp_path: Path, llama_server: Path
) -> None:
    served.ranges = False
    (tmp_path / "hub.yaml").write_text(STACK)
    shutil.copy(llama_server, tmp_path / "llama-server")
    assert lock(tmp_path / "hub.yaml", settings, None, upgrade=False).changed
    about = json.loads((tmp_path / "hub.lock.json").read_text())["weights"]["about"]
    assert "gguf" not in about
