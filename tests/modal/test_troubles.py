"""What goes wrong on Modal, and what the user is told about it."""

import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from deployer.engines.modal.drive import refuse_missing_client
from deployer.errors import EngineError
from tests.cli.project import finished, read_until
from tests.modal.client_loop import clients
from tests.modal.emulated import wait_until
from tests.modal.project import SECRET, STACK, Project


def test_without_the_client_it_is_said_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delitem(sys.modules, "modal", raising=False)
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(EngineError) as raised:
        refuse_missing_client()
    assert raised.value.message == "the client of Modal is not installed"
    assert raised.value.hint == "run `pip install 'gguf-deployer[modal]'`"


def test_without_a_token_nothing_is_begun(project: Project) -> None:
    gone = {"MODAL_TOKEN_ID": None, "MODAL_TOKEN_SECRET": None}
    done = project.run("apply", "stacks/tiny.yaml", "--yes", env=gone)
    assert done.code == 4
    assert "error: Modal refuses the token: Token missing." in done.err
    assert "hint: run `modal token new`, or set MODAL_TOKEN_ID" in done.err
    assert project.cloud.calls() == {}


def check(project: Project, code: int, what: str, hint: str) -> None:
    """An apply ends before anything is deployed or started."""
    done = project.run("apply", "stacks/tiny.yaml", "--yes")
    assert (done.code, done.err) == (code, f"error: {what}\n  hint: {hint}\n")
    seen = project.cloud.seen()
    assert (seen["apps"], seen["started"]) == ([], 0)


def test_an_environment_that_is_not_there(project: Project) -> None:
    project.write(STACK + "\nmodal: {environment: staging}\n")
    check(
        project,
        3,
        "there is no environment `staging` on Modal",
        "run `modal environment create staging`, or change `modal.environment` of the"
        " stack",
    )


def test_a_secret_that_is_not_there(project: Project) -> None:
    project.change("secret: llama-api-key", "secret: other")
    check(
        project,
        4,
        "there is no secret `other` on Modal",
        "run `modal secret create other LLAMA_API_KEY=…`",
    )


def test_a_secret_without_the_key(project: Project) -> None:
    project.cloud.secret(SECRET, {"OTHER": "x"})
    check(
        project,
        4,
        "the Modal secret `llama-api-key` has no key `LLAMA_API_KEY`",
        "run `modal secret create llama-api-key LLAMA_API_KEY=… --force`, with all"
        " other keys of it as well",
    )


def test_a_key_that_gates_could_not_send(project: Project) -> None:
    """The secret is there; here, where the gates run, nothing names the key."""
    done = project.run(
        "apply", "stacks/tiny.yaml", "--yes", env={"LLAMA_API_KEY": None}
    )
    assert (done.code, done.out) == (4, "")
    assert done.err == (
        "error: environment variable `LLAMA_API_KEY` (API key, which gates send) is not"
        " set\n  hint: run `export LLAMA_API_KEY=…`, or write `LLAMA_API_KEY=…` into"
        " `.env` beside the stack\n"
    )
    seen = project.cloud.seen()
    assert (seen["apps"], seen["started"]) == ([], 0)


def test_a_secret_of_the_environment_that_is_not_there(project: Project) -> None:
    project.change("  fit: off\n", "  fit: off\n  env: {X: {secret: hub, env: Y}}\n")
    check(
        project,
        4,
        "there is no secret `hub` on Modal",
        "run `modal secret create hub Y=…`",
    )


def test_an_option_that_the_build_refuses_costs_one_start(ready: Project) -> None:
    """The real llama-server is asked, once, in a function that nobody starts again."""
    ready.change("  fit: off\n", "  fit: off\n  flags: {override-kv: nonsense}\n")
    done = ready.apply(code=1)
    assert "error: llama-server did not start: this build of llama.cpp refuses" in (
        done.err
    )
    assert "`--override-kv`" in done.err
    assert "nothing was deployed" in done.err
    seen = ready.cloud.seen()
    assert seen["started"] == 1
    assert [app["state"] for app in seen["apps"]] == ["APP_STATE_STOPPED"]


def test_a_start_that_fails_does_not_bill_in_a_loop(ready: Project) -> None:
    ready.cloud.faults(unmounted="tiny-candidate")
    done = ready.apply(code=1)
    assert "error: llama-server did not start: " in done.err
    assert "is not on its Volume, or not complete" in done.err
    assert "hint: app `tiny-candidate` was stopped" in done.err
    assert ready.cloud.app("tiny") is None
    candidate = ready.cloud.app("tiny-candidate")
    assert candidate is not None
    assert candidate["state"] == "APP_STATE_STOPPED"
    tries = [
        c for c in ready.cloud.seen()["containers"] if c["app"] == candidate["name"]
    ]
    assert len(tries) <= 8, "one a second of a start that failed"


