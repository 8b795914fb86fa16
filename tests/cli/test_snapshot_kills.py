"""Kills while a server is captured and restored, and images that are damaged.

A kill strikes deployer at any call of the engine, criu, or a process between, during an
apply that captures or a start that restores.  Then: none that was not proven counts
as healthy, the next command ends with one server that answers right, an image that was
whole is still there, and no process or mount of the run is left.
DEPLOYER_LONG=1 runs 100 kills and 100 damages, and prints the table.
"""

import os
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.cli.clients import chat
from tests.cli.conftest import MakeProject
from tests.cli.frozen import ANSWER, DEMO, Frozen, frozen, processes_below
from tests.cli.project import KEY
from tests.cli.test_snapshot_faults import (
    keepers,
    killed,
    lose,
    mounted_namespaces,
    namespaces,
)
from tests.cli.test_snapshot_proof import forge

pytestmark = [pytest.mark.real, pytest.mark.criu]

LONG = bool(os.environ.get("DEPLOYER_LONG"))
KILLS = 100 if LONG else 5
DAMAGES = 100 if LONG else 5
SEED = int(os.environ.get("DEPLOYER_SEED", "0")) if LONG else 3
SECTOR = 64 << 10

Kill = Callable[[Frozen, random.Random, Mapping[str, int]], None]


@pytest.fixture
def made(make_project: MakeProject, criu: Path, tmp_path: Path) -> Iterator[Frozen]:
    with frozen(make_project(tmp_path / "project"), criu) as project:
        yield project


def test_no_kill_leaves_an_unproven_server_or_costs_a_whole_image(made: Frozen) -> None:
    chance = random.Random(SEED)  # noqa: S311 - not for secrets
    calls = lengths(made)
    struck, seen = Counter[str](), set[str]()
    for number in range(KILLS):
        how = chance.choice(list(STRIKES))
        during = "capture" if "capture" in how else "restore"
        whole = digest(made.image()) if during == "restore" else None
        STRIKES[how](made, chance, calls)
        seen |= namespaces(made.home)
        told = f"{number} {how}"
        unproven = made.unproven()
        status = made.run("status", DEMO)
        if unproven:
            assert "✔ healthy" not in status.out, f"{told}: {status.out}"
        words = chance.choice((("start", DEMO), ("apply", DEMO, "--yes")))
        if during == "capture":
            words = ("apply", DEMO, "--yes")
        done = made.run(*words)
        assert done.code == 0, f"{told}: {words}: {done.out}{done.err}"
        assert chat(made.project.port, KEY) == ANSWER, told
        assert made.unproven() == [], told
        assert len(servers(made)) == 1, told
        if whole is not None:
            assert digest(made.image()) == whole, f"{told}: a whole image was lost"
        struck[how] += 1
    finish(made, seen)
    table("kills", struck)


def test_no_damage_reaches_a_client(made: Frozen) -> None:
    chance = random.Random(SEED)  # noqa: S311 - not for secrets
    struck = Counter[str]()
    for number in range(DAMAGES):
        how = chance.choice(list(HARMS))
        policy = chance.choice(POLICIES[how])
        with made.kept():
            made.kill()
            file = chance.choice(sorted(made.image().glob("*.img")))
            harm(made, chance, how, file)
            variables = {"DEPLOYER_VERIFY_IMAGES": policy}
            done = made.run("start", DEMO, env=variables)
            told = f"{number} {how} in {file.name}, {policy}: {done.out}{done.err}"
            assert done.code == 0, told
            answers = {chat(made.project.port, KEY) for _ in range(3)}
            assert answers == {ANSWER}, told
            came = "restored" if "restored from its snapshot" in done.out else "cold"
        struck[f"{how}, {policy}: {came}"] += 1
    finish(made, set())
    table("damaged images", struck)


