"""`adopt --pid` and `--url`: a llama-server that was started by hand is taken over."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path

import pytest

from deployer.llama.adopted import Value, Word, adopted
from deployer.llama.explain import catalogue_of_binary
from deployer.planning.argv import words_of
from deployer.stack.fields.marks import leaves
from deployer.stack.load import load
from tests.cli.clients import clients
from tests.cli.project import KEY, Project, gone
from tests.ports import quiet_port

pytestmark = pytest.mark.real

LIMIT = 60.0
STACK = "stacks/mine.yaml"


@contextmanager
def by_hand(
    project: Project, *words: str, env: dict[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Start llama-server in a shell's place, until it is healthy."""
    argv = (str(project.binary), "-m", "tiny.gguf", "--port", str(project.port), *words)
    process = subprocess.Popen(
        argv,
        cwd=project.stack.parent,
        env={**os.environ, **(env or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        _wait(process, project.port)
        yield process
    finally:
        process.kill()
        process.wait()


def _wait(process: "subprocess.Popen[bytes]", port: int) -> None:
    until = time.monotonic() + LIMIT
    while time.monotonic() < until and process.poll() is None:
        connection = HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("GET", "/health")
            if connection.getresponse().status == 200:
                return
        except OSError:
            time.sleep(0.05)
        finally:
            connection.close()
    raise AssertionError(f"it is not healthy, exit code {process.poll()}")


SETS: tuple[tuple[str, ...], ...] = (
    (),
    ("-c", "512", "-np", "2", "--no-mmap"),
    ("--ctx-size", "1024", "-b", "256", "-ub", "128", "-t", "2", "-tb", "2"),
    ("--api-key", KEY, "--metrics", "--slots", "-c", "512"),
    ("--temp", "0.2", "--top-k", "20", "--top-p", "0.9", "--min-p", "0.1", "-s", "7"),
    ("--jinja", "--reasoning", "off", "--chat-template-kwargs", '{"a": 1}'),
    ("-a", "mine,other", "--no-webui", "-n", "64", "-to", "120"),
    ("--cache-ram", "0", "--no-cache-prompt", "--ctx-checkpoints", "2"),
    ("--repeat-penalty", "1.1", "--samplers", "top_k;temperature", "--no-warmup"),
    ("--mlock", "--no-cont-batching", "--threads-http", "4", "--reuse-port"),
    ("-fa", "on", "-ctk", "f16", "-ctv", "f16", "--kv-unified", "--swa-full"),
    ("--host", "127.0.0.1", "-v", "--log-colors", "off", "--override-kv", "a=int:1"),
)


def fields(found: dict[str, Value]) -> dict[str, object]:
    kept = ("server.", "model.alias")
    return {p: it.value for p, it in found.items() if p.startswith(kept)}


@pytest.mark.parametrize("words", SETS, ids=" ".join)
def test_the_plan_of_what_was_started_by_hand_is_empty(
    project: Project, words: tuple[str, ...]
) -> None:
    """The stack starts the same options that the process was started with."""
    with by_hand(project, *words) as process:
        done = project.run("adopt", "--pid", str(process.pid), "--yes", "--out", STACK)
        assert done.code == 0, done.out + done.err
        assert "left out" not in done.out
        planned = project.run("plan", STACK)
        assert "No changes: what is live is what the stack says." in planned.out
        assert "✔ healthy" in project.run("status", STACK).out
        assert process.poll() is None
    stack = load(project.folder / STACK, allowed=(project.binary.parent,)).stack
    said = subprocess.run(
        [project.binary, "--help"], capture_output=True, text=True, check=True
    ).stdout
    known = catalogue_of_binary(said, None)
    started = words_of(leaves(stack), build=None, known=known.spellings)
    again = adopted([Word(it, "") for it in started], {}, known)
    given = adopted([Word(it, "") for it in words], {}, known)
    assert fields(again.fields) == fields(given.fields)
    text = (project.folder / STACK).read_text()
    assert KEY not in text


def test_no_request_fails_from_adoption_to_the_next_promotion(
    project: Project,
) -> None:
    """Its socket shares the port, so the next release takes over beside it."""
    with (
        by_hand(project, "-c", "1024", "--api-key", KEY, "--reuse-port") as process,
        clients(project.port, KEY) as tally,
    ):
        done = project.run("adopt", "--pid", str(process.pid), "--yes", "--out", STACK)
        assert done.code == 0, done.err
        file = project.folder / STACK
        text = file.read_text()
        assert "strategy" not in text
        text = text.replace("ctx_size: 1024", "ctx_size: 2048")
        file.write_text(f"{text}gates: {{health: {{}}}}\n")
        done = project.run("apply", STACK, "--yes")
        assert done.code == 0, done.out + done.err
        assert "takes the new connections" in done.out
        process.wait()
    assert tally.failures == []
    assert tally.answered > 20
    assert len(project.servers()) == 1
    back = project.run("rollback", STACK, "--yes")
    assert back.code == 0, back.out + back.err


def test_a_port_that_is_not_shared_is_said_before_and_after(project: Project) -> None:
    with by_hand(project, "-c", "1024") as process:
        done = project.run("adopt", "--url", project.url, "--yes", "--out", STACK)
        assert "nothing answers from its end until" in " ".join(done.out.split())
        file = project.folder / STACK
        text = file.read_text().replace("ctx_size: 1024", "ctx_size: 2048")
        assert "  strategy: replace  # the running server does not share its" in text
        file.write_text(f"{text}gates: {{health: {{}}}}\n")
        done = project.run("apply", STACK, "--yes")
        assert done.code == 0, done.out + done.err
        assert "downtime: " in done.out
        assert gone(process.pid) or process.wait() is not None


def test_what_the_stack_does_not_say_is_what_the_plan_shows(project: Project) -> None:
    words = ("--log-file", "here.log", "-c", "512")
    with by_hand(project, *words) as process:
        done = project.run("adopt", "--pid", str(process.pid), "--yes", "--out", STACK)
        assert "left out --log-file" in done.out
        planned = project.run("plan", STACK)
    assert "server.flags.log-file   as it was started → unset" in planned.out
    assert "Plan: 1 to deploy." in planned.out


def test_what_decides_in_the_environment_is_carried(project: Project) -> None:
    environment = {
        "LLAMA_ARG_CTX_SIZE": "512",
        "GGML_VK_VISIBLE_DEVICES": "0",
        "LLAMA_API_KEY": KEY,
        "EDITOR": "vi",
    }
    with by_hand(project, env=environment) as process:
        pid = str(process.pid)
        words = ("--pid", pid, "--yes", "--out", STACK, "--json")
        done = project.run("adopt", *words, env={"LLAMA_API_KEY": "another-key"})
    assert "is not the key of pid" in done.err
    assert done.results()[0]["taken_over"] is True
    found = load(project.folder / STACK, allowed=(project.binary.parent,)).stack
    assert found.server is not None
    assert found.server.ctx_size == 512
    assert found.server.env == {"GGML_VK_VISIBLE_DEVICES": "0"}
    assert found.auth is not None
    assert found.auth.api_key is not None
    assert KEY not in (project.folder / STACK).read_text() + done.out


def refused(project: Project, *words: str) -> str:
    """The error of an adoption that changes nothing."""
    done = project.run("adopt", *words, "--yes", "--out", STACK)
    assert done.code in (1, 3), done.out
    state = project.stack.parent / ".deployer/state/mine.state.json"
    assert not state.exists()
    assert not (project.folder / STACK).exists()
    return " ".join(done.err.split())


def test_a_process_that_cannot_be_adopted_says_why(
    project: Project, tmp_path: Path
) -> None:
    sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(99)"])
    try:
        said = refused(project, "--pid", str(sleeper.pid))
        assert "and no llama-server" in said
    finally:
        sleeper.kill()
        sleeper.wait()
    assert "there is no process" in refused(project, "--pid", str(sleeper.pid))
    assert "nothing listens on port" in refused(
        project, "--url", f"http://127.0.0.1:{quiet_port()}"
    )
    assert "is not an address of this machine" in refused(
        project, "--url", "http://192.0.2.1:8080"
    )
    copied = tmp_path / "build"
    shutil.copytree(project.binary.parent, copied)
    own = Project(project.folder, project.home, project.port, copied / "llama-server")
    with by_hand(own, "-c", "512") as process:
        own.binary.unlink()
        said = refused(project, "--pid", str(process.pid))
        assert "was deleted or replaced since it was started" in said


def test_files_that_are_not_as_the_process_read_them_are_refused(
    project: Project,
) -> None:
    model = project.stack.parent / "tiny.gguf"
    with by_hand(project, "-c", "512", "--no-mmap") as process:
        pid = str(process.pid)
        os.utime(model)
        assert "was changed after pid" in refused(project, "--pid", pid)
        model.unlink()
        said = refused(project, "--pid", pid)
        assert "there is no file" in said or "was deleted since" in said


def test_a_port_of_two_servers_is_refused(project: Project) -> None:
    words = ("-c", "512", "--reuse-port")
    with by_hand(project, *words) as one, by_hand(project, *words):
        said = refused(project, "--pid", str(one.pid))
    assert f"port {project.port} is not pid {one.pid}'s alone" in said


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to be two users")
def test_a_process_of_another_user_is_refused(project: Project) -> None:
    other = subprocess.Popen(["/bin/sleep", "99"], user=65534)
    try:
        said = refused(project, "--pid", str(other.pid))
    finally:
        other.kill()
        other.wait()
    assert "is a process of user `nobody`" in said
    assert "run `deployer` as `nobody`" in said


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make a namespace")
def test_a_process_in_a_container_is_refused(project: Project) -> None:
    inside = subprocess.Popen(["/usr/bin/unshare", "-m", "sleep", "99"])
    try:
        time.sleep(0.5)
        said = refused(project, "--pid", str(inside.pid))
    finally:
        inside.kill()
        inside.wait()
    assert "runs in a container" in said


def test_the_state_names_the_release_and_no_gate(project: Project) -> None:
    with by_hand(project, "-c", "512") as process:
        pid = str(process.pid)
        assert project.run("adopt", "--pid", pid, "--yes", "--out", STACK).code == 0
        again = project.run("adopt", "--pid", pid, "--yes", "--out", STACK)
        assert again.code == 3
        state = project.stack.parent / ".deployer/state/mine.state.json"
        (release,) = json.loads(state.read_bytes())["releases"]
    assert (release["number"], release["cause"], release["gates"]) == (1, "adopt", [])
