"""Restores are counted by the order of log entries and by container, and judged.

`python -m tests.modal.test_drills 50` runs so many whole releases of each kind.
"""

import json
import random
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest

from deployer.engines.modal.drive import SYSTEM, Account, Line
from deployer.engines.modal.wait import RESTORED, Target, proven, seen
from deployer.errors import GateError
from deployer.gates.harness.client import Target as Looked
from deployer.planning.events import Outcome, Verdict
from deployer.planning.state import Record
from deployer.runtime.serve import READY, Ready
from deployer.stack.fields.gate_options import Restore
from deployer.usecases.check import restorable
from tests.gates.drills import judged
from tests.modal.emulated import Emulated
from tests.modal.project import Project
from tests.modal.stories import Stack, platform

KEY = "0123456789abcdef"
_CAPTURING = "Creating GPU memory snapshot for Function."
_LATE = 30.0
_AHEAD = (-600.0, 0.0, 600.0)
_RATES = (0.6, 0.02)
"""Shares of restores that fail: of modal-client#4132, and of a sound platform."""
OPTIONS = Restore(times=20, success=0.75, within="60s")


@dataclass(frozen=True)
class _Log:
    """The log of an app as far as it has arrived: late, and not in order."""

    lines: Sequence[tuple[float, Line]]
    """Each with the time at which readers see it, by their own clock."""
    now: float

    def since(self, at: datetime, *, text: str = "") -> list[Line]:
        return [
            line
            for seen_at, line in self.lines
            if seen_at <= self.now and line.at >= at and text in line.text
        ]


@dataclass(frozen=True)
class _Account:
    found: _Log

    def log(self, _app: str) -> _Log:
        return self.found


def _told_by(
    kinds: Sequence[str], ahead: float, seed: int, failures: list[int]
) -> list[Any]:
    """What a reader makes of starts that go so, one after the other."""
    chance = random.Random(seed)  # noqa: S311 - to be repeated
    begun = datetime(2026, 11, 29, 12, tzinfo=UTC)
    lines: list[tuple[float, Line]] = []
    now, told = 0.0, list[Any]()
    target = Target("app", "", KEY, begun + timedelta(seconds=ahead), restores=True)

    def write(task: str, text: str, source: str = SYSTEM) -> None:
        at = begun + timedelta(seconds=now + ahead)
        arrives = now + chance.uniform(_LATE / 2, _LATE)
        lines.append((arrives, Line(at, text, source, (task,))))

    def start(kind: str) -> None:
        task = f"ta-{sum(line.source == SYSTEM for _, line in lines)}"
        if kind == "cold":
            task = "ta-cold"
        else:
            write(task, _CAPTURING if "capture" in kind else RESTORED)
        if kind in ("crash", "broken capture"):
            write(task, "Runner failed with exit code: 139", "stderr")
            return
        said = Ready(KEY, "", task, restored=kind == "restore")
        write(task, f"{READY}{json.dumps(asdict(said))}", "stdout")

    for kind in kinds:
        known = seen(cast("Account", _Account(_Log(lines, now))), target)
        for one in kind.split(", then "):
            now += 5
            start(one)
        for _ in range(90):
            now += 1
            found = proven(cast("Account", _Account(_Log(lines, now))), known)
            if found is not None and found.settled:
                break
        assert found is not None
        told.append((found.ready.task, found.ready.restored, found.captured))
        failures.append(found.failed)
    return told


@pytest.mark.parametrize("ahead", _AHEAD)
@pytest.mark.parametrize("seed", range(20))
def test_each_start_is_told_by_its_container(ahead: float, seed: int) -> None:
    """With logs 30 s late, and clocks that differ by ten minutes."""
    kinds = ["capture", "restore", "restore", "capture"]
    kinds += ["crash, then restore", "restore"]
    failures: list[int] = []
    told = _told_by(kinds, ahead, seed, failures)
    assert sum(failures) == 1, "counted once, if only at the next start"
    assert told == [
        ("ta-0", False, True),
        ("ta-1", True, False),
        ("ta-2", True, False),
        ("ta-3", False, True),
        ("ta-5", True, False),
        ("ta-6", True, False),
    ]


