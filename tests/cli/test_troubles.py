"""Trouble with the world around a right stack: what is said, and what is left."""

import json
import os
import re
import signal
import socket
import struct
import sys
from pathlib import Path

import pytest

from tests.cli.project import COMMAND, STACK, Project, finished, read_until

DEMO = "stacks/demo.yaml"


def apply(project: Project, text: str = STACK) -> tuple[int, str]:
    """Exit code and stderr of an apply."""
    project.write(text)
    done = project.run("apply", DEMO, "--yes")
    return done.code, done.err


def test_the_key_is_not_set(paper: Project) -> None:
    done = paper.run("apply", DEMO, "--yes", env={"LLAMA_API_KEY": None})

    assert (done.code, done.out) == (4, "")
    assert done.err == (
        "error: environment variable `LLAMA_API_KEY` (API key) is not set\n"
        "  hint: run `export LLAMA_API_KEY=…`, or write `LLAMA_API_KEY=…` into `.env`"
        " beside the stack\n"
    )


def test_the_port_is_in_use(paper: Project) -> None:
    with socket.create_server(("127.0.0.1", paper.port)):
        code, said = apply(paper)

    assert code == 1
    assert said.startswith(
        f"error: port {paper.port} is in use by pid {os.getpid()} (python"
    )
    assert "\n  hint: end it, or set `local.port` to a free one (" in said


def test_no_such_gpu(paper: Project) -> None:
    path = {"PATH": str(paper.folder)}  # no nvidia-smi there
    paper.write(STACK.replace("engine: local", "engine: local\ngpu: L40S"))
    done = paper.run("apply", DEMO, "--yes", env=path)

    assert done.code == 1
    assert done.err == (
        "error: the stack asks for GPU L40S, and this machine has none\n"
        "  hint: leave `gpu` out to run on the CPU, or deploy where there is one\n"
    )


def test_a_binary_of_another_processor(paper: Project) -> None:
    s390x = b"\x7fELF" + bytes([2, 2, 1, 0]) + bytes(8) + struct.pack(">HHI", 2, 22, 1)
    paper.binary.write_bytes(s390x + bytes(1000))
    code, said = apply(paper)

    assert code == 1
    assert f"error: `{paper.binary}` is built for Linux s390x; this machine is " in said
    assert said.endswith("\n  hint: use a build for this machine\n")


def test_a_program_that_is_no_llama_server(paper: Project) -> None:
    paper.binary.write_text(f"#!{sys.executable}\n")
    code, said = apply(paper)

    assert code == 1
    assert said == (
        "error: `llama-server` is not a llama-server: it tells no version\n"
        "  hint: name the program `llama-server` of a build of llama.cpp\n"
    )


def test_weights_that_are_not_the_pinned_ones(paper: Project) -> None:
    pinned = f'path: tiny.gguf\n  sha256: "{"0" * 64}"'
    code, said = apply(paper, STACK.replace("path: tiny.gguf", pinned))

    assert code == 1
    assert "`stacks/tiny.gguf` is not the pinned file: sha256 is " in said
    assert said.endswith("hint: correct `sha256`, or put the right file there\n")


def test_weights_that_are_no_gguf(paper: Project) -> None:
    (paper.stack.parent / "tiny.gguf").write_bytes(b"<html>")
    code, said = apply(paper)

    assert code == 1
    assert said.startswith("error: `stacks/tiny.gguf` is not a GGUF file: it begins")


def test_the_disk_is_full(paper: Project) -> None:
    """Stands for a full disk: no file may grow beyond a few kilobytes."""
    (paper.stack.parent / "tiny.gguf").write_bytes(b"GGUF\3\0\0\0" + bytes(100))
    paper.binary.write_bytes(paper.binary.read_bytes() + bytes(4_000_000))
    limited = f"ulimit -f 1; exec {' '.join(COMMAND)} apply {DEMO} --yes"
    done = paper.shell(limited)

    assert done.code == 1
    assert "File too large" in done.err
    assert "  hint: " in done.err
    assert "Traceback" not in done.err
    assert list(paper.home.glob("build/*")) == []


