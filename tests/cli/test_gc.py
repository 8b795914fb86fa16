"""What `store gc` and `destroy` remove, and what they must never remove."""

import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from deployer.artefacts.store import Entry, Store
from deployer.planning.resources import Kind
from deployer.planning.state import Record, Release, State
from deployer.stack.fields.values import JsonValue
from deployer.state.files import FileStateStore
from deployer.state.places import StatePlace
from deployer.usecases.context.gc_roots import register
from deployer.usecases.context.settings import settings_of
from tests.cli.project import Project

pytestmark = pytest.mark.trust
DEMO = "stacks/demo.yaml"
USED, FREE = "a" * 32, "b" * 32
WAITS = "import sys; print(flush=True); sys.stdin.read()"


def publish(project: Project, key: str) -> Entry:
    """An artefact in the store of a project: a program that waits."""

    def fill(folder: Path) -> Mapping[str, JsonValue]:
        shutil.copy(Path(sys.executable).resolve(), folder / "program")
        return {"name": "program"}

    store = Store(project.home)
    return store.publish(
        "build", key, fill, now=lambda: datetime.now(UTC), say=lambda _: None
    )


def place_of(folder: Path) -> StatePlace:
    return StatePlace("file", str(folder / ".deployer" / "state"))


def remember(project: Project, folder: Path, stack: str, *keys: str) -> Path:
    """A stack with builds of these keys, the first live and the others retained."""
    records = {
        key: Record(f"{stack}/build", Kind.BUILD, key, {}, {}, {}) for key in keys
    }
    live = {f"{stack}/build": records[keys[0]]}
    releases = tuple(
        Release(number, "2026-11-01T12:00:00+00:00", "apply", {f"{stack}/build": it})
        for number, it in enumerate(records.values(), 1)
    )
    state = State(stack, "local", lineage="f00d", live=live, releases=releases)
    register(settings_of({"DEPLOYER_HOME": str(project.home)}), place_of(folder), stack)
    store = FileStateStore(Path(place_of(folder).where), stack)
    store.write(replace(state, serial=1, released=len(keys)), expect=0)
    return store.path


def kept(project: Project) -> set[str]:
    return {entry.key for entry in Store(project.home).entries()}


@contextmanager
def held(
    *argv: str, cwd: Path | None = None, opened: Path | None = None
) -> Iterator[int]:
    """A living process, that ends with the block."""
    with ExitStack() as opening:
        files = [] if opened is None else [opening.enter_context(opened.open("rb"))]
        process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=cwd,
            pass_fds=[file.fileno() for file in files],
            env={"PYTHONHOME": sys.base_prefix},
        )
    with process:  # the only one that has the file open by now
        try:
            assert process.stdout is not None
            process.stdout.readline()
            yield process.pid
        finally:
            process.kill()


@pytest.mark.parametrize("how", ["program", "folder", "open", "named"])
def test_what_a_living_process_holds_stays(paper: Project, how: str) -> None:
    entry = publish(paper, FREE)
    program = entry.path("program")
    python = (sys.executable, "-c", WAITS)
    words = {
        "program": (str(program), "-c", WAITS),
        "named": (*python, f"--model={program}"),
    }
    with held(
        *words.get(how, python),
        cwd=entry.folder if how == "folder" else None,
        opened=program if how == "open" else None,
    ) as pid:
        done = paper.run("store", "gc", "--yes")
        listed = paper.run("store", "ls")
    after = paper.run("store", "gc", "--yes")

    assert (done.code, done.out) == (0, "removed 0 artefacts, 0 B, 0 run folders\n")
    assert f"used by pid {pid}\n" in listed.out
    assert after.out.endswith(
        "removed 1 artefact, " + after.out.split("artefact, ")[-1]
    )
    assert kept(paper) == set()


def damaged(state: Path) -> None:
    state.write_text("{")


def away(state: Path) -> None:
    shutil.move(state.parents[2], state.parents[3] / "unmounted")


def absent(state: Path) -> None:
    shutil.rmtree(state.parents[1])


def newer(state: Path) -> None:
    content = json.loads(state.read_text())
    state.write_text(json.dumps(content | {"version": 99}))


def a_folder(state: Path) -> None:
    state.unlink()
    state.mkdir()


@pytest.mark.parametrize("harm", [damaged, away, absent, newer, a_folder])
def test_what_a_state_that_cannot_be_read_needs_is_unknown(
    paper: Project, tmp_path: Path, harm: Callable[[Path], None]
) -> None:
    for key in (USED, FREE):
        publish(paper, key)
    other = tmp_path / "other"
    harm(remember(paper, other, "far", USED))
    done = paper.run("store", "gc", "--yes")
    listed = paper.run("store", "ls")

    assert done.code == 1
    assert done.err.startswith("error: 1 state cannot be read, so what is needed is")
    where = place_of(other).where
    assert f"`far` in `{where}`: " in done.err
    assert f"`deployer store gc --forget {where}`" in done.err
    assert kept(paper) == {USED, FREE}
    assert listed.code == 0
    assert f"warning: what `far` in `{where}` needs is unknown: " in listed.err


