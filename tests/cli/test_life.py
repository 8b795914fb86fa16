"""A stack from its first apply to its destruction, with the real llama-server."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.clients import chat
from tests.cli.conftest import MakeProject
from tests.cli.project import KEY, STACK, Project, gone, read_until

pytestmark = pytest.mark.real

DEMO = "stacks/demo.yaml"


@pytest.fixture(scope="module")
def settled(
    make_project: MakeProject, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Project]:
    """Two releases, the second live; its tests change nothing."""
    project = make_project(tmp_path_factory.mktemp("settled") / "project")
    for ctx_size in ("1024", "2048"):
        project.write(STACK.replace("1024", ctx_size))
        done = project.run("apply", DEMO, "--yes")
        assert done.code == 0, done.out + done.err
    yield project
    project.end()


def test_apply_ends_with_gates_url_and_a_curl_line(project: Project) -> None:
    done = project.run("apply", DEMO, "--yes")

    assert done.code == 0  # on a slow machine steps say on stderr that they run
    assert re.search(r"✔ chat +pass: answered `The answer is 42.`", done.out)
    assert "\n3 passed: promotion allowed\n" in done.out
    assert f"Release 1 is live at {project.url}" in done.out
    assert '-H "Authorization: Bearer $LLAMA_API_KEY"' in done.out
    assert KEY not in done.out
    assert chat(project.port, KEY) == "The answer is 42."


def test_a_quiet_apply_says_its_result_and_no_blank_line(project: Project) -> None:
    done = project.run("apply", DEMO, "--yes", "--quiet")

    assert done.code == 0, done.err
    first, *rest = done.out.splitlines()
    assert first == "3 passed: promotion allowed"
    assert rest[-1] == f"Release 1 is live at {project.url}"
    assert "" not in rest


def test_the_second_apply_touches_no_process(live: Project) -> None:
    pid, state = live.server(), live.state.read_bytes()
    done = live.run("apply", DEMO)

    assert (done.code, done.err) == (0, "")
    assert "No changes: what is live is what the stack says." in done.out
    assert live.server() == pid
    assert live.state.read_bytes() == state


def test_apply_without_a_terminal_asks_for_yes(project: Project) -> None:
    done = project.run("apply", DEMO)

    assert done.code == 3
    assert "Steps:\n  1. " in done.out
    assert done.err == (
        "error: stdin is not a terminal\n"
        "  hint: add `--yes` once the plan above is what you want\n"
    )
    assert project.servers() == set()


def test_the_key_may_stand_in_a_file_beside_the_stack(project: Project) -> None:
    (project.stack.parent / ".env").write_text(f"LLAMA_API_KEY={KEY}\n")
    done = project.run("apply", DEMO, "--yes", env={"LLAMA_API_KEY": None})

    assert done.code == 0, done.err


def test_the_plan_of_a_changed_line_says_which_one(settled: Project) -> None:
    before = settled.stack.read_text(encoding="utf-8")
    settled.write(STACK.replace("1024", "4096"))
    done = settled.run("plan", DEMO, "--detailed-exitcode")
    settled.stack.write_text(before, encoding="utf-8")

    assert done.code == 2
    assert "  ✔ build    " in done.out
    (reason,) = [line for line in done.out.splitlines() if "ctx_size" in line]
    assert reason.split() == [
        "server.ctx_size",
        "2048",
        "→",
        "4096",
        "stacks/demo.yaml:14",
    ]
    assert "\nPlan: 1 to deploy.\n" in done.out


def test_detailed_exitcode_is_0_where_nothing_would_change(settled: Project) -> None:
    assert settled.run("plan", DEMO, "--detailed-exitcode", "--refresh").code == 0


def test_status_shows_release_server_and_url(settled: Project) -> None:
    out = settled.run("status", DEMO).out

    assert "  release  2 since 20" in out
    assert f"  server   ✔ healthy, pid {settled.server()}, " in out
    assert f"  url      {settled.url}\n" in out
    assert "  gates    3 of 3 passed before promotion\n" in out


def test_status_as_json(settled: Project) -> None:
    (status,) = settled.run("status", DEMO, "--json").results()

    assert (status["stack"], status["release"]) == ("demo", 2)
    assert status["server"]["facts"]["pid"] == settled.server()
    assert status["server"]["healthy"]
    assert status["unfinished"] == []


def test_history_marks_the_live_release(settled: Project) -> None:
    lines = settled.run("history", DEMO).out.splitlines()
    newest, oldest = (it for it in lines if it.endswith("apply"))
    report = next(it for it in lines if it.startswith("        report  "))

    assert newest.startswith("●    2  ")
    assert oldest.startswith("     1  ")
    assert newest.endswith("3/3 gates    apply")
    assert Path(report.removeprefix("        report  ")).name == "report.html"


def test_history_as_json(settled: Project) -> None:
    newest, oldest = settled.run("history", DEMO, "--json").results()

    assert (newest["number"], newest["live"]) == (2, True)
    assert (oldest["number"], oldest["live"]) == (1, False)
    assert Path(oldest["report"]).parent.name == "release-1"


def test_diff_shows_what_a_release_changed(settled: Project) -> None:
    lines = settled.run("history", DEMO, "--diff", "1", "2").out.splitlines()

    assert lines[3:] == ["  server   server.ctx_size   1024 → 2048"]


def test_diff_with_a_release_that_is_not_kept(settled: Project) -> None:
    done = settled.run("history", DEMO, "--diff", "1", "7")

    assert done.code == 3
    assert done.err == "error: release 7 is not retained\n  hint: retained: 1, 2\n"


def test_check_runs_the_gates_of_the_stack(settled: Project) -> None:
    done = settled.run("check", DEMO)

    assert done.code == 0
    passed = [line for line in done.out.splitlines() if "✔ pass" in line]
    assert [line.split()[2] for line in passed] == [
        "health",
        "auth",
        "chat",
    ]


def test_check_of_one_gate_as_json(settled: Project) -> None:
    done = settled.run("check", DEMO, "--gate", "models", "--json")
    (verdict,) = done.results()

    assert (verdict["gate"], verdict["outcome"]) == ("models", "pass")


def test_check_of_a_gate_that_does_not_exist(settled: Project) -> None:
    done = settled.run("check", DEMO, "--gate", "chatt")

    assert done.code == 3
    assert done.err.startswith("error: there is no gate `chatt`\n  hint: ")


def test_check_of_any_server_by_its_url(settled: Project) -> None:
    words = ("check", "--url", settled.url, "--api-key-env", "LLAMA_API_KEY")
    done = settled.run(*words, "--gate", "health", "--gate", "chat")

    assert done.code == 0


def test_check_by_url_without_the_key_says_how_to_name_it(settled: Project) -> None:
    done = settled.run("check", "--url", settled.url, "--gate", "chat")

    assert done.code == 6
    assert done.err == (
        f"error: {settled.url} does not pass: not measured `chat`\n"
        "  hint: if it asks for a key, `--api-key-env NAME` says where that is\n"
    )


def test_logs_show_the_last_lines(settled: Project) -> None:
    done = settled.run("logs", DEMO, "-n", "2")

    assert done.code == 0
    assert len(done.out.splitlines()) == 2


def test_logs_follow_what_the_server_says(settled: Project) -> None:
    with settled.running("logs", DEMO, "-f", "-n", "1") as process:
        assert process.stdout is not None
        process.stdout.readline()
        chat(settled.port, KEY)
        read_until(process, "stop processing")


def test_state_list_names_the_stack(settled: Project) -> None:
    assert settled.run("state", "list").out == "demo\n"


def test_state_show_prints_the_state_without_a_secret(settled: Project) -> None:
    out = settled.run("state", "show", DEMO).out

    assert json.loads(out)["stack"] == "demo"
    assert KEY not in out


def test_state_unlock_without_a_lock(settled: Project) -> None:
    done = settled.run("state", "unlock", DEMO, "abc")

    assert (done.code, done.err) == (1, "error: `demo` is not locked\n")


def test_store_ls_lists_build_and_weights(settled: Project) -> None:
    lines = settled.run("store", "ls").out.splitlines()

    assert [line.split()[0] for line in lines] == ["build", "weights", "2"]
    assert "llama-server, " in lines[0]


def test_the_key_is_in_no_file_and_no_argument_list(settled: Project) -> None:
    found = [
        path
        for path in (
            *settled.home.glob("run/**/*"),
            *settled.folder.glob("stacks/**/*"),
        )
        if path.is_file() and KEY.encode() in path.read_bytes()
    ]
    command = Path(f"/proc/{settled.server()}/cmdline").read_bytes()

    assert found == []
    assert KEY.encode() not in command


def test_a_shell_completes_retained_releases(settled: Project) -> None:
    words = {"COMP_WORDS": "deployer rollback stacks/demo.yaml ", "COMP_CWORD": "3"}
    done = settled.run(env={**words, "_DEPLOYER_COMPLETE": "bash_complete"})
    assert done.out.split() == ["plain,1", "plain,2"]


def test_acting_commands_say_the_same_as_json(settled: Project) -> None:
    head, *_, last = settled.run("rollback", DEMO, "2", "--yes", "--json").lines()
    assert (head["type"], last["type"], last["exit_code"]) == ("version", "summary", 0)
    asked = settled.run("destroy", DEMO, "--json")
    assert asked.code == 3
    assert "`--json` asks no questions" in asked.err
    ended = {"stop": "stopped", "start": "started", "restart": "restarted"}
    for word, done in ended.items():
        kinds = [it["type"] for it in settled.run(word, DEMO, "--json").lines()]
        assert kinds[-2:] == [done, "summary"]


def test_metrics_have_the_names_of_prometheus_beside_words(settled: Project) -> None:
    lines = settled.run("status", DEMO, "--metrics").out.splitlines()
    (line,) = [it for it in lines if "llamacpp:requests_processing" in it]
    assert line.split()[:2] == ["active", "requests"]


def test_several_stacks_have_a_line_each(settled: Project) -> None:
    other = settled.write(STACK.replace("name: demo", "name: other"), "other")
    lines = settled.run("status").out.splitlines()
    found = settled.run("status", "--json").results()
    other.unlink()
    assert [line.split()[0] for line in lines] == ["✔", "·"]
    assert lines[1] == "· stack `other` was never applied from here"
    assert [it["release"] for it in found] == [2, None]


def test_rollback_needs_no_stack_that_is_right(settled: Project) -> None:
    settled.write(STACK.replace("ctx_size", "ctx_sise"))
    before = settled.server()
    try:
        done = settled.run("rollback", DEMO, "--yes", "--now")
        history = settled.run("history", DEMO).out.splitlines()
    finally:
        settled.write(STACK.replace("1024", "2048"))
        planned = settled.run("plan", DEMO)
        seen = settled.run("status", DEMO)
        refused = settled.run("apply", DEMO, "--yes")
        again = settled.run("apply", DEMO, "--yes", "--again")

    # The rollback stays: what was rolled back comes back only where that is asked for.
    assert "was rolled back, and the stack still asks for it" in planned.out
    assert "! rolled back to release 1" in seen.out
    assert (refused.code, refused.out) == (3, "")
    assert "hint: change the stack" in refused.err
    assert "`deployer apply stacks/demo.yaml --again`" in refused.err
    assert "pass: answered" not in done.out
    assert "Only fast gates ran" in done.out
    assert done.code == 0, done.err
    assert "server.ctx_size   2048 → 1024" in done.out
    assert history[0].endswith("rollback to 1")
    assert again.code == 0
    assert gone(before)


def test_rollback_without_an_earlier_release(live: Project) -> None:
    done = live.run("rollback", DEMO, "--yes")

    assert done.code == 3
    assert done.err == (
        "error: stack `demo` has no earlier release to roll back to\n"
        "  hint: `deployer history` lists the retained releases\n"
    )


def test_stop_and_start_keep_the_release(live: Project) -> None:
    pid = live.server()
    stopped = live.run("stop", DEMO)
    status = live.run("status", DEMO)
    started = live.run("start", DEMO)

    assert (stopped.code, started.code) == (0, 0)
    again = f"stopped; `deployer server start {DEMO}` starts it again\n"
    assert stopped.out.endswith(again)
    assert "  server   ✖ stopped on request" in status.out
    assert started.out.endswith(f"running at {live.url}\n")
    assert live.server() != pid


def test_destroy_without_a_terminal_asks_for_yes(live: Project) -> None:
    pid = live.server()
    done = live.run("destroy", DEMO, typed="demo\n")

    assert done.code == 3
    assert done.err.startswith("error: stdin is not a terminal")
    assert live.server() == pid


def test_destroy_stops_the_server_and_keeps_the_store(live: Project) -> None:
    done = live.run("destroy", DEMO, "--yes")
    again = live.run("destroy", DEMO, "--yes")

    assert (done.code, again.code) == (0, 0)
    assert done.out.endswith("Destroyed: nothing of `demo` runs any more.\n")
    assert live.servers() == set()
    assert len(live.run("store", "ls").out.splitlines()) == 3


def test_a_stack_that_was_never_applied_has_no_status(project: Project) -> None:
    done = project.run("status", DEMO)

    assert done.code == 3
    assert done.err == (
        "error: stack `demo` was never applied from here\n"
        f"  hint: run `deployer apply {DEMO}`\n"
    )


def test_two_folders_may_have_a_stack_of_one_name(
    make_project: MakeProject, live: Project, tmp_path: Path
) -> None:
    other = make_project(tmp_path / "other")
    other.write()
    home = {"DEPLOYER_HOME": str(live.home)}
    try:
        done = other.run("apply", DEMO, "--yes", env=home)
        assert done.code == 0, done.err
        assert len(live.servers()) == 2
        assert other.run("destroy", DEMO, "--yes", env=home).code == 0
    finally:
        other.end()
    assert live.run("status", DEMO).out.count("✔ healthy") == 1
