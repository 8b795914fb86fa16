"""Histories that lose, age and mix up the state of a stack between its applies.

After each apply the release that state and output call live is the one that 100 of 100
new connections reach, and the only one that runs; after a destroy nothing runs.
DEPLOYER_LONG=1 lives through 200 histories, 20 a seed; -s shows a table for each.
"""

import json
import os
import random
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from deployer.cli.main import main
from deployer.engines.local.ports import listeners
from tests.cli.project import Project
from tests.cli.test_lost_states import DEMO, reached, small_project, write
from tests.ports import quiet_port

pytestmark = pytest.mark.trust

LONG = bool(os.environ.get("DEPLOYER_LONG"))
HISTORIES = 20
SEEDS = range(10) if LONG else (7,)
SIZES = (512, 1024, 2048)
CONNECTIONS = 100


@dataclass
class Tally:
    """What came of the applies and destroys after one kind of mishap."""

    applies: int = 0
    destroys: int = 0
    connections: int = 0
    wrong: int = 0
    failed: int = 0
    left: int = 0


@dataclass
class Life:
    """A stack, and what happens to it."""

    project: Project
    neighbour: Project
    """Lives in another folder, has the same name, and its states get mixed up."""
    chance: random.Random
    states: list[bytes] = field(default_factory=list)
    """Every version of the state that was ever seen, of any lineage."""
    size: int = 1024

    def run(self, *words: str, project: Project | None = None) -> tuple[int, str]:
        it = project or self.project
        os.chdir(it.folder)
        done = CliRunner().invoke(main, words, env=it.environment({}))
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            return 70, f"{done.output}{done.exception!r}"
        return done.exit_code, done.output

    def wish(self) -> None:
        self.size = self.chance.choice(SIZES)
        write(self.project, self.size)

    def remember(self) -> None:
        folder = self.project.state.parent
        for file in sorted(folder.glob("**/*.json")):
            if (text := file.read_bytes()) not in self.states:
                self.states.append(text)

    def kill_deployer(self, words: tuple[str, ...]) -> None:
        """Run a command, and end it somewhere on its way without a warning."""
        with self.project.running(*words) as process:
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=self.chance.uniform(0.2, 1.6))
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
        self.remember()


def nothing(_life: Life) -> None:
    """No mishap: what is asked for has to work."""


def lose(life: Life) -> None:
    """As `git clean -xdf` does."""
    shutil.rmtree(life.project.stack.parent / ".deployer", ignore_errors=True)


def age(life: Life) -> None:
    """A version of any earlier moment is put back, also one of the midst of a run."""
    life.project.state.parent.mkdir(parents=True, exist_ok=True)
    life.project.state.write_bytes(life.chance.choice(life.states))


def mix_up(life: Life) -> None:
    """The state of a stack of this name in another folder."""
    life.project.state.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(life.neighbour.state, life.project.state)


def move(life: Life) -> None:
    """Another port in the stack."""
    life.project = replace(life.project, port=quiet_port())


def kill_apply(life: Life) -> None:
    life.wish()
    life.kill_deployer(("apply", DEMO, "--yes"))


def kill_apply_and_lose(life: Life) -> None:
    kill_apply(life)
    lose(life)


def kill_apply_and_age(life: Life) -> None:
    kill_apply(life)
    age(life)


def move_and_lose(life: Life) -> None:
    move(life)
    lose(life)


def kill_server(life: Life) -> None:
    for pid in life.project.servers():
        os.kill(pid, signal.SIGKILL)


def lose_records(life: Life) -> None:
    """The state is gone, and so is all that the servers left in their run folders."""
    lose(life)
    shutil.rmtree(life.project.home / "run", ignore_errors=True)


def start_and_age(life: Life) -> None:
    """Stopped, started, and the state put back."""
    life.run("stop", DEMO)
    age(life)
    life.run("start", DEMO)


MISHAPS: Mapping[str, Callable[[Life], None]] = {
    "nothing": nothing,
    "state removed": lose,
    "older state put back": age,
    "state of another folder": mix_up,
    "port edited": move,
    "port edited, state removed": move_and_lose,
    "apply killed": kill_apply,
    "apply killed, state removed": kill_apply_and_lose,
    "apply killed, older state": kill_apply_and_age,
    "server killed": kill_server,
    "state and run folder removed": lose_records,
    "stopped, older state, started": start_and_age,
}