def test_a_bucket_without_credentials_keeps_everything(paper: Project) -> None:
    publish(paper, FREE)
    settings = settings_of({"DEPLOYER_HOME": str(paper.home)})
    far = StatePlace("s3", "team/states", {"endpoint": "https://127.0.0.1:9"})
    register(settings, far, "far")
    done = paper.run("store", "gc", "--yes")

    assert done.code == 1
    assert "`far` in `s3://team/states?endpoint=https://127.0.0.1:9`: " in done.err
    assert kept(paper) == {FREE}


def test_a_root_that_names_nothing_keeps_everything(paper: Project) -> None:
    publish(paper, FREE)
    root = paper.home / "roots" / "0123.json"
    root.parent.mkdir()
    root.write_text("[]")
    done = paper.run("store", "gc", "--yes")
    forgotten = paper.run("store", "gc", "--forget", str(root), "--yes")

    assert done.code == 1
    assert f"`{root}`: it does not name a state" in done.err
    assert forgotten.code == 0
    assert kept(paper) == set()


def test_only_what_cannot_be_read_is_forgotten(paper: Project, tmp_path: Path) -> None:
    for key in (USED, FREE):
        publish(paper, key)
    remember(paper, tmp_path / "near", "near", USED)
    refused = paper.run("store", "gc", "--forget", str(tmp_path / "near"), "--yes")
    away(remember(paper, tmp_path / "other", "far", FREE))
    done = paper.run("store", "gc", "--forget", str(tmp_path / "other"), "--yes")

    assert refused.code == 3
    assert "names no state that cannot be read" in refused.err
    assert done.code == 0, done.err
    assert f"forgotten: the state in `{place_of(tmp_path / 'other').where}`" in done.out
    assert kept(paper) == {USED}


def test_run_folders_of_no_release_go_and_others_stay(
    paper: Project, tmp_path: Path
) -> None:
    retained = "c" * 32
    remember(paper, tmp_path / "near", "near", USED, retained)
    runs = {
        key: paper.home / "run" / "near-0a1b2c" / key[:16] for key in (USED, retained)
    }
    runs |= {key: paper.home / "run" / "old-0a1b2c" / key for key in ("dead", "lives")}
    for run in runs.values():
        run.mkdir(parents=True)
        (run / "server.log").write_text("log")
        (run / "core").write_text("memory")
    with held(sys.executable, "-c", WAITS, cwd=runs["lives"]):
        done = paper.run("store", "gc", "--yes")

    assert done.out.endswith("removed 0 artefacts, 0 B, 1 run folder\n")
    assert f"logs     {runs['dead']}\n" in done.out
    assert {key for key, run in runs.items() if run.exists()} == {
        USED,
        retained,
        "lives",
    }
    paper.run("store", "gc", "--yes")
    assert not runs["lives"].parent.exists()


@pytest.mark.real
def test_destroy_leaves_no_run_folder(live: Project) -> None:
    assert list(live.home.glob("run/*/*/server.log"))
    done = live.run("destroy", DEMO, "--yes")

    assert done.code == 0, done.err
    assert list(live.home.glob("run/*")) == []
    assert "used by demo" in live.run("store", "ls").out
    assert live.run("rollback", DEMO, "1", "--yes").code == 0


@pytest.mark.real
def test_destroy_stops_a_server_though_another_state_is_gone(
    live: Project, tmp_path: Path
) -> None:
    away(remember(live, tmp_path / "other", "far", FREE))
    done = live.run("destroy", DEMO, "--artefacts", "--yes")

    assert done.code == 0, done.err
    assert live.servers() == set()
    assert "needs is unknown, so no artefact was removed" in done.out
    assert len(kept(live)) == 2


@pytest.mark.real
def test_a_server_leaves_no_core(project: Project) -> None:
    """Whatever the shell allows: of 1 byte no file is made, and no program gets it."""
    hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
    words = f"{sys.executable} -m deployer apply {DEMO} --yes"
    assert project.shell(f"ulimit -S -c $(ulimit -H -c); exec {words}").code == 0
    pid = project.server()
    assert resource.prlimit(pid, resource.RLIMIT_CORE) == (min(1, hard % 2**63), hard)
    os.kill(pid, 11)
    shown = project.run("status", DEMO)

    assert "crashed or was killed" in shown.out
    assert list(project.home.rglob("core*")) == []