def test_modal_refuses_a_deployment(ready: Project) -> None:
    refusal = (
        "GPU memory snapshots are not supported for Functions with more than one GPU."
    )
    ready.cloud.faults(refused={"FunctionCreate": refusal})
    done = ready.apply(code=1)
    assert f"error: Modal refuses the run of `tryout`: {refusal[:-1]}" in done.err
    assert ready.cloud.app("tiny") is None


def test_an_image_that_is_not_built(project: Project) -> None:
    project.cloud.faults(failed_layer="cmake")
    done = project.apply(code=1)
    assert "error: an image was not built, the deployment of `builder`: \n" in done.err
    assert "ERROR: No matching distribution found" in done.err


def test_a_log_that_ends_during_an_apply_and_while_it_is_followed(
    ready: Project,
) -> None:
    """Streams end at once, and most reads before they are whole: no line is lost."""
    ready.cloud.faults(log_ends=True, log_cut=0.6)
    ready.apply()
    ready.cloud.faults()
    url, address = str(ready.live()["outputs"]["url"]), "stacks/tiny.yaml"
    with ready.running("logs", address, "-f", "--lines", "5000") as process:
        read_until(process, "llama-server is ready")
        for cut in (0.0, 1.0, 0.5, 0.0):
            ready.cloud.faults(log_cut=cut)
            ready.ask(url)
            ready.cloud.forget()
            wait_until(lambda: ready.cloud.calls().get("AppCountLogs", 0) > 4)
        lines = ready.run("logs", address, "--lines", "5000").out.splitlines()
        assert process.stdout is not None
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read().splitlines()
        assert process.wait() == 0
    at = next(n for n, it in enumerate(lines) if "llama-server is ready" in it)
    assert sorted(rest) == sorted(lines[at + 1 :])


def test_a_volume_that_is_full(project: Project) -> None:
    project.cloud.faults(volume_bytes=4_000_000)
    done = project.apply(code=1)
    assert done.err == (
        "error: the Volume takes no more data, or no more files (500 000): `deployer"
        " store gc --engine modal` removes what no release needs\n"
    )


def test_prices_are_others_by_now(ready: Project) -> None:
    ready.cloud.faults(rates={"cpu": "0.09"})
    told = "Modal's prices now: a core $0.09/h ($0.04716 in the table)"
    assert told in ready.apply().out


def test_the_network_is_cut_and_comes_back(ready: Project) -> None:
    ready.cloud.faults(cut_at="ClassCreate")
    done = ready.apply(code=1)
    assert "error: Modal could not be reached, " in done.err
    assert "running `deployer apply` again carries on" in done.err
    ready.cloud.mend()
    ready.apply()
    assert ready.ask(ready.live()["outputs"]["url"])["model"] == "tiny"


def test_an_apply_that_was_killed_is_carried_on(ready: Project) -> None:
    with ready.running("apply", "stacks/tiny.yaml", "--yes") as process:
        read_until(process, "deploys app `tiny`")
        process.send_signal(signal.SIGKILL)
    done = ready.apply()
    assert "finish promoting release 1" in done.out
    assert ready.live()["outputs"]["url"]
    candidate = ready.cloud.app("tiny-candidate")
    assert candidate is None or candidate["state"] == "APP_STATE_STOPPED"


def test_ctrl_c_cancels_a_build(ready: Project, tmp_path: Path) -> None:
    ready.write(ready.slow_build(tmp_path))
    with ready.running("apply", "stacks/tiny.yaml", "--yes") as process:
        read_until(process, "cmake --build")
        process.send_signal(signal.SIGINT)
        done = finished(process)
    assert done.code == 8, done.err
    assert ready.cloud.calls()["FunctionCallCancel"] == 1
    deadline = time.monotonic() + 20
    while _builds_run(ready) != [False]:  # Modal ends it, and nobody waits for that
        assert time.monotonic() < deadline, "the build goes on"
        threading.Event().wait(0.02)


def _builds_run(ready: Project) -> list[bool]:
    """Whether each container that builds still runs."""
    containers = ready.cloud.seen()["containers"]
    return [it["runs"] for it in containers if it["function"] == "build"]


def test_two_deployers_at_once(ready: Project) -> None:
    """One of them wins, and what it says is live is what serves."""
    other = Project(ready.folder.with_name("other"), ready.cloud, ready.words)
    other.write(STACK.replace("ctx_size: 1024", "ctx_size: 512"))
    command = ("apply", "stacks/tiny.yaml", "--yes")
    with ready.running(*command) as first, other.running(*command) as second:
        codes = [finished(first).code, finished(second).code]
    won = [p for p, code in zip((ready, other), codes, strict=True) if code == 0]
    assert len(won) <= 1
    app = ready.cloud.app("tiny")
    if won:
        assert app is not None
        assert app["tags"]["deployer-server"] == won[0].live()["key"][:16]