def test_a_snapshot_that_does_not_come_up_after_its_capture_is_a_failed_restore() -> (
    None
):
    failures: list[int] = []
    _told_by(["broken capture, then cold", "restore"], 0, 1, failures)
    assert sum(failures) == 1


@dataclass
class Judged(Stack):
    """A stack whose one gate is `restore`, with the answers left out."""

    options: Restore = OPTIONS
    because: str = ""

    def _judge(
        self, record: Record, gates: object, *, candidate: bool
    ) -> tuple[Verdict, ...]:
        del gates
        if not candidate:
            return (Verdict("health", Outcome.PASS, ""),)
        assert self.engine is not None
        with restorable(
            Looked("http://127.0.0.1:1"),
            self.engine,
            record,
            lambda _: {},
            lambda _: None,
            candidate=candidate,
        ) as target:
            assert target.bring_back is not None
            found = judged(self.options, target.bring_back)
        self.because = found.because
        return (Verdict("health", found.outcome, found.because),)


def _promoted(
    cloud: Emulated, folder: Path, seed: int, failing: float, options: Restore = OPTIONS
) -> Judged:
    """A release whose restores fail so often, on an emulated platform."""
    stack = Judged(
        f"d{seed}-{failing:g}".replace(".", "-"), cloud, folder, options=options
    )
    cloud.faults(
        seed=seed,
        workers=1 + seed % 2,
        log_seconds=0.2,
        clock_ahead=random.Random(seed).uniform(-600, 600),  # noqa: S311 - repeated
        restore_failure=failing,
        restore_kind="any",
    )
    graph = stack.graph(1024)
    stack.place_artefacts(graph)
    with suppress(GateError):
        stack.run(graph)
    return stack


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulated]:
    with platform(tmp_path_factory.mktemp("drills")) as made:
        yield made


@pytest.mark.parametrize("seed", range(2))
def test_a_release_whose_restores_fail_is_not_promoted(
    quick: Emulated, tmp_path: Path, seed: int
) -> None:
    """60 % of them: modal-client#4132."""
    stack = _promoted(quick, tmp_path, seed, 0.6)
    assert stack.live is None
    assert "1 of 20 may fail" in stack.because


def test_a_release_whose_restores_hold_is_promoted(
    quick: Emulated, tmp_path: Path
) -> None:
    few = Restore(times=5, success=0.5)
    stack = _promoted(quick, tmp_path, 1, 0.0, few)
    assert stack.live is not None, stack.because
    assert "5 of 5 restores succeeded, at least 55%" in stack.because


def test_a_watch_drills_the_snapshot_of_production(live: Project) -> None:
    """Its own, and not one of a copy; restores that fail are a breach."""
    live.change("scaledown_window: 2m", "scaledown_window: 2s")
    live.apply()
    apps = {it["name"] for it in live.cloud.seen()["apps"] if it["containers"]}
    assert apps <= {"tiny"}
    words = ("watch", "stacks/tiny.yaml", "--idle", "1s")
    done = live.run(*words)
    assert done.code == 0, done.out + done.err
    assert "· restored from its snapshot in " in done.out
    assert "✔ 1 of the last 1 restores of production succeeded" in done.out
    live.cloud.faults(restore_failure=1.0)
    done = live.run(*words, "--json")
    assert done.code == 6
    told = [line for line in done.lines() if line["type"] == "restores"]
    assert told == [{"type": "restores", "good": 0, "runs": 1, "breach": True}]


def main(count: int) -> None:
    """Run so many releases of each kind, and print what became of them."""
    with tempfile.TemporaryDirectory() as folder, platform(Path(folder)) as made:
        for failing in _RATES:
            stacks = [
                _promoted(made, Path(folder), seed, failing) for seed in range(count)
            ]
            promoted = sum(it.live is not None for it in stacks)
            print(f"{failing:.0%} fail: {promoted} of {count} promoted", flush=True)  # noqa: T201 - a program
            for it in stacks:
                print("   ", it.name, it.because, flush=True)  # noqa: T201 - a program


if __name__ == "__main__":
    main(int(sys.argv[1]))
