"""A plan is the same with and without the cache, whatever was edited.

DEPLOYER_LONG=1 makes 10,000 edits.
"""

import json
import os
from pathlib import Path

import pytest

from tests.prepared.edits import EDITS
from tests.prepared.world import World, is_kept, locked_anew, mend, planned, world

LONG = bool(os.environ.get("DEPLOYER_LONG"))
WALKS, EDITS_A_WALK = (100, 100) if LONG else (5, 50)
MENDED = 0.7
"""How often a project is put in order after an edit that left nothing to keep."""

DEMO, PATCHED = "stacks/demo.yaml", "stacks/patched.yaml"
FILES = (DEMO, "./stacks/demo.yaml", PATCHED)

pytestmark = pytest.mark.trust


def stand_in(made: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(made.folder / "project")


@pytest.mark.parametrize("seed", range(WALKS))
def test_both_ways_agree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    made = world(tmp_path, seed)
    stand_in(made, monkeypatch)
    kept = 0
    for number in range(EDITS_A_WALK):
        name = made.random.choice(list(EDITS))
        EDITS[name](made)
        file = made.random.choice(FILES)
        truth = planned(made, file, cached=False)
        assert planned(made, file, cached=True) == truth, f"edit {number}: {name}"
        found = is_kept(made, file)
        kept += found
        assert planned(made, file, cached=True) == truth, f"edit {number}: {name}"
        if not found and made.random.random() < MENDED:
            made.random.choice((mend, locked_anew))(made)
    assert kept > EDITS_A_WALK / 10


FORGOTTEN = {
    "the stack": "stacks/demo.yaml",
    "its base": "stacks/base.yaml",
    "the base of its base": "stacks/common.yaml",
    "a base that is a link": "stacks/common.yaml",
    "an overlay": "stacks/demo.yaml",
    "the lock file": "demo.lock.json",
    "a chat template": "mine.jinja",
    "a file of a gate": "check.sh",
    "the weights": "tiny.gguf",
    "the binary": "server/llama-server",
    "a library": "server libllama.so",
    "a patch": "mine.patch",
    "the description of a patch": "patch.yaml",
    "a nearer folder of patches": "stacks/patches",
    "the repository": ".git",
    "CRIU": "bin/criu",
}
"""The ends of the paths without which an edit would not be noticed."""


@pytest.mark.parametrize(("name", "endings"), FORGOTTEN.items())
def test_an_input_that_is_left_out_is_found_by_these_edits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, endings: str
) -> None:
    made = world(tmp_path, 7)
    stand_in(made, monkeypatch)
    file = PATCHED if "patch" in name else DEMO
    for _ in range(60):
        mend(made)
        assert planned(made, file, cached=True) is not None
        forget(made, endings)
        assert is_kept(made, file)
        EDITS[name](made)
        seen = planned(made, file, cached=True)
        if seen is not None and seen != planned(made, file, cached=False):
            return
    pytest.fail(f"without `{endings}` nothing was wrong")


def forget(made: World, endings: str) -> None:
    """Take the paths that end so out of what is kept."""
    for file in (made.settings.home / "cache" / "stacks").iterdir():
        content = json.loads(file.read_bytes())
        for path in list(content["prepared"]["seen"]):
            if path.endswith(tuple(endings.split())):
                del content["prepared"]["seen"][path]
        file.write_text(json.dumps(content), encoding="utf-8")