def test_a_restore_that_fails_while_it_is_staged_is_counted(ready: Project) -> None:
    """The app ends with 222 and starts without; one of two is not what the gate asks.

    Snapshots that fail more often are the subject of `test_drills.py`.
    """
    ready.change("gates:\n", "gates:\n  restore: {within: 30s, idle: 1s}\n")
    ready.cloud.faults(restores=1)
    done = ready.apply(code=6)
    assert "Snapshot restore failed" in done.out
    assert (
        "✖ restore          fail: 1 of 2 restores succeeded, none may fail" in done.out
    )
    assert ready.cloud.app("tiny") is None


def test_a_snapshot_that_never_comes_up_ends_soon(ready: Project) -> None:
    """Each container crashes as it goes on from what it captured, and is replaced."""
    ready.cloud.faults(capture_failure=1.0)
    done = ready.apply(code=1)
    assert (
        "error: llama-server did not start: 3 containers in a row crashed" in done.err
    )
    assert "app `tiny-candidate` was stopped" in done.err
    captured = done.out.count("Creating GPU memory snapshot")
    assert captured <= 5, "a few starts, and not as many as the limit allows"


def test_a_snapshot_that_cannot_be_restored_is_not_promoted(ready: Project) -> None:
    """Without the gate `restore` as well; `auto` does without the snapshot."""
    ready.cloud.faults(restore_failure=1.0)
    done = ready.apply(code=1)
    assert "error: its snapshot cannot be restored: 3 of 3 restores failed" in done.err
    assert "hint: `snapshot: {enabled: auto}` serves without one" in done.err
    ready.change("enabled: true", "enabled: auto")
    done = ready.apply()
    why = "the snapshot is not used: 3 of 3 restores failed"
    assert f"tiny/server: {why}" in done.out
    history = ready.run("history", "stacks/tiny.yaml").out
    assert "starts  plain start " in history
    assert f"restore not measured; {why}" in history
    ready.cloud.forget()
    plan = ready.run("plan", "stacks/tiny.yaml", "--detailed-exitcode")
    assert plan.code == 0, plan.out
    assert f"restore not measured; {why}" in plan.out
    assert ready.cloud.calls() == {}
    ready.change("enabled: auto", "enabled: true")
    plan = ready.run("plan", "stacks/tiny.yaml", "--detailed-exitcode")
    assert plan.code == 2, plan.out
    assert "snapshot.enabled   auto → true" in plan.out


def test_a_start_that_takes_longer_than_a_request_may(ready: Project) -> None:
    """Modal then answers with a redirect, which has to be followed."""
    ready.cloud.faults(longest_wait=0.2)
    ready.apply()
    assert ready.cloud.seen()["redirects"] > 0


def test_a_key_that_is_rotated_between_candidate_and_production(
    ready: Project,
) -> None:
    """The new version has another key than its gates: what served before serves on."""
    ready.change("enabled: true", "enabled: false")
    live = _awake(ready)
    before = live.live()
    live.change("ctx_size: 1024", "ctx_size: 2048")
    with live.running("apply", "stacks/tiny.yaml", "--yes") as process:
        read_until(process, "→ promote tiny/server")
        live.cloud.secret(SECRET, {"LLAMA_API_KEY": "sk-new"})
        with clients(before["outputs"]["url"]) as counts:
            done = finished(process)
    assert done.code == 6
    assert counts.failed == 0, str(counts)
    assert live.live() == before
    env = {"LLAMA_API_KEY": "sk-new"}
    done = live.run("apply", "stacks/tiny.yaml", "--yes", env=env)
    assert done.code == 0, done.out + done.err
    assert live.live()["key"] != before["key"]


def _awake(project: Project) -> Project:
    """A live stack whose container stays, however long a busy machine takes."""
    project.change("scaledown_window: 2m", "scaledown_window: 1h")
    project.apply()
    return project


def test_a_key_that_was_rotated(ready: Project) -> None:
    """A snapshot holds the key of its time: the app is made anew."""
    live = _awake(ready)
    live.cloud.secret(SECRET, {"LLAMA_API_KEY": "sk-new"})
    env = {"LLAMA_API_KEY": "sk-new"}
    held = live.run("check", "stacks/tiny.yaml", "--gate", "auth", env=env)
    assert held.code == 6
    for words in (("stop",), ("start",), ("check", "--gate", "auth")):
        done = live.run(words[0], "stacks/tiny.yaml", *words[1:], env=env)
        assert done.code == 0, done.out + done.err