@pytest.mark.parametrize("seed", SEEDS)
def test_what_state_and_output_call_live_is_what_clients_reach(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tallies = {name: Tally() for name in MISHAPS}
    troubles = []
    neighbour = small_project(tmp_path / "neighbour", tmp_path / "other-programs")
    try:
        chance = random.Random(seed)  # noqa: S311 - not for secrets
        first = Life(neighbour, neighbour, chance)
        assert first.run("apply", DEMO, "--yes")[0] == 0
        before = neighbour.servers()
        for number in range(HISTORIES):
            folder = tmp_path / str(number)
            life = Life(small_project(folder, tmp_path / "programs"), neighbour, chance)
            try:
                troubles += [f"history {number}: {it}" for it in lived(life, tallies)]
            finally:
                life.project.end()
        assert neighbour.servers() == before
    finally:
        neighbour.end()
    print(f"\n{table(tallies)}")  # noqa: T201 - the record of the long run
    assert not troubles, "\n".join(troubles)


def lived(life: Life, tallies: Mapping[str, Tally]) -> Iterator[str]:
    """One history; every way in which it is not as it should be."""
    code, out = life.run("apply", DEMO, "--yes")
    assert code == 0, out
    life.remember()
    told = []
    for _ in range(life.chance.randint(2, 4) if LONG else 2):
        mishap = life.chance.choice(list(MISHAPS))
        told.append(mishap)
        tally = tallies[mishap]
        MISHAPS[mishap](life)
        life.wish()
        tally.applies += 1
        code, out = life.run("apply", DEMO, "--yes")
        if code != 0:
            tally.failed += 1
            yield f"{told}: exit {code}: {out}"
            return
        life.remember()
        tally.connections += CONNECTIONS
        yield from wrong(life, out, told, tally)
    mishap = life.chance.choice(list(MISHAPS))
    told.append(mishap)
    MISHAPS[mishap](life)
    tally = tallies[mishap]
    tally.destroys += 1
    ran = life.project.servers()
    code, out = life.run("destroy", DEMO, "--yes")
    # Without a state and without a server there is nothing to destroy.
    if code not in ((0,) if ran else (0, 3)) or life.project.servers():
        tally.left += 1
        yield f"{told}: destroy exit {code}, left {life.project.servers()}: {out}"


def wrong(life: Life, out: str, told: list[str], tally: Tally) -> Iterator[str]:
    """What is not as state and output say."""
    state = json.loads(life.project.state.read_bytes())
    live = state["live"]["demo/server"]["fields"]
    servers = life.project.servers()
    found = reached(life.project, CONNECTIONS)
    right = Counter({(pid, life.size): CONNECTIONS for pid in servers})
    if len(servers) != 1 or found != right:
        tally.wrong += CONNECTIONS - max(found.get(it, 0) for it in right)
        tally.left += len(servers) - 1
        yield f"{told}: {found} reached, {servers} run: {out}"
    said = f"Release {state['released']} is live at {life.project.url}\n"
    same = f"Live at {life.project.url}\n"
    if said not in out and same not in out:
        yield f"{told}: neither `{said}` nor `{same}`: {out}"
    if live["server.ctx_size"] != life.size or live["local.port"] != life.project.port:
        yield f"{told}: the state says {live}"
    if {it.pid for it in listeners(life.project.port)} != servers:
        yield f"{told}: {listeners(life.project.port)} listen"


def table(tallies: Mapping[str, Tally]) -> str:
    names = ("applies", "connections", "wrong", "failed", "destroys", "left")
    rows: list[tuple[str, ...]] = [("between two commands", *names)]
    rows += [
        (name, *(str(getattr(tally, it)) for it in names))
        for name, tally in tallies.items()
    ]
    total = (sum(getattr(tally, it) for tally in tallies.values()) for it in names)
    rows.append((f"{HISTORIES} histories", *map(str, total)))
    return "\n".join(
        f"| {row[0]:<31} | {' | '.join(f'{it:>11}' for it in row[1:])} |"
        for row in rows
    )