def test_a_disk_without_room(paper: Project) -> None:
    """A real one of a megabyte, where a disk can be mounted."""
    paper.binary.write_bytes(paper.binary.read_bytes() + bytes(4_000_000))
    mount = f"mount -t tmpfs -o size=1m tmpfs {paper.home}"
    run = f"{' '.join(COMMAND)} apply {DEMO} --yes"
    done = paper.shell(f"unshare -rm bash -c '{mount} && {run} || exit $?'")
    if "error: " not in done.err:
        pytest.skip(f"nothing can be mounted here: {done.err}")

    assert done.code == 1
    assert done.err.startswith("error: no room for llama-server in ")
    assert "hint: free space" in done.err


def test_a_home_that_cannot_be_made(paper: Project) -> None:
    home = paper.stack / "home"
    done = paper.run("apply", DEMO, "--yes", env={"DEPLOYER_HOME": str(home)})

    assert done.code == 1
    assert str(paper.stack) in done.err
    assert "internal error" not in done.err


@pytest.mark.parametrize("command", ["plan", "status", "apply", "destroy"])
def test_a_damaged_state_is_refused(paper: Project, command: str) -> None:
    paper.state.parent.mkdir(parents=True)
    paper.state.write_text("{")
    done = paper.run(command, DEMO)

    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("error: `stacks/.deployer/state/demo.state.json`")
    assert "\n  hint: bring `stacks/.deployer/state/demo.state.json` back" in done.err
    assert paper.state.read_text() == "{"


def test_a_state_of_a_newer_deployer_is_refused(paper: Project) -> None:
    paper.state.parent.mkdir(parents=True)
    paper.state.write_text('{"version": 99}')
    done = paper.run("apply", DEMO, "--yes")

    assert (done.code, done.out) == (1, "")
    assert "version 99" in done.err
    assert "\n  hint: " in done.err
    assert paper.state.read_text() == '{"version": 99}'


@pytest.mark.real
def test_the_state_before_the_damaged_one_is_offered(live: Project) -> None:
    live.state.write_text("{")
    done = live.run("status", DEMO)
    command = done.err.partition("with `")[2].partition("`")[0]
    live.shell(command)

    assert done.code == 1
    assert command.startswith("cp ")
    assert live.run("apply", DEMO, "--yes").code == 0


@pytest.mark.real
def test_a_model_that_is_cut_short_is_refused_before_anything_starts(
    live: Project,
) -> None:
    before = live.server()
    whole = (live.stack.parent / "tiny.gguf").read_bytes()
    (live.stack.parent / "short.gguf").write_bytes(whole[:100_000])
    code, said = apply(live, STACK.replace("tiny.gguf", "short.gguf"))

    assert code == 1
    assert said.startswith("error: `short.gguf`: broken GGUF header at byte 28047: ")
    assert "hint: the file is cut short: download it again" in said
    assert live.server() == before


@pytest.mark.real
def test_a_model_that_cannot_be_loaded(live: Project) -> None:
    before = live.server()
    whole = (live.stack.parent / "tiny.gguf").read_bytes()
    odd = whole.replace(b"blk.1.attn_q.weight", b"blk.1.attn_z.weight")
    (live.stack.parent / "odd.gguf").write_bytes(odd)
    code, said = apply(live, STACK.replace("tiny.gguf", "odd.gguf"))

    assert code == 1
    assert said.startswith("error: the server ended with exit code 1 before it was")
    assert "blk.1.attn_q.weight" in said
    assert live.server() == before


