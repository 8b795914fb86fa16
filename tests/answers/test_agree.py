"""What is answered without a run is what a whole run would say, whatever was edited.

DEPLOYER_LONG=1 makes 10,000 edits.
"""

import os
from hashlib import sha256
from pathlib import Path

import pytest

from deployer.answers.kept import folder_of
from tests.answers.edits import EDITS
from tests.answers.world import World, fast, locked_anew, mend, whole, world

LONG = bool(os.environ.get("DEPLOYER_LONG"))
WALKS, EDITS_A_WALK = (100, 100) if LONG else (5, 50)
MENDED = 0.7
"""How often a project is put in order after an edit that left nothing to keep."""

CALLS = (
    ("plan", "stacks/demo.yaml"),
    ("plan", "./stacks/demo.yaml"),
    ("plan", "stacks/patched.yaml"),
    ("plan", "stacks/demo.yaml", "stacks/patched.yaml"),
)

pytestmark = pytest.mark.trust


def stand_in(made: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(made.folder / "project")


def wrong_answer(made: World, call: tuple[str, ...]) -> str | None:
    """What is answered though a whole run says something else."""
    answered = fast(made, call)
    if answered is not None and answered != whole(made, call, cached=False):
        return answered
    return None


@pytest.mark.parametrize("seed", range(WALKS))
def test_both_ways_agree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    made = world(tmp_path, seed)
    stand_in(made, monkeypatch)
    answered = 0
    for number in range(EDITS_A_WALK):
        name = made.random.choice(list(EDITS))
        EDITS[name](made)
        call = made.random.choice(CALLS)
        truth = whole(made, call, cached=False)
        seen = fast(made, call)
        assert seen in (None, truth), f"edit {number}: {name}"
        assert whole(made, call, cached=True) == truth, f"edit {number}: {name}"
        again = fast(made, call)
        assert again in (None, truth), f"edit {number}: {name}"
        answered += again is not None
        if again is None and made.random.random() < MENDED:
            made.random.choice((mend, locked_anew))(made)
    assert answered > EDITS_A_WALK / 10


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
    "a library": "server",
    "a patch": "mine.patch",
    "the description of a patch": "patch.yaml",
    "a nearer folder of patches": "stacks/patches",
    "the state": "demo.state.json",
    "its history": "history/demo",
    "the project file": "deployer.yaml",
    "the repository": ".git",
    "a state behind a link": ".deployer/state demo.state.json",
    "CRIU": "bin/criu",
    ".env": ".env",
}
"""The end of the paths without which an edit would not be noticed."""


@pytest.mark.parametrize(("name", "ending"), FORGOTTEN.items())
def test_an_input_that_is_left_out_is_found_by_these_edits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, ending: str
) -> None:
    made = world(tmp_path, 7)
    stand_in(made, monkeypatch)
    call = CALLS[2] if "patch" in name else CALLS[0]
    for _ in range(60):
        mend(made)
        assert whole(made, call, cached=True) is not None
        forget(made, ending)
        assert fast(made, call) is not None
        EDITS[name](made)
        if wrong_answer(made, call) is not None:
            return
    pytest.fail(f"without `{ending}` nothing was wrong")


def forget(made: World, ending: str) -> None:
    """Take the inputs whose path ends so out of what is kept."""
    folder = Path(folder_of(made.variables["DEPLOYER_HOME"]))
    for file in folder.iterdir():
        _, *lines = file.read_bytes().split(b"\n")
        kept = [line for line in lines if not _is_input(line, ending)]
        rest = b"\n".join(kept)
        file.write_bytes(sha256(rest).hexdigest().encode() + b"\n" + rest)


def _is_input(line: bytes, ending: str) -> bool:
    return line.count(b"\t") == 2 and line.decode().endswith(tuple(ending.split()))
