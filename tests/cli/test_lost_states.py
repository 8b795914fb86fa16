"""A state that is lost, aged or mixed up while its servers live on.

The release that state and output call live is the one that clients reach, and the only
one that runs; after a destroy nothing of the stack runs.  The servers are small
programs, their ports and their deployer are real.
"""

import http.client
import json
import os
import shutil
import socket
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli import fake_llama
from tests.cli.project import STACK, Project, gone, read_until
from tests.gguf.files import SMALL_MODEL
from tests.ports import quiet_port

DEMO = "stacks/demo.yaml"
SMALL = STACK.replace("auth:\n  api_key: {env: LLAMA_API_KEY}\n\n", "").replace(
    "  chat: {}\n", ""
)


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Project]:
    """A project whose llama-server is a small program that keeps up appearances."""
    made = small_project(tmp_path / "project", tmp_path / "programs")
    yield made
    made.end()


def small_project(folder: Path, programs: Path) -> Project:
    programs.mkdir(exist_ok=True)
    program = programs / "llama-server"
    text = Path(fake_llama.__file__).read_text(encoding="utf-8")
    program.write_text(f"#!{sys.executable} -IS\n{text}", encoding="utf-8")
    program.chmod(0o755)
    (folder / "stacks").mkdir(parents=True)
    made = Project(folder, folder / "home", quiet_port(), program)
    (folder / "stacks" / "tiny.gguf").write_bytes(SMALL_MODEL)
    write(made, 1024)
    return made


def write(project: Project, ctx_size: int) -> None:
    project.write(SMALL.replace("1024", str(ctx_size)))


def apply(project: Project, ctx_size: int) -> str:
    write(project, ctx_size)
    done = project.run("apply", DEMO, "--yes")
    assert done.code == 0, done.out + done.err
    return done.out


def asked(port: int) -> tuple[int, int]:
    """The pid and the context size of whoever takes a new connection."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request("GET", "/health")
        said = json.loads(connection.getresponse().read())
    finally:
        connection.close()
    return said["pid"], said["ctx_size"]


def reached(project: Project, connections: int = 100) -> Counter[tuple[int, int]]:
    return Counter(asked(project.port) for _ in range(connections))


def only(project: Project, ctx_size: int) -> None:
    """The one server that runs is the one that 100 of 100 connections reach."""
    assert reached(project) == {(project.server(), ctx_size): 100}


def test_a_release_after_the_state_was_removed_is_the_one_clients_reach(
    small: Project,
) -> None:
    apply(small, 1024)
    before = small.server()
    shutil.rmtree(small.stack.parent / ".deployer")
    out = apply(small, 2048)

    assert (
        f"runs here on port {small.port}, not in the state: pid {before}, and clients"
        " reach it; it is replaced" in out
    )
    assert f"Release 1 is live at {small.url}" in out
    only(small, 2048)
    assert gone(before)
    assert small.run("destroy", DEMO, "--yes").code == 0
    assert small.servers() == set()


def test_an_older_state_takes_no_client_from_what_is_deployed(small: Project) -> None:
    apply(small, 1024)
    older = small.state.read_bytes()
    apply(small, 2048)
    small.state.write_bytes(older)
    out = apply(small, 512)

    assert "server.ctx_size   2048 → 512" in out
    only(small, 512)


def test_a_plan_names_what_runs_and_is_not_in_the_state(small: Project) -> None:
    apply(small, 1024)
    shutil.rmtree(small.stack.parent / ".deployer")
    write(small, 2048)
    done = small.run("plan", DEMO)

    assert f"not in the state: pid {small.server()}, and clients" in done.out
    assert "server.ctx_size   1024 → 2048" in done.out


def test_a_server_that_is_what_the_stack_asks_for_is_adopted(small: Project) -> None:
    apply(small, 1024)
    before = small.server()
    shutil.rmtree(small.stack.parent / ".deployer")
    out = apply(small, 1024)

    assert f"pid {before}, and clients reach it; it is adopted" in out
    assert small.server() == before
    assert "No changes" in apply(small, 1024)


def test_a_server_without_a_run_folder_is_found_by_its_process(small: Project) -> None:
    apply(small, 1024)
    before = small.server()
    shutil.rmtree(small.stack.parent / ".deployer")
    shutil.rmtree(small.home / "run")
    apply(small, 2048)

    assert gone(before)
    only(small, 2048)


def test_destroy_ends_what_the_state_lacks(small: Project) -> None:
    apply(small, 1024)
    shutil.rmtree(small.stack.parent / ".deployer")
    done = small.run("destroy", DEMO, "--yes")

    assert done.code == 0, done.err
    assert done.out.endswith("Destroyed: nothing of `demo` runs any more.\n")
    assert small.servers() == set()


def test_status_and_stop_act_on_what_the_state_lacks(small: Project) -> None:
    apply(small, 1024)
    pid = small.server()
    shutil.rmtree(small.stack.parent / ".deployer")
    status, stopped = small.run("status", DEMO), small.run("stop", DEMO)

    assert "  release  not in the state\n" in status.out
    assert f"  server   ✔ healthy, pid {pid}, " in status.out
    assert stopped.code == 0, stopped.err
    assert small.servers() == set()


def test_a_server_that_is_no_client_s_is_retired_first(small: Project) -> None:
    """Two releases run, as after a kill in the midst of a hand-over."""
    apply(small, 1024)
    state = small.state.read_bytes()
    small.write(
        SMALL.replace("1024", "2048") + "  custom: {hold: {command: [sleep, '9']}}\n"
    )
    with small.running("apply", DEMO, "--yes") as process:
        read_until(process, "→ check")
        process.kill()
    assert len(small.servers()) == 2
    small.state.write_bytes(state)
    out = apply(small, 512)

    assert "; it is retired" in out
    only(small, 512)


def test_the_process_of_another_program_is_refused_by_name(small: Project) -> None:
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", small.port))
        stranger.listen()
        done = small.run("apply", DEMO, "--yes")

    assert done.code == 1
    assert f"port {small.port} is in use by pid {os.getpid()} (" in done.err
    assert small.servers() == set()
