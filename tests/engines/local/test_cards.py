"""A card of this machine that servers of other stacks use."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from deployer.engines.local.engine import LocalEngine
from deployer.engines.local.server import Server
from deployer.engines.local.supervise.find import run_folder
from deployer.engines.local.supervise.process import Running
from deployer.engines.local.supervise.survivors import note, sharing
from deployer.engines.place import Keys, Place
from deployer.errors import UsageError
from deployer.planning.graph import expand, needing
from deployer.planning.plan import Fit
from deployer.planning.resources import Kind, Node
from deployer.planning.state import record_of
from deployer.testing import resolved, stack
from tests.planning.checking import LOCAL, PLAIN, but

FIRST = but(LOCAL + "gpu: L4\n", "server:\n", "server:\n  device: [CUDA0]\n")
OTHER = FIRST.replace("name: demo\n", "name: other\n")

Live = Callable[[str, int], Running]


def node_of(text: str, need: int) -> Node:
    """The server of a stack that needs so many GB of a card of 24; 0: not known."""
    read = stack(text)
    fit = Fit("L4", int(24e9), (("weights", int(need * 1e9)),)) if need else None
    graph = needing(expand(read, resolved(read), PLAIN), fit)
    return next(it for it in graph.values() if it.kind is Kind.SERVER)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    folder = tmp_path / "stacks"
    return Place(tmp_path / "home", folder, {}, Keys({}), tmp_path / "patches")


@pytest.fixture
def live(start: Callable[..., Running], place: Place) -> Live:
    """Start a server of another stack, as an apply notes it."""

    def started(text: str, need: int) -> Running:
        record = record_of(node_of(text, need), {})
        run_dir = run_folder(record, place)
        note(run_dir, record, {})
        return start(key=record.key, run_dir=run_dir, address=record.address)

    return started


def shared(place: Place, text: str, need: int) -> tuple[str, ...]:
    server = Server(record_of(node_of(text, need), {}), place)
    return tuple(sharing(server.record, server.stack_dir))


def test_a_card_that_a_live_server_fills_is_refused(
    live: Live, place: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Before anything is built: where the keys and the port are looked at."""
    driver = tmp_path / "bin" / "nvidia-smi"
    driver.parent.mkdir()
    driver.write_text("#!/bin/sh\necho NVIDIA L4\n")
    driver.chmod(0o755)
    monkeypatch.setenv("PATH", str(driver.parent), prepend=os.pathsep)
    other = live(OTHER, 16)
    with pytest.raises(UsageError) as raised:
        LocalEngine(place).preflight([node_of(FIRST, 9)])
    assert raised.value.message == (
        f"`demo/server` and `other/server (pid {other.pid})` use CUDA0, and need"
        " 25.0 GB of its 24.0 GB"
    )
    assert shared(place, FIRST, 8) == ()


def test_what_is_unknown_is_a_note(live: Live, place: Place) -> None:
    other = live(OTHER, 0)
    names = f"`demo/server` and `other/server (pid {other.pid})`"
    (said,) = shared(place, FIRST, 9)
    assert said == f"{names} use CUDA0; whether all of them fit is unknown"


@pytest.mark.parametrize(
    "text",
    [
        OTHER.replace("CUDA0", "CUDA1"),
        OTHER.replace("gpu: L4\n", "").replace("  device: [CUDA0]\n", ""),
        FIRST,
    ],
)
def test_others_do_not_count(live: Live, place: Place, text: str) -> None:
    """Those of another card, of the processor, and earlier releases of the stack."""
    live(text, 20)
    assert shared(place, FIRST, 20) == ()


def test_a_server_that_ended_holds_no_memory(place: Place) -> None:
    record = record_of(node_of(OTHER, 20), {})
    note(run_folder(record, place), record, {})
    assert shared(place, FIRST, 20) == ()