def lengths(made: Frozen) -> Mapping[str, int]:
    """How many calls a capture and a restore are, undisturbed."""
    lose(made.image())
    capture = made.calls("apply", DEMO, "--yes")
    made.kill()
    return {"capture": capture, "restore": made.calls("start", DEMO)}


def deployer_in_capture(
    made: Frozen, chance: random.Random, calls: Mapping[str, int]
) -> None:
    lose(made.image())
    made.may_die(chance.randrange(1, calls["capture"]), "apply", DEMO, "--yes")


def deployer_in_restore(
    made: Frozen, chance: random.Random, calls: Mapping[str, int]
) -> None:
    made.kill()
    made.may_die(chance.randrange(1, calls["restore"]), "start", DEMO)


def criu_in_capture(
    made: Frozen, chance: random.Random, _calls: Mapping[str, int]
) -> None:
    lose(made.image())
    made.run("apply", DEMO, "--yes", env=killed(made, "dump", chance.uniform(0, 0.08)))


def criu_in_restore(
    made: Frozen, chance: random.Random, _calls: Mapping[str, int]
) -> None:
    made.kill()
    made.run("start", DEMO, env=killed(made, "restore", chance.uniform(0, 0.08)))


def between_in_restore(
    made: Frozen, chance: random.Random, calls: Mapping[str, int]
) -> None:
    """Deployer first, then one of the processes that it left."""
    deployer_in_restore(made, chance, calls)
    if left := list(processes_below(made.home)):
        with suppress(psutil.NoSuchProcess):
            chance.choice(left).kill()


STRIKES: Mapping[str, Kill] = {
    "deployer in a capture": deployer_in_capture,
    "deployer in a restore": deployer_in_restore,
    "criu in a capture": criu_in_capture,
    "criu in a restore": criu_in_restore,
    "deployer in a restore, then a process between": between_in_restore,
}


def harm(made: Frozen, chance: random.Random, how: str, file: Path) -> None:
    """Damage a file of the image; times are put back, and with `unseen` the stamps."""
    made.file(file.name)
    before, size = file.stat(), file.stat().st_size
    with file.open("r+b") as stream:
        if how.startswith("cut"):
            stream.truncate(chance.randrange(size))
        elif how.startswith("a sector"):
            at = chance.randrange(max(1, size - SECTOR))
            stream.seek(at)
            stream.write(bytes(min(SECTOR, size - at)))
        else:
            at = chance.randrange(size)
            stream.seek(at)
            byte = stream.read(1)[0]
            stream.seek(at)
            stream.write(bytes([byte ^ (1 << chance.randrange(8))]))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    if "unseen" in how:
        forge(made.image(), file)


HARMS = (
    *("cut", "a sector zeroed", "a bit flipped"),
    *("a sector zeroed, unseen", "a bit flipped, unseen"),
)
POLICIES: Mapping[str, tuple[str, ...]] = {
    how: ("always", "after-boot") if "unseen" in how else ("after-boot", "never")
    for how in HARMS
}
"""What no stamp shows is found where the bytes are read."""


def digest(image: Path) -> Mapping[str, tuple[int, int]]:
    """Size and time of each file of an image."""
    files = ((it.name, it.stat()) for it in image.glob("*.img"))
    return {name: (status.st_size, status.st_mtime_ns) for name, status in files}


def servers(made: Frozen) -> set[int]:
    return made.project.servers() - keepers(made)


def finish(made: Frozen, seen: set[str]) -> None:
    """Nothing of the run is left: no process, and no mount that keeps a namespace."""
    assert made.run("destroy", DEMO, "--yes").code == 0
    assert made.pids() == []
    assert not seen & mounted_namespaces()


def table(title: str, counts: Mapping[str, int]) -> None:
    if LONG:
        rows = [f"| {how} | {counts[how]} |" for how in sorted(counts)]
        total = sum(counts.values())
        print("\n".join((f"\n| {title} | |", "|---|---|", *rows, f"| all | {total} |")))  # noqa: T201 - the record of the long run