@pytest.mark.real
def test_an_option_that_the_build_does_not_know(project: Project) -> None:
    flags = "metrics: true\n  flags: {no-such-option: 1}"
    code, said = apply(project, STACK.replace("metrics: true", flags))

    assert code in (1, 3)
    assert "no-such-option" in said
    assert project.servers() == set()


@pytest.mark.real
def test_a_gate_that_fails_leaves_the_live_server_alone(live: Project) -> None:
    before = live.server()
    never = "chat: {contains: text that never comes}"
    live.write(STACK.replace("1024", "2048").replace("chat: {}", never))
    done = live.run("apply", DEMO, "--yes")

    assert done.code == 6
    assert "✖ fail  chat" in done.out
    assert "→ HTTP 200" in done.out
    assert done.err.startswith(
        "error: not promoted: failed `chat`\n  hint: the candidate was retired"
    )
    assert live.server() == before
    told = live.run("history", DEMO).out.splitlines()
    blocked, release = (it for it in told if not it.startswith("        "))
    assert re.match(r"     -  20\S+ .* blocked +apply$", blocked)
    assert release.startswith("●    1  ")
    assert "        failed: not promoted: failed `chat`" in told


@pytest.mark.real
def test_a_server_that_was_killed_is_seen_and_started_again(live: Project) -> None:
    before = live.server()
    live.end()
    status = live.run("status", DEMO)
    plan = live.run("plan", DEMO, "--refresh", "--detailed-exitcode")
    applied = live.run("apply", DEMO, "--yes")

    assert "  server   ✖ crashed or was killed: " in status.out
    assert f"`deployer server start {DEMO}` starts it again" in status.out
    assert plan.code == 2
    assert "  ! drift    demo/server: crashed or was killed: " in plan.out
    assert applied.code == 0, applied.err
    assert live.server() != before


@pytest.mark.real
def test_a_second_apply_at_the_same_time(project: Project) -> None:
    with project.running("apply", DEMO, "--yes") as first:
        # Its gates only ask: it holds the lock of the stack, and no other.
        read_until(first, "→ check")
        first.send_signal(signal.SIGSTOP)
        with project.running("apply", DEMO, "--yes") as other:
            second = finished(other)
        first.send_signal(signal.SIGCONT)
        done = finished(first)

    assert second.code == 5
    assert second.err.startswith("error: `demo` is locked by ")
    assert f"(pid {first.pid}) since 20" in second.err
    assert " for apply\n  hint: wait for it, or stop it" in second.err
    assert done.code == 0


@pytest.mark.real
def test_a_damaged_build_in_the_store_is_made_again(project: Project) -> None:
    (folder,) = (project.home / "build").iterdir()
    server = folder / "llama-server"
    content = server.read_bytes()
    server.unlink()  # a hard link to the store of other tests
    server.write_bytes(content[:1000])
    listed = project.run("store", "ls")
    done = project.run("apply", DEMO, "--yes")

    assert "damaged: the next use makes it again" in listed.out
    assert done.code == 0, done.err
    assert server.read_bytes() == content


def test_the_lock_of_another_machine_is_shown_with_its_id(paper: Project) -> None:
    paper.state.parent.mkdir(parents=True)
    lock = paper.state.with_name("demo.lock")
    holder = {
        "version": 1,
        "id": "0a1b2c3d",
        "host": "elsewhere",
        "pid": 1,
        "user": "somebody",
        "operation": "apply",
        "since": "2026-01-02T03:04:05+00:00",
    }
    lock.write_text(json.dumps(holder))
    done = paper.run("apply", DEMO, "--yes")
    unlocked = paper.run("state", "unlock", DEMO, "0a1b2c3d")

    assert done.code == 5
    assert done.err.startswith(
        "error: `demo` is locked by somebody@elsewhere (pid 1) since"
        " 2026-01-02 03:04:05 UTC for apply\n  hint: "
    )
    assert "0a1b2c3d" in done.err
    assert unlocked.code == 0, unlocked.err
    assert not Path(lock).exists()
