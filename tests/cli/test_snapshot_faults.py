"""Captures and restores with faults between them: never a wrong answer, nothing left.

A cycle loses its snapshot, so that an apply takes a new one; a fault strikes during the
capture, between, or during the restore; the server is killed and started again.
DEPLOYER_LONG=1 runs 200 cycles.
"""

import os
import random
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tests.cli.clients import chat
from tests.cli.conftest import MakeProject
from tests.cli.frozen import ANSWER, DEMO, Frozen, frozen, processes_below
from tests.cli.project import KEY

pytestmark = [pytest.mark.real, pytest.mark.criu]

LONG = bool(os.environ.get("DEPLOYER_LONG"))
CYCLES = 200 if LONG else 5
SEED = int(os.environ.get("DEPLOYER_SEED", "0")) if LONG else 7
MEGABYTE = 1 << 20

Fault = Callable[[Frozen, random.Random], Mapping[str, str] | None]
"""Does its damage, or names the CRIU that the capture or the restore is done with."""


def test_no_fault_leads_to_a_wrong_answer_or_leaves_anything(
    make_project: MakeProject, criu: Path, tmp_path: Path
) -> None:
    chance = random.Random(SEED)  # noqa: S311 - not for secrets
    with frozen(make_project(tmp_path / "project"), criu) as made:
        seen = set[str]()
        for number in range(CYCLES):
            capture, between, restore = (
                chance.choice(list(faults)) for faults in (CAPTURES, DAMAGES, RESTORES)
            )
            how = cycle(made, chance, capture, between, restore)
            told = f"{number:3} {capture} · {between} · {restore}: {how}"
            if LONG:
                print(told, flush=True)  # noqa: T201 - the record of the long run
            assert chat(made.project.port, KEY) == ANSWER, told
            assert len(made.project.servers() - keepers(made)) == 1, told
            seen |= namespaces(made.home)
        assert made.run("destroy", DEMO, "--yes").code == 0
        # Without a process, only a mount could keep a namespace alive.
        assert made.pids() == []
        assert not seen & mounted_namespaces()


def cycle(
    made: Frozen, chance: random.Random, capture: str, between: str, restore: str
) -> str:
    """One capture and one restore; says how the server came up."""
    for _ in range(3):
        lose(made.image())
        found = CAPTURES[capture](made, chance)
        done = made.run("apply", DEMO, "--yes", env=found)
        if done.code == 0:
            break
        assert done.code == 1, done.out + done.err
        assert "could not be frozen" in done.err, done.err
        capture = "nothing"
    assert done.code == 0, done.out + done.err
    made.kill()
    DAMAGES[between](made, chance)
    done = made.run("start", DEMO, env=RESTORES[restore](made, chance))
    assert done.code == 0, done.out + done.err
    (how,) = [line for line in done.out.splitlines() if "demo/server" in line][:1]
    if restore != "nothing" and not made.pids():
        # The kill came once all was restored: CRIU keeps the server, so it went along.
        assert "restored from its snapshot" in how, how
        assert made.run("start", DEMO).code == 0
    if between in HARMLESS and restore == "nothing":
        assert "restored from its snapshot" in how, how
    return how.strip()


def lose(image: Path) -> None:
    if image.exists():
        manifest = image / "manifest.json"
        manifest.chmod(0o600)
        manifest.unlink()


def nothing(_made: Frozen, _chance: random.Random) -> None:
    """No fault: what is asked for has to work."""


def truncate(made: Frozen, chance: random.Random) -> None:
    pages = made.file("pages-1.img")
    os.truncate(pages, chance.randrange(pages.stat().st_size))


def overwrite(made: Frozen, chance: random.Random) -> None:
    pages = made.file("pages-1.img")
    with pages.open("r+b") as stream:
        stream.seek(chance.randrange(pages.stat().st_size - MEGABYTE))
        stream.write(chance.randbytes(MEGABYTE))


def drop(made: Frozen, chance: random.Random) -> None:
    chance.choice(sorted(made.image().glob("*.img"))).unlink()


def lose_logs(made: Frozen, _chance: random.Random) -> None:
    for log in made.home.glob("run/*/*/server.log"):
        log.unlink()


def touch_model(made: Frozen, _chance: random.Random) -> None:
    os.utime(made.project.stack.with_name("tiny.gguf"))


def killed(made: Frozen, what: str, seconds: float) -> Mapping[str, str]:
    script = (
        f'[ "$1" = {what} ] && exec timeout -s KILL {seconds:.3f} "$CRIU" "$@"\n'
        'exec "$CRIU" "$@"'
    )
    return {"DEPLOYER_CRIU": made.wrapper(f"dies-in-{what}", script)}


def no_room(made: Frozen, chance: random.Random) -> Mapping[str, str]:
    blocks = chance.randrange(1, 4096)
    script = f'[ "$1" = dump ] && ulimit -f {blocks}\nexec "$CRIU" "$@"'
    return {"DEPLOYER_CRIU": made.wrapper("no-room", script)}


CAPTURES: Mapping[str, Fault] = {
    "nothing": nothing,
    "killed while capturing": lambda made, chance: killed(
        made, "dump", chance.uniform(0.001, 0.08)
    ),
    "disk full while capturing": no_room,
}
DAMAGES: Mapping[str, Fault] = {
    "nothing": nothing,
    "truncated": truncate,
    "a megabyte overwritten": overwrite,
    "a file gone": drop,
    "logs gone": lose_logs,
    "model touched": touch_model,
}
HARMLESS = {"nothing", "logs gone", "model touched"}
RESTORES: Mapping[str, Fault] = {
    "nothing": nothing,
    "killed while restoring": lambda made, chance: killed(
        made, "restore", chance.uniform(0.001, 0.08)
    ),
}


def keepers(made: Frozen) -> set[int]:
    """Processes above a server, that were started with it."""
    pids = set[int]()
    for process in processes_below(made.home):
        if process.children():
            pids.add(process.pid)
    return pids


def namespaces(home: Path) -> set[str]:
    """The namespaces of the processes below a home that are not ours, too."""
    found = {name for p in processes_below(home) for name in _namespaces(p.pid)}
    return found - set(_namespaces(os.getpid()))


def mounted_namespaces() -> set[str]:
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    return {line.split()[3] for line in mounts if " - nsfs " in line}


def _namespaces(pid: int) -> list[str]:
    folder = Path(f"/proc/{pid}/ns")
    try:
        return [str((folder / kind).readlink()) for kind in ("pid", "mnt", "time")]
    except OSError:
        return []
