"""deployer doctor: what is wrong, why, and what to do, on broken set-ups."""

import os
import shutil
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.project import KEY, STACK, Project, gone

LOGS = Path(__file__).parents[1] / "data" / "logs"

Found = dict[str, tuple[str, str]]


def look(project: Project, *words: str, code: int, key: str | None = KEY) -> Found:
    """What doctor says but for what is fine: grade and text, by area or name."""
    done = project.run("doctor", *words, "--json", env={"LLAMA_API_KEY": key})
    assert done.code == code, done.out + done.err
    return {
        line["id"] or line["area"]: (line["grade"], line["what"])
        for line in done.results()
        if line["grade"] != "fine"
    }


@pytest.fixture
def taken(project: Project) -> Iterator[None]:
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", project.port))
        other.listen()
        yield


def test_a_healthy_stack_has_nothing_wrong(live: Project) -> None:
    """The second time, too: what the first asked without the key is in the log."""
    look(live, "stacks/demo.yaml", code=0)
    found = look(live, "stacks/demo.yaml", code=0)

    # The ready-made binary does not know its number, the model's template is early.
    assert set(found) <= {"machine", "no-build-number", "outdated-template"}
    assert found["machine"][1].endswith("for this machine, of an unknown build")
    assert "error" not in {grade for grade, _ in found.values()}


def test_a_key_of_another_server_is_told(live: Project) -> None:
    found = look(live, "stacks/demo.yaml", code=1, key="sk-another")

    assert found["no-key-sent"][0] == "error"


def test_a_server_that_crashed_is_told_with_its_cause(live: Project) -> None:
    pid = live.server()
    os.kill(pid, 9)
    assert gone(pid)
    model = live.stack.parent / "tiny.gguf"
    model.write_bytes(model.read_bytes()[:900_000])
    started = live.run("start", "stacks/demo.yaml")
    for _ in range(40):
        if "not within the file bounds" in live.log():
            break
        # On a busy machine b10434 ends before the thread that writes its log has.
        started = live.run("start", "stacks/demo.yaml")
    assert started.code == 1
    assert "the model file is incomplete or damaged" in started.err

    found = look(live, "stacks/demo.yaml", code=1)

    assert found["server"][0] == "error"
    assert found["truncated-gguf"][0] == "error"
    assert "is 900.0 KB, was 2.1 MB" in found["store"][1]


@pytest.mark.usefixtures("taken")
def test_a_port_of_another_program_is_told(project: Project) -> None:
    found = look(project, "stacks/demo.yaml", code=1)

    assert f"port {project.port} is in use" in found["port"][1]


def test_every_problem_of_a_file_is_told(paper: Project) -> None:
    paper.write(STACK.replace("ctx_size: 1024", "ctx_size: much\n  parralel: 2"))
    done = paper.run("doctor", "stacks/demo.yaml")

    assert done.code == 1
    assert "✖ stack   stacks/demo.yaml:14:3: expected a" in done.out
    assert "fix: did you mean `parallel`?" in done.out


def test_a_key_that_is_not_set_gets_a_line_to_fill_in(paper: Project) -> None:
    file = paper.stack.parent / ".env"
    file.write_text("OTHER=1", encoding="utf-8")
    file.chmod(0o644)
    words = ("doctor", "stacks/demo.yaml", "--fix")
    asked = paper.run(*words, env={"LLAMA_API_KEY": None})
    assert asked.code == 3
    assert "hint: add `--yes` to fix it" in asked.err
    assert file.read_text(encoding="utf-8") == "OTHER=1"

    done = paper.run(*words, "--yes", env={"LLAMA_API_KEY": None})

    assert done.code == 1  # it is empty still
    assert "would do:" in done.out
    assert file.read_text(encoding="utf-8") == "OTHER=1\nLLAMA_API_KEY=\n"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_lock_of_a_process_that_is_gone_is_removed(paper: Project) -> None:
    lock = paper.state.parent / "demo.lock"
    lock.parent.mkdir(parents=True)
    lock.write_text(
        '{"version":1,"id":"aa11bb22","host":"HOST","pid":4194303,"user":"u",'
        '"operation":"apply","since":"2026-11-01T00:00:00+00:00"}'.replace(
            "HOST", os.uname().nodename
        ),
        encoding="utf-8",
    )
    done = paper.run("doctor", "stacks/demo.yaml", "--fix", "--yes")

    assert "was left by a process that is gone" in " ".join(done.out.split())
    assert not lock.exists()


