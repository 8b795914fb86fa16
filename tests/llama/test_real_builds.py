"""The shipped patch, proven on the code of llama.cpp: verdicts, builds, and the gate.

The first run compiles for minutes; what it makes is kept where `tests/conftest.py`
keeps the rest, and the patched build shares all but the files that the patch touches.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from deployer.artefacts.store import Store
from deployer.gates.harness.client import Target as Server
from deployer.llama.build.compile import Settings, build_from_source
from deployer.llama.build.trees import SourceRequest, Surroundings, pin_tree
from deployer.llama.patches import Patch, load_patch
from deployer.planning.events import Outcome, Verdict
from deployer.planning.facts import Pin
from deployer.planning.progress import unwatched
from deployer.planning.resources import digest
from deployer.runtime.compile import SERVER
from tests.gates.checking import run_one
from tests.gates.real_server import KEY, serving
from tests.gguf.allocating import compared

pytestmark = [pytest.mark.network, pytest.mark.real]

NAME = "gemma4-thinking-tags"
VERDICTS: Mapping[str, str] = {
    "b8646": "not-applicable",
    "b8662": "not-applicable",
    "b8672": "apply",
    "b8722": "apply",
    "b8746": "upstream",
    "b9763": "upstream",
    "b10867": "upstream",
}


@pytest.fixture(scope="module")
def patch() -> Patch:
    return load_patch(Path(__file__).parents[2] / "patches" / NAME)


@dataclass(frozen=True)
class Home:
    """A store that lasts, and building into it."""

    store: Store

    @property
    def around(self) -> Surroundings:
        return Surroundings(self.store.downloads, os.environ, unwatched)

    def server(self, pin: Pin, patches: tuple[Patch, ...]) -> Path:
        settings = Settings(cuda=None, architectures=(), cmake=(), system="Linux")

        def fill(into: Path) -> Mapping[str, int]:
            work = self.store.home / "work"
            done = build_from_source(
                pin,
                settings,
                patches,
                into,
                work=work,
                around=self.around,
                say=print,
            )
            return {"files": done.files}

        entry = self.store.publish(
            "build",
            digest(dict(pin.identity)),
            fill,
            now=lambda: datetime.now(tz=UTC),
            say=print,
        )
        return entry.path(SERVER)


@pytest.fixture(scope="module")
def home(test_cache: Path) -> Home:
    return Home(Store(test_cache / "builds"))


@pytest.mark.parametrize(("tag", "outcome"), VERDICTS.items())
def test_the_verdict_over_the_history(
    home: Home, patch: Patch, tag: str, outcome: str
) -> None:
    pin = pin_tree(SourceRequest("pypi", tag), (patch,), home.around)
    assert pin.about["patches"] == {NAME: outcome}


def judged(server: Path, model: Path) -> Verdict:
    with serving(server, model, "--ctx-size", "2048", "--parallel", "1") as url:
        return run_one(
            "thinking_budget",
            Server(url, api_key=KEY, api_key_name="KEY"),
            tokens=(0, 64),
        )


def test_unpatched_the_gate_fails(home: Home, tiny_model: Path) -> None:
    pin = pin_tree(SourceRequest("pypi", "b8672"), (), home.around)
    verdict = judged(home.server(pin, ()), tiny_model)
    assert verdict.outcome is Outcome.FAIL, verdict


def test_patched_the_gate_passes(home: Home, patch: Patch, tiny_model: Path) -> None:
    pin = pin_tree(SourceRequest("pypi", "b8672"), (patch,), home.around)
    verdict = judged(home.server(pin, (patch,)), tiny_model)
    assert verdict.outcome is Outcome.PASS, verdict


def test_the_patch_alone_recompiles_what_it_touches(home: Home, patch: Patch) -> None:
    bare = pin_tree(SourceRequest("pypi", "b8672"), (), home.around)
    home.server(bare, ())
    patched = pin_tree(SourceRequest("pypi", "b8672"), (patch,), home.around)
    home.server(patched, (patch,))
    entry = home.store.find("build", digest(dict(patched.identity)))
    assert entry is not None
    assert entry.about["files"] in range(1, 4)


@pytest.mark.parametrize("options", ["", "-ub 256", "-np 2 -ub 1024"])
def test_memory_is_predicted_for_b8672_too(
    home: Home, real_model: Path, options: str
) -> None:
    """It reserves logits for every token of a batch, twenty times what b10434 takes."""
    pin = pin_tree(SourceRequest("pypi", "b8672"), (), home.around)
    server = home.server(pin, ())
    compared(server, real_model, options, above=1.02, build=8672)
