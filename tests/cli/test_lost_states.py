"""A state that is lost, aged or mixed up while its servers live on.

The release that state and output call live is the one that clients reach, and the only
one that runs; after a destroy nothing of the stack runs.  The servers are small
programs, their ports and their deployer are real.
"""

import http.client
import json
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from deployer.engines.local.ports import free_port
from tests.cli import fake_llama
from tests.cli.project import STACK, Project, gone

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
    made = Project(folder, folder / "home", free_port("127.0.0.1"), program)
    (folder / "stacks" / "tiny.gguf").write_bytes(b"GGUF\x03\0\0\0" + bytes(100))
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