def test_interrupted_downloads_are_removed_once_they_are_old(paper: Project) -> None:
    downloads = paper.home / "downloads"
    downloads.mkdir()
    old, new = downloads / "a.part", downloads / "b.part"
    for file in (old, new):
        file.write_bytes(bytes(2000))
    os.utime(old, (1, 1))
    done = paper.run("doctor", "--fix", "--yes")

    assert "1 interrupted downloads hold 2.0 KB" in done.out
    assert (old.exists(), new.exists()) == (False, True)


def test_a_log_is_read_from_a_file_or_from_stdin(paper: Project) -> None:
    log = LOGS / "unknown-architecture.b10434.log"
    shutil.copy(log, paper.folder / "server.log")
    named = look(paper, "--logs", "server.log", code=1)
    piped = paper.run("doctor", "--logs", "-", typed=log.read_text(encoding="utf-8"))

    assert named["unknown-architecture"][1].startswith("server.log:")
    assert piped.code == 1
    assert "set `llama_cpp.tag` to a newer build" in piped.out


def test_an_unknown_failure_and_an_empty_log_are_errors(paper: Project) -> None:
    (paper.folder / "server.log").write_text("listening\nCUDA error: new\n", "utf-8")
    (paper.folder / "empty.log").write_text("", "utf-8")
    unknown = paper.run("doctor", "--logs", "server.log")
    empty = paper.run("doctor", "--logs", "empty.log")

    assert unknown.code == empty.code == 1
    assert "not known to deployer: line 2: `CUDA error: new`" in unknown.out
    assert "empty.log: nothing to read" in empty.out


def test_the_log_of_a_healthy_run_is_fine(paper: Project) -> None:
    log = LOGS / "healthy" / "plain.b8672.log"
    done = paper.run("doctor", "--logs", str(log))

    assert done.code == 0
    assert done.out.startswith("  ✔ log")
    assert done.out.endswith("\nnothing is wrong\n")


def test_a_log_that_is_not_there_is_told(paper: Project) -> None:
    done = paper.run("doctor", "--logs", "nothing.log")

    assert (done.code, done.out) == (1, "")
    assert "`nothing.log`: No such file or directory" in done.err


def test_a_url_where_nothing_answers_is_told(paper: Project) -> None:
    found = look(paper, "--url", paper.url, code=1)

    assert "nothing answers" in found["server"][1]


def test_what_modal_needs_is_looked_at(paper: Project) -> None:
    text = STACK.replace("engine: local", "engine: modal")
    text = text.replace("{env: LLAMA_API_KEY}", "{env: LLAMA_API_KEY, secret: key}")
    text = text.replace("  binary: BINARY\n", "")
    text = text.replace("  path: tiny.gguf\n", "  repo: owner/tiny\n  quant: F16\n")
    paper.write(text)
    env = {"MODAL_CONFIG_PATH": "/nowhere", "MODAL_TOKEN_ID": "ak-1"}
    done = paper.run("doctor", "stacks/demo.yaml", env=env)

    assert done.code == 1
    assert "only one of `MODAL_TOKEN_ID` and" in done.out
    assert "ak-1" not in done.out


def test_missing_tools_of_a_build_are_told(paper: Project) -> None:
    paper.write(STACK.replace("  binary: BINARY\n", "  source: pypi\n"))
    done = paper.run("doctor", "stacks/demo.yaml", env={"PATH": "/nowhere"})

    assert done.code == 1
    assert "a C compiler" in done.out
    assert "there is no `git`" in done.out


@pytest.mark.parametrize(
    ("enabled", "sign", "code"), [("true", "✖", 1), ("auto", "·", 0)]
)
def test_why_no_snapshot_can_be_taken_is_told(
    project: Project, enabled: str, sign: str, code: int
) -> None:
    project.write(f"{STACK}snapshot: {{enabled: {enabled}}}\n")
    environment = {"LLAMA_API_KEY": KEY, "DEPLOYER_CRIU": "/nowhere/criu"}
    done = project.run("doctor", "stacks/demo.yaml", env=environment)

    assert f"{sign} machine no snapshots: " in done.out
    assert "scripts/install-criu.sh" in done.out
    assert done.code == code, done.out
